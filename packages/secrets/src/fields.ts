import { z } from "zod";

export { isRefusedHeader } from "./header-rules.ts";

// The bounds of everything that a caller may send. The admin API publishes these schemas in its OpenAPI document.

const slugPattern = /^[a-z0-9]+(?:-[a-z0-9]+)*$/;
// Letters, marks, numbers, punctuation, symbols and single spaces: no control characters, and no characters that change
// the direction of text or have no width.
const shownText = /^[\p{L}\p{M}\p{N}\p{P}\p{S}]+(?: [\p{L}\p{M}\p{N}\p{P}\p{S}]+)*$/u;
// Characters that are not shown at all would make two labels look alike.
const hiddenCharacter = /\p{Default_Ignorable_Code_Point}/u;
// RFC 9110, section 5.6.2. The functions that check a change refuse `*`, which older records may have.
const headerPattern = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;

/** The largest number of secrets of one server. */
export const maxSecretsOfServer = 100;
/** The largest number of headers in each of the two lists of a server's settings. */
export const maxHeadersOfServer = 20;
/** The smallest and the largest length of a secret's value, in bytes of UTF-8. */
export const valueBytes = { least: 8, most: 8_192 } as const;
/** A value with fewer bytes is marked as weak, because it could be guessed. */
export const weakBelowBytes = 16;

/** The rules of fields, each of which completes the sentence "The field must be …". */
export const fieldRules = {
  slug: "1 to 32 lower-case letters and digits, with single hyphens inside",
  id: "an id of 12 lower-case letters and digits",
  callId: "the id of a call, which has 12 to 64 letters, digits, `_` and `-`",
  owner: "1 to 100 printable characters, without a space at either end",
  secretName: "1 to 128 letters, digits, `_`, `-` and `.`, beginning with a letter or `_`",
  header: "the name of an HTTP header, of at most 128 letters, digits and the signs !#$%&'+.^_`|~-",
  tool: "1 to 128 visible ASCII characters",
  method: "`GET`, `HEAD`, `POST`, `PUT`, `PATCH` or `DELETE`",
  template: "7 to 256 printable ASCII characters",
  time: "a time in milliseconds since the epoch",
} as const;

/** Returns the rule that a secret's value breaks, which completes the sentence "The value must be …"; `undefined` for none. */
export function brokenValueRule(given: unknown): string | undefined {
  const { least, most } = valueBytes;
  if (typeof given !== "string" || !given.isWellFormed()) return "a text";
  const bytes = given.length > most ? most + 1 : Buffer.byteLength(given);
  if (bytes < least || bytes > most) return `${least} to ${most.toLocaleString("en")} bytes long`;
  if (/[\p{Cc}]/u.test(given)) return "a text without control characters, such as the end of a line";
  return given === given.trim() ? undefined : "a text without white space at either end";
}

/** The rule of every text that is listed or recorded. {@link hasToken} tells whether a text breaks the rule. */
export const withoutToken = "a text without a token of this service";

/** The least length of a text that has a token, or most of one. */
const tokenLength = 41;
const wholeToken = /kwt_[a-z0-9]{7,12}_[a-z0-9]{12}_[a-z0-9]{16}/i;
/** The ids and the random part of a token, without what is before them, and with other signs between them. */
const bareToken = /(?:service|[a-z0-9]{12})[_-][a-z0-9]{12}[_-][a-z0-9]{43}/i;

/**
 * Returns whether a text contains a token of the service, or most of one. Without the checksum, a token is as good as whole,
 * because the checksum can be computed. Also finds a token in lower case, as the name of a host has it, without its beginning,
 * percent-encoded, with spaces, or in characters that look alike.
 */
export function hasToken(text: string): boolean {
  if (text.length < tokenLength) return false;
  const plain = text
    .normalize("NFKC")
    .replaceAll(/%([0-7][0-9a-f])/gi, (_, digits: string) => String.fromCharCode(Number.parseInt(digits, 16)))
    .replaceAll(/\s+/g, "");
  return wholeToken.test(plain) || bareToken.test(plain);
}

/** Returns whether the name of a secret and its value seem to be swapped. The name is shown and recorded. */
export function isSwapped(name: string, value: string): boolean {
  const isLikeName = /^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$/.test(value);
  const isLikeValue = name.length >= 16 && /[a-z]/.test(name) && /\d/.test(name);
  return isLikeName && isLikeValue;
}

/** The name of a server or a workspace: 1 to 32 lower-case letters and digits, with single hyphens inside. */
export const slugField = z.string().min(1).max(32).regex(slugPattern, fieldRules.slug);
/** A random id of 12 lower-case letters and digits. */
export const idField = z.string().regex(/^[a-z0-9]{12}$/, fieldRules.id);
/** The label of a token, such as the name of a person or a program. The same label has one form: NFC of Unicode. */
export const ownerField = z
  .string()
  .normalize("NFC")
  .min(1)
  .max(100)
  .regex(shownText, fieldRules.owner)
  .refine((owner) => !hiddenCharacter.test(owner), fieldRules.owner);
/** The name of a secret: 1 to 128 letters, digits, `_`, `-` and `.`, beginning with a letter or `_`. */
export const secretNameField = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[A-Za-z_][A-Za-z0-9_.-]*$/, fieldRules.secretName);
/** The name of an HTTP header. {@link requireRule} refuses the headers that the gateway sets itself. */
export const headerField = z.string().min(1).max(128).regex(headerPattern, fieldRules.header);
/** The names of headers that a server's settings list. `requireHeaders` refuses those that may not pass the gateway. */
export const headersField = z.array(headerField).max(maxHeadersOfServer);
/** The URL of a server, as text. `requireServerUrl` checks its parts. */
export const urlField = z.string().min(1).max(2_048);
/** The kind of a server: an MCP server, or any other HTTP API. */
export const kindField = z.enum(["mcp", "http"]);
/** A role. See {@link Role}. */
export const roleField = z.enum(["member", "auditor", "admin", "operator"]);
/** A time, in milliseconds since the epoch. */
export const timeField = z.int().min(0).max(8_640_000_000_000_000);
/** The revision of a record: a number that grows with each change. */
export const revisionField = z.int().min(0);
/** The name of a tool that a token may call. */
export const toolField = z
  .string()
  .min(1)
  .max(128)
  .regex(/^[\x21-\x7e]+$/, fieldRules.tool);
/** An HTTP method that a token may use. */
export const methodField = z.enum(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]);

/** How a value enters the request to its server. See {@link InjectionRule}. */
export const ruleField = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("header"), header: headerField }),
  z.strictObject({ kind: z.literal("bearer") }),
  z.strictObject({ kind: z.literal("basic") }),
  z.strictObject({
    kind: z.literal("template"),
    header: headerField,
    /** Printable ASCII that contains `{value}` exactly once. */
    template: z
      .string()
      .min(7)
      .max(256)
      .regex(/^[\x20-\x7e]*$/, fieldRules.template),
  }),
]);
