import { exportKeyring, Keyring, KeywardError } from "@keyward/core";
import { looksLikeKey } from "./aws-resource.ts";

/** The value of a secret: its text (`SecretString`) or its bytes (`SecretBinary`). */
export type SecretValue = { readonly text: string } | { readonly bytes: Uint8Array };

/**
 * The content that {@link keysIn} finds in a secret: a keyring document, a single key, or a JSON object without the field
 * for the keyring.
 */
export type SecretKeys =
  /** A keyring document. `replacedBy` returns the value of the secret with another keyring in its place. */
  | {
      readonly kind: "document";
      readonly ring: Keyring;
      readonly replacedBy: (next: Keyring) => SecretValue;
    }
  /** A single key, which has no keyring document around it. */
  | { readonly kind: "key"; readonly ring: Keyring }
  /** A JSON object without the field. `with` returns the value of the secret with a keyring in this field. */
  | { readonly kind: "no field"; readonly with: (first: Keyring) => SecretValue };

const keyBytes = 32;

/**
 * Finds the keyring or the key in the value of a secret.
 *
 * @param subject words that name the secret in errors.
 * @param field name of the field that holds the keyring. `undefined` if the keyring is the whole value.
 * @throws KeywardError `KEYRING_INVALID` or `KEY_INVALID` for a value that holds neither a keyring document nor a key.
 */
export function keysIn(value: SecretValue, subject: string, field: string | undefined): SecretKeys {
  if ("bytes" in value && field === undefined && value.bytes.length === keyBytes) {
    return { kind: "key", ring: ringOf(new Uint8Array(value.bytes)) };
  }
  const text = "text" in value ? value.text : textOf(value.bytes, subject, field);
  // The new value has the form of the old value, so that other readers of the secret still find it.
  const inForm = (next: string): SecretValue => ("text" in value ? { text: next } : { bytes: Buffer.from(next) });
  if (field === undefined) return found(text, subject, (next) => inForm(exportKeyring(next)));
  const { content, replacedBy } = fieldIn(text, subject, field);
  const withRing = (ring: Keyring) => inForm(replacedBy(exportKeyring(ring)));
  if (content === undefined) return { kind: "no field", with: withRing };
  return found(content, `${subject}, field ${shown(field)}`, withRing);
}

/**
 * Returns the value of a new secret that holds only a keyring. The keyring is in the JSON field `field`, or is the
 * whole value if `field` is undefined.
 */
export function firstValue(ring: Keyring, field: string | undefined): SecretValue {
  const document = exportKeyring(ring);
  return { text: field === undefined ? document : `{${JSON.stringify(field)}:${JSON.stringify(document)}}` };
}

/** Returns the error for a JSON secret that does not have the field in which the keyring is expected. */
export function withoutField(subject: string, field: string | undefined): KeywardError {
  return new KeywardError("KEYRING_INVALID", `${subject} has no field ${shown(field ?? "")}`, {
    hint: "Check the option `field`, which must be the name of a field of the JSON object in the secret. If the secret held a keyring before, restore an earlier version of the secret, because a new keyring cannot decrypt existing records. If no keyring has existed yet, run `awsKeys(…).create(Keyring.generate())`, which adds the field.",
  });
}

function found(written: string, subject: string, replacedBy: (next: Keyring) => SecretValue): SecretKeys {
  const text = written.trim();
  if (text.startsWith("{")) return { kind: "document", ring: documentIn(text, subject), replacedBy };
  const material = materialIn(text);
  if (material !== undefined) return { kind: "key", ring: ringOf(material) };
  throw new KeywardError(
    "KEYRING_INVALID",
    `${subject}: ${text.length} characters found, which are neither a keyring document nor a key of ${keyBytes} bytes in base64`,
    {
      hint: "Restore an earlier version of the secret, if it held a keyring or a key before. The value must be the text that `exportKeyring` returns, unchanged, or one key as `openssl rand -base64 32` writes it.",
    },
  );
}

function documentIn(text: string, subject: string): Keyring {
  try {
    return Keyring.parse(text);
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    const { code, message, keyId } = error;
    const advice =
      "The value must be the text that `exportKeyring` returns, unchanged. If one field of a JSON secret holds the keyring, set the option `field` to the name of this field.";
    throw new KeywardError(code, `${subject}: ${message}`, { hint: `${error.hint} ${advice}`, keyId });
  }
}

