import { invalidField, requireNoToken } from "../field-checks.ts";
import { urlField } from "../fields.ts";

/**
 * Checks the URL of a server, and returns the URL in its normal form, without a slash at the end.
 *
 * @throws SecretsError `FIELD_INVALID` for a URL that is not absolute, has another scheme than `https` or `http`, a user,
 * a password, a query or a fragment, or is longer than 2,048 characters.
 */
export function requireServerUrl(given: unknown): string {
  requireNoToken("url", given);
  const text = urlField.safeParse(given);
  if (!text.success || !URL.canParse(text.data) || /[\p{Cc}\s\\]/u.test(text.data)) {
    throw invalidField("url", "an absolute URL of at most 2,048 characters, such as `https://mcp.example.com/mcp`");
  }
  const url = new URL(text.data);
  if (url.protocol !== "https:" && url.protocol !== "http:")
    throw invalidField("url", "a URL that begins with `https://` or `http://`");
  if (url.username !== "" || url.password !== "") {
    throw invalidField(
      "url",
      "a URL without a user and a password. Set them as a secret with the rule `basic` instead",
    );
  }
  if (text.data.includes("?") || text.data.includes("#"))
    throw invalidField("url", "a URL without a query and a fragment");
  if (url.href.length > 2_048) throw invalidField("url", "a URL of at most 2,048 characters");
  return url.href.replace(/\/$/, "");
}

/**
 * Checks an origin that a caller expects, and returns the origin.
 *
 * @throws SecretsError `FIELD_INVALID` for a text that is not an origin, such as a URL with a path.
 */
export function requireOrigin(given: unknown): string {
  const text = urlField.safeParse(given);
  if (text.success && URL.canParse(text.data) && originOf(text.data) === text.data) return text.data;
  throw invalidField("expectedOrigin", "an origin: scheme, host and port, such as `https://mcp.example.com`");
}

/** Returns the origin of the URL of a server: scheme, host and port. A value may be sent to this origin only. */
export function originOf(url: string): string {
  return new URL(url).origin;
}
