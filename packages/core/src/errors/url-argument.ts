import { KeywardError } from "./errors.ts";

/** What {@link requireUrl} is told about the URL. */
export interface UrlRules {
  /** The schemes that are allowed, with their colon, such as `https:`. */
  readonly protocols: readonly string[];
  /** What the URL should look like, for the hint, such as `rediss://user:password@host:6379/0`. */
  readonly form: string;
  /** Whether the URL says only where a server is: a user, a password, a query and a fragment are refused. Default false. */
  readonly addressOnly?: boolean;
}

/**
 * Checks a URL that may hold a credential. The errors of `URL` carry what they were given, in their property `input`; the
 * error of this function holds nothing of the URL.
 *
 * A user or password with `/`, `?` or `#` in it, not percent-encoded, ends the host in the middle of the credential: such
 * a URL is refused, even where it parses.
 *
 * @param name what the URL is, as the caller knows it, such as `The URL of Redis`.
 * @throws KeywardError `VALUE_INVALID` for what is no URL, has another scheme, holds a credential that is not encoded, or
 * holds more than an address where only that is allowed.
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
    ? `Write it as ${form}, without quotes, a user, a query or a fragment.`
    : `Write it as ${form}. Encode the user and the password with encodeURIComponent: none of / ? # @ % may stand in ` +
      "them as it is.";
  if (url === undefined) throw new KeywardError("VALUE_INVALID", `${name} is not a URL that can be read`, { hint });
  if (!protocols.includes(url.protocol)) {
    throw new KeywardError("VALUE_INVALID", `${name} does not begin with ${protocols.join(" or ")}`, { hint });
  }
  if (addressOnly && /[@?#]/.test(url.href)) {
    throw new KeywardError("VALUE_INVALID", `${name} holds more than the address of a server`, { hint });
  }
  const afterHost = `${url.pathname}${url.search}${url.hash}`;
  if (afterHost.includes("@") || url.hash !== "" || !isDecodable(url.username) || !isDecodable(url.password)) {
    throw new KeywardError("VALUE_INVALID", `${name} holds a user or a password that is not percent-encoded`, { hint });
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
