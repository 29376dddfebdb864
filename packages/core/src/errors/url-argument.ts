import { KeywardError } from "./errors.ts";

/** The requirements that {@link requireUrl} checks a URL against. */
export interface UrlRules {
  /** The allowed schemes, each with its colon, such as `https:`. */
  readonly protocols: readonly string[];
  /** An example of an allowed URL, which the hint of the error shows, such as `rediss://user:password@host:6379/0`. */
  readonly form: string;
  /**
   * If true, a URL with a user, a password, a query or a fragment is refused. Default: false, which allows a user, a
   * password and a query.
   */
  readonly addressOnly?: boolean;
}

/**
 * Checks a URL that may contain a credential, and returns it parsed. The error of this function contains no part of the
 * URL. The error that `new URL()` throws would contain the whole URL, in its property `input`.
 *
 * If a user or password contains `/`, `?` or `#` without percent-encoding, a URL parser treats the beginning of the
 * credential as the host. Such a URL is refused even if it can be parsed.
 *
 * @param name the subject of the error message, such as `The URL of Redis`.
 * @throws KeywardError `VALUE_INVALID` if the value is not a URL, if its scheme is not one of `protocols`, if its user
 * or password is not percent-encoded, or if `addressOnly` is true and it has a user, a password, a query or a fragment.
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
    : `Write the URL as ${form}. Encode the user and the password with encodeURIComponent: in a URL, each of / ? # @ and ` +
      "% must be percent-encoded there.";
  if (url === undefined) throw new KeywardError("VALUE_INVALID", `${name} is not a valid URL`, { hint });
  if (!protocols.includes(url.protocol)) {
    throw new KeywardError("VALUE_INVALID", `${name} does not begin with ${protocols.join(" or ")}`, { hint });
  }
  if (addressOnly && /[@?#]/.test(url.href)) {
    const problem = "must be only the address of a server, but has a user, a password, a query or a fragment";
    throw new KeywardError("VALUE_INVALID", `${name} ${problem}`, { hint });
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
