import { isUtf8 } from "node:buffer";
import { createDecipheriv, createHash, createSecretKey, type KeyObject } from "node:crypto";
import type { StoredValue } from "./capabilities.ts";
import { type Place, type RecordContent, recordError } from "./envelope.ts";
import { KeywardError } from "./errors.ts";

/**
 * Something other than an envelope that may lie in a store and be read. A store asks its formats in the order given,
 * plaintext last, and only for what does not begin like an envelope.
 *
 * A format that is not bound to its place cannot tell whether a record was moved before it was read.
 */
export interface ForeignFormat {
  /** What events and reports call it. */
  readonly name?: string;
  /**
   * What the stored value holds; `undefined` when it is not of this format. Throws when it is, and is broken.
   */
  read(stored: StoredValue, place: Place): RecordContent | undefined | Promise<RecordContent | undefined>;
}

/** How {@link plaintext} tells what it may read. */
export interface PlaintextOptions {
  /** Whether a value is one the application wrote; by default, whether it is the JSON that Keyv writes. */
  readonly matches?: (stored: StoredValue) => boolean;
}

/** The layouts that {@link aesGcm} reads, and the encoding around them. */
export interface AesGcmOptions {
  /** 32 bytes, or a string whose SHA-256 is the key, as `@keyv/encrypt-node` has it. */
  readonly key: string | Uint8Array;
  /** How nonce (iv, 12 bytes), tag (16 bytes) and ciphertext follow one another. `@keyv/encrypt-node` writes the first. */
  readonly layout: "iv-tag-ciphertext" | "iv-ciphertext-tag";
  /** Default "base64", with or without padding. */
  readonly encoding?: "base64" | "base64url" | "hex";
}

const ivBytes = 12;
const tagBytes = 16;

// Known by name: an application may have two copies of this package.
const readsPlaintextMark = Symbol.for("keyward.plaintext");

class Plaintext implements ForeignFormat {
  readonly [readsPlaintextMark] = true;
  readonly name = "plaintext";
  readonly #matches: (stored: StoredValue) => boolean;

  constructor(options: PlaintextOptions) {
    this.#matches = options.matches ?? ((stored) => readKeyvJson(stored) !== undefined);
  }

  read(stored: StoredValue): RecordContent | undefined {
    return this.#matches(stored) ? withKeyvExpiry(textOf(stored) ?? stored) : undefined;
  }
}

/**
 * Values that lie in the clear: what Keyv wrote before there was any sealing. They are read, and sealed behind the
 * read. Close the window with `sealNamespace` when the census finds no more of them: while it is open, whoever can
 * write to the store can plant a value.
 */
export function plaintext(options: PlaintextOptions = {}): ForeignFormat {
  return new Plaintext(options);
}

/** Whether a format reads plaintext, which sealed namespaces refuse and which is asked last. */
export function readsPlaintext(format: ForeignFormat): boolean {
  return readsPlaintextMark in format;
}

/**
 * Values sealed with AES-256-GCM under one key, without associated data: what `@keyv/encrypt-node` writes, and most
 * snippets. The format claims every value that decodes, and throws `RECORD_TAMPERED` for one that does not open.
 *
 * @throws KeywardError `KEY_INVALID` for a key that is empty or not 32 bytes.
 */
export function aesGcm(options: AesGcmOptions): ForeignFormat {
  const { layout, encoding = "base64" } = options;
  const key = toSecretKey(options.key);
  const name = `aes-gcm ${layout}`;
  return {
    name,
    read(stored, place) {
      const text = textOf(stored);
      const packed = text === undefined ? undefined : decode(text, encoding);
      if (packed === undefined || packed.length < ivBytes + tagBytes) return undefined;
      const rest = packed.subarray(ivBytes);
      const [tag, ciphertext] =
        layout === "iv-tag-ciphertext"
          ? [rest.subarray(0, tagBytes), rest.subarray(tagBytes)]
          : [rest.subarray(rest.length - tagBytes), rest.subarray(0, rest.length - tagBytes)];
      const decipher = createDecipheriv("aes-256-gcm", key, packed.subarray(0, ivBytes), { authTagLength: tagBytes });
      decipher.setAuthTag(tag);
      const value = decipher.update(ciphertext);
      try {
        decipher.final();
      } catch (cause) {
        throw recordError("RECORD_TAMPERED", place, `of the format "${name}" does not open`, {
          hint: "It was altered, or written under another key or in another layout than accept says.",
          cause,
        });
      }
      return withKeyvExpiry(isUtf8(value) ? value.toString("utf8") : value);
    },
  };
}

function toSecretKey(key: string | Uint8Array): KeyObject {
  if (typeof key === "string" ? key !== "" : key.length === 32) {
    return createSecretKey(typeof key === "string" ? createHash("sha256").update(key).digest() : key);
  }
  throw new KeywardError("KEY_INVALID", "The key of aesGcm is neither 32 bytes nor a non-empty string", {
    hint: "Give it the very key that the values were written with.",
  });
}

function decode(text: string, encoding: "base64" | "base64url" | "hex"): Buffer | undefined {
  const bytes = Buffer.from(text, encoding);
  const written = bytes.toString(encoding);
  const same =
    encoding === "hex" ? written === text.toLowerCase() : written.replace(/=+$/, "") === text.replace(/={1,2}$/, "");
  return same ? bytes : undefined;
}

/** The text that lies in a store; a store of bytes gives it back as bytes. */
function textOf(stored: StoredValue): string | undefined {
  if (typeof stored === "string") return stored;
  return isUtf8(stored) ? Buffer.from(stored).toString("utf8") : undefined;
}

/** A value together with the expiry that Keyv writes into its JSON. */
export function withKeyvExpiry(value: StoredValue): RecordContent {
  const expires = readKeyvJson(value)?.expires;
  return expires === undefined ? { value } : { value, expires };
}

/** Keyv's own JSON: an object of `value` and `expires` and nothing else. */
function readKeyvJson(stored: StoredValue): { readonly expires?: number } | undefined {
  const text = textOf(stored);
  if (text?.startsWith("{") !== true) return undefined;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof parsed !== "object" || parsed === null) return undefined;
  for (const field of Object.keys(parsed)) if (field !== "value" && field !== "expires") return undefined;
  // Without a value it may be anything, an expiry least of all.
  const expires: unknown = "expires" in parsed && "value" in parsed ? parsed.expires : undefined;
  if (expires === undefined || expires === null) return {};
  return typeof expires === "number" ? { expires } : undefined;
}