/** Returns the key in a text in base64, base64url or `hex:`, as `envKeys` reads it. Returns `undefined` for any other text. */
function materialIn(text: string): Uint8Array | undefined {
  if (/^hex:[0-9a-f]{64}$/i.test(text)) return unpooled(Buffer.from(text.slice("hex:".length), "hex"));
  if (!/^(?:[A-Za-z0-9+/]{43}|[\w-]{43})=?$/.test(text)) return undefined;
  const bytes = Buffer.from(text, "base64url");
  // Node.js ignores extra bits in the last character, which show that the text was altered or cut.
  const isWhole = bytes.toString("base64url") === text.replace("=", "").replaceAll("+", "-").replaceAll("/", "_");
  const material = unpooled(bytes);
  return isWhole ? material : undefined;
}

/** Copies a key out of the memory pool that all small Buffers share, and clears it there. */
function unpooled(bytes: Buffer): Uint8Array {
  const material = new Uint8Array(bytes);
  bytes.fill(0);
  return material;
}

function ringOf(material: Uint8Array): Keyring {
  return Keyring.fromKeys([{ material }]);
}

function textOf(bytes: Uint8Array, subject: string, field: string | undefined): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new KeywardError(
      "KEYRING_INVALID",
      `${subject} holds ${bytes.length} bytes (SecretBinary), which are neither UTF-8 text nor a key of ${keyBytes} bytes`,
      {
        hint:
          field === undefined
            ? "Restore an earlier version of the secret, if it held a keyring or a key before. The bytes must be a keyring document, or one key of 32 bytes."
            : "Check `secretId`. If the secret holds a key of 32 bytes, remove the option `field`, because bytes have no fields.",
      },
    );
  }
}

/** A field of the JSON object in the text of a secret. */
interface Field {
  /** The text in the field. `undefined` if the object does not have the field. */
  readonly content: string | undefined;
  /** Returns the whole text with another text in the field. Adds the field if the object does not have it. */
  readonly replacedBy: (content: string) => string;
}

/**
 * Finds a field of the JSON object in a text. When the field is replaced, the rest of the text stays the same byte for
 * byte. Parsing and writing the object could change other fields, such as a number with more digits than JavaScript has.
 *
 * @throws KeywardError `KEYRING_INVALID` if the text is not a JSON object, or if the field does not hold text.
 */
function fieldIn(text: string, subject: string, name: string): Field {
  const members = membersIn(text);
  if (members === undefined) {
    throw new KeywardError("KEYRING_INVALID", `${subject} holds no JSON object, so it has no field ${shown(name)}`, {
      hint: "Check `secretId`. If the whole value of the secret is the keyring or the key, remove the option `field`.",
    });
  }
  const put = (start: number, end: number, inserted: string) => text.slice(0, start) + inserted + text.slice(end);
  // If the object has a name twice, JSON.parse and other readers use the last member with this name.
  const member = members.findLast((each) => each.name === name);
  if (member === undefined) {
    const start = text.indexOf("{") + 1;
    const comma = members.length === 0 ? "" : ",";
    const replacedBy = (content: string) =>
      put(start, start, `${JSON.stringify(name)}:${JSON.stringify(content)}${comma}`);
    return { content: undefined, replacedBy };
  }
  const { start, end } = member;
  const content: unknown = JSON.parse(text.slice(start, end));
  if (typeof content !== "string") {
    throw new KeywardError("KEYRING_INVALID", `${subject} has no text in the field ${shown(name)}`, {
      hint: "Check the option `field`. The field must hold the keyring document or the key as a JSON string.",
    });
  }
  return { content, replacedBy: (next) => put(start, end, JSON.stringify(next)) };
}

/** A member of a JSON object: its name, and the position of its value in the text. */
interface Member {
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

/**
 * Returns the members of the JSON object in a text, without the members of inner objects. Returns `undefined` if the text
 * is not a JSON object.
 */
function membersIn(text: string): readonly Member[] | undefined {
  if (!isObject(text)) return undefined;
  const members: Member[] = [];
  let depth = 0;
  let name = "";
  let start: number | undefined;
  let end = 0;
  for (const { 0: token, index } of text.matchAll(/"(?:[^"\\]+|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g)) {
    if (depth === 1 && start !== undefined && (token === "," || token === "}")) {
      members.push({ name, start, end });
      start = undefined;
    } else if (depth === 1 && start === undefined && token.startsWith('"')) {
      name = String(JSON.parse(token));
      start = -1;
    } else if (depth === 1 && start === -1 && token !== ":") {
      start = index;
    }
    if (token === "{" || token === "[") depth++;
    if (token === "}" || token === "]") depth--;
    end = index + token.length;
  }
  return members;
}

function isObject(text: string): boolean {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    // The error of JSON.parse quotes the text, which may hold keys.
    return false;
  }
}

/** Returns the name of a field for an error. Hides a name that may be a key that was passed by mistake. */
function shown(field: string): string {
  return looksLikeKey(field) ? "(name not shown, because it looks like a key)" : JSON.stringify(field);
}
