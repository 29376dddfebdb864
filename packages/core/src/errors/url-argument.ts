import { KeywardError } from "./errors.ts";

/** The rules by which {@link requireUrl} checks a URL. */
export interface UrlRules {
  /** The allowed schemes, with their colon, such as `https:`. */
  readonly protocols: readonly string[];
  /** An example of a good URL, for the hint, such as `rediss://user:password@host:6379/0`. */
  readonly form: string;
  /**
   * Refuses a URL that is more than the address of a server: one with a user, a password, a query or a fragment.
   * Default: false.
   */
  readonly addressOnly?: boolean;
}

/**
 * Checks a URL that may contain a credential, and returns it parsed. The error of this function contains no part of the
 * URL, unlike the error of `URL`, which carries its argument in the property `input`.
 *
 * A user or password that contains `/`, `?` or `#` without percent-encoding ends the host in the middle of the
 * credential. Such a URL is refused even if it parses.
 *
 * @param name the subject of the error message, such as `The URL of Redis`.
 * @throws KeywardError `VALUE_INVALID` for a value that is not a URL, for another scheme, for a credential that is not
 * percent-encoded, and with `addressOnly` for more than an address.
 * @example
 * const url = requireUrl("The URL of Redis", given, { protocols: ["redis:", "rediss:"], form: "redis://host:6379" });
 */
export function requireUrl(
  name: string,
  given: string | URL | undefined,
  { protocols, form, addressOnly = false }: UrlRules,
): URL {
  const text = given instanceof URL ? given.href : given;
  const url = typeof text === "string" && URL.canParse(text) ? new URL(text) : undefined;
  const hint = addressOnly
    ? `Write the URL as ${form}, without quotes, a user, a query or a fragment.`
    : `Write the URL as ${form}. Encode the user and the password with encodeURIComponent, because they may not contain ` +
      "/ ? # @ or % as they are.";
  if (url === undefined) throw new KeywardError("VALUE_INVALID", `${name} is not a valid URL`, { hint });
  if (!protocols.includes(url.protocol)) {
    throw new KeywardError("VALUE_INVALID", `${name} does not begin with ${protocols.join(" or ")}`, { hint });
  }
  if (addressOnly && /[@?#]/.test(url.href)) {
    throw new KeywardError("VALUE_INVALID", `${name} contains more than the address of a server`, { hint });
  }
  const afterHost = `${url.pathname}${url.search}${url.hash}`;
  if (afterHost.includes("@") || url.hash !== "" || !isDecodable(url.username) || !isDecodable(url.password)) {
    throw new KeywardError("VALUE_INVALID", `${name} contains a user or a password that is not percent-encoded`, {
      hint,
    });
  }
  return url;
}

function isDecodable(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}
