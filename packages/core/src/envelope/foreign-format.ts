import { createDecipheriv, createHash, createSecretKey, type KeyObject } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireMethods, requireOneOf, requireOptions } from "../errors/options.ts";
import type { StoredValue } from "../store-interface/capabilities.ts";
import { readKeyvJson, textOf } from "../store-interface/keyv-value.ts";
import { type RecordAddress, type RecordContent, recordError } from "../store-interface/record.ts";

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
   *
   * `value` is text or bytes. `expires` is in milliseconds since the epoch, and left out for a record that does not
   * expire. Where it is left out and `value` is Keyv's own JSON, the expiry in that JSON counts. Whatever else a format
   * returns is refused as `RECORD_MALFORMED`.
   */
  read(stored: StoredValue, address: RecordAddress): RecordContent | undefined | Promise<RecordContent | undefined>;
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

const plaintextOptionNames = { matches: true } as const satisfies OptionNames<PlaintextOptions>;
const aesGcmOptionNames = {
  key: true,
  layout: true,
  encoding: true,
} as const satisfies OptionNames<AesGcmOptions>;

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
    const matches: unknown = this.#matches(stored);
    // A promise would say yes to everything.
    if (typeof matches !== "boolean") throw new TypeError("matches() answers neither true nor false");
    if (!matches) return undefined;
    return readKeyvJson(stored) ?? { value: textOf(stored) ?? stored };
  }
}

/**
 * Values that lie in the clear: what Keyv wrote before there was any sealing. They are read, and sealed behind the
 * read. Close the window with `forbidPlaintext` when the census finds no more of them: while it is open, whoever can
 * write to the store can plant a value.
 */
export function plaintext(options: PlaintextOptions = {}): ForeignFormat {
  return new Plaintext(requireOptions("plaintext", options, plaintextOptionNames));
}

/**
 * The formats of the option `accept`.
 *
 * @throws KeywardError `VALUE_INVALID` for what is no list of formats.
 */
export function requireFormats(accept: readonly ForeignFormat[]): readonly ForeignFormat[] {
  const hint = "Put what plaintext() or aesGcm(…) returns, or a format of your own, into a list.";
  if (!Array.isArray(accept)) throw new KeywardError("VALUE_INVALID", "accept is no list of formats", { hint });
  for (const [index, format] of accept.entries()) {
    requireMethods(`accept[${index}]`, format, ["read"], hint);
    if (format.name === undefined || typeof format.name === "string") continue;
    throw new KeywardError("VALUE_INVALID", `The name of accept[${index}] is no text`, {
      hint: "Name it, or leave it out.",
    });
  }
  return accept;
}

/** Whether a format reads plaintext, which sealed namespaces refuse and which is asked last. */
export function readsPlaintext(format: ForeignFormat): boolean {
  return readsPlaintextMark in format;
}

/**
 * Values sealed with AES-256-GCM under one key, without associated data: what `@keyv/encrypt-node` writes, and most
 * snippets. The format claims every value that decodes, and throws `RECORD_TAMPERED` for one that does not open.
 *
 * @throws KeywardError `KEY_INVALID` for a key that is empty or not 32 bytes, `VALUE_INVALID` for a layout or an encoding
 * that there is not.
 */
export function aesGcm(options: AesGcmOptions): ForeignFormat {
  const { layout, encoding = "base64" } = requireOptions("aesGcm", options, aesGcmOptionNames);
  requireOneOf("layout", layout, ["iv-tag-ciphertext", "iv-ciphertext-tag"]);
  requireOneOf("encoding", encoding, ["base64", "base64url", "hex"]);
  const key = toSecretKey(options.key);
  const name = `aes-gcm ${layout}`;
  return {
    name,
    read(stored, address) {
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
        throw recordError("RECORD_TAMPERED", address, `of the format "${name}" does not open`, {
          hint: "It was altered, or written under another key or in another layout than accept says.",
          cause,
        });
      }
      return { value: textOf(value) ?? value };
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

// In milliseconds since the epoch this is 1973: an expiry below is one in seconds, or none at all.
const leastExpires = 1e11;
// In seconds this is 1973.
const leastSeconds = 1e8;

/**
 * What a format read, checked: nothing comes from a format into a store but through here.
 *
 * @param format its name.
 * @returns the record; `undefined` where the format says that the value is not its own.
 * @throws KeywardError `RECORD_MALFORMED` for anything that is neither.
 */
export function requireContent(format: string, read: unknown, address: RecordAddress): RecordContent | undefined {
  if (read === undefined) return undefined;
  if (typeof read !== "object" || read === null || !("value" in read)) {
    throw badResult(format, address, "what the format returned is no record", {
      hint: "Have read() return { value } for a record, and undefined for what is not of the format.",
    });
  }
  const value: unknown = read.value;
  const expires: unknown = "expires" in read ? read.expires : undefined;
  if (!isStorable(value)) {
    throw badResult(format, address, "its value is neither well-formed text nor bytes", {
      hint: "Have read() return the value as a string or a Uint8Array: instead of an object, the JSON that Keyv parses.",
    });
  }
  const inJson = readKeyvJson(value)?.expires;
  const until = expires === undefined ? inJson : expires;
  if (until === undefined) return { value };
  if (isExpiry(until, until === inJson)) return { value, expires: until };
  throw badResult(format, address, "its expiry is not in milliseconds since the epoch", {
    hint:
      "Have read() return `expires` in milliseconds since the epoch: seconds times 1000, or date.getTime(). Leave it out for " +
      "a record that does not expire.",
  });
}

function isStorable(value: unknown): value is StoredValue {
  return typeof value === "string" ? value.isWellFormed() : value instanceof Uint8Array;
}

/** What Keyv wrote means what it means to Keyv, for which all of the past is alike; seconds it never wrote. */
function isExpiry(until: unknown, wroteKeyv: boolean): until is number {
  if (typeof until !== "number" || !Number.isFinite(until)) return false;
  return until >= leastExpires || (wroteKeyv && until < leastSeconds);
}

function badResult(
  format: string,
  address: RecordAddress,
  problem: string,
  { hint }: { readonly hint: string },
): KeywardError {
  return recordError("RECORD_MALFORMED", address, `of the format "${format}" cannot be read: ${problem}`, { hint });
}
