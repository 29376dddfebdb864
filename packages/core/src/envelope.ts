import { Buffer, isUtf8 } from "node:buffer";
import { createCipheriv, createDecipheriv, timingSafeEqual } from "node:crypto";
import type { StoredValue } from "./capabilities.ts";
import { KeywardError, type KeywardErrorCode } from "./errors.ts";
import { commitmentBytes, type RootKey } from "./root-key.ts";
import { requireTime } from "./store-arguments.ts";
import { nonceBytes, subkeyPrefixBytes } from "./xaes.ts";

// The format is specified in docs/envelope.md; the names here are the names there.

const tagBytes = 16;
const bodyOverheadBytes = commitmentBytes + nonceBytes + tagBytes;
const isText = 1;
const hasExpiry = 2;
const isPadded = 4;

/** Where a record lies. The envelope is bound to it. */
export interface Place {
  /** "" where there is none. */
  readonly namespace: string;
  /** The key in that namespace. */
  readonly key: string;
}

/** What an envelope holds. */
export interface RecordContent {
  /** Text or bytes, as they were handed over. */
  readonly value: StoredValue;
  /** Milliseconds since the epoch; the record is absent from then on. */
  readonly expires?: number;
}

/** The form an envelope is written in: text for stores of strings, binary for stores of bytes. */
export type EnvelopeForm = "text" | "binary";

/** What an envelope says in the clear. */
export interface EnvelopeHeader {
  readonly form: EnvelopeForm;
  readonly keyId: string;
  /** The header as written: "kw1." or "kw1:", the key id, and "." or ":". */
  readonly written: string;
}

/** How to seal. */
export interface SealOptions {
  readonly form: EnvelopeForm;
  /** Pads the plaintext to a multiple of this many bytes. */
  readonly padTo?: number | undefined;
  /** For known answers only: a nonce drawn here instead of at random is a nonce used twice. */
  readonly knownAnswerNonce?: Uint8Array;
}

const headerPattern = /^kw([0-9]+)([.:])/;
const versionOnePattern = /^kw1([.:])([A-Za-z0-9_-]{1,32})\1/;
const longestHeader = 4 + 32 + 1;

/** In UTF-16 units or bytes. */
const longValue = 4096;

const aboveLatin1 = /[\u0100-\uffff]/;
/** What a last character may be that stands for the last 2 or 4 bits of the body: the rest of its 6 bits is 0. */
const lastCharacters = ["AQgw", "AEIMQUYcgkosw048"];

/**
 * Reads what an envelope says in the clear; `undefined` when the value does not begin like an envelope of any version.
 *
 * @throws KeywardError `ENVELOPE_UNSUPPORTED` for another version, `RECORD_MALFORMED` for a broken header.
 */
export function readHeader(stored: StoredValue, place: Place): EnvelopeHeader | undefined {
  const beginning = typeof stored === "string" ? stored.slice(0, longestHeader) : latin1(stored, longestHeader);
  if (!beginning.startsWith("kw")) return undefined;
  const header = versionOnePattern.exec(beginning);
  const [written, separator, keyId] = header ?? [];
  if (written !== undefined && keyId !== undefined) {
    if (separator === ":" && typeof stored === "string") {
      throw malformed(place, "a binary envelope lies in a string", keyId);
    }
    return { form: separator === "." ? "text" : "binary", keyId, written };
  }
  const anyVersion = headerPattern.exec(
    typeof stored === "string" ? stored : latin1(stored, lengthOfVersion(stored) + 1),
  );
  if (anyVersion === null) return undefined;
  if (anyVersion[1] === "1") throw malformed(place, "its key id is not 1 to 32 of A-Z a-z 0-9 _ -");
  throw recordError("ENVELOPE_UNSUPPORTED", place, `is an envelope of version ${anyVersion[1]?.slice(0, 8)}`, {
    hint: "A later release of Keyward wrote it: update this one.",
  });
}

/** The key that an envelope names; `undefined` for what is none, or has a header that cannot be read. */
export function keyIdIn(stored: StoredValue, place: Place): string | undefined {
  try {
    return readHeader(stored, place)?.keyId;
  } catch (error) {
    if (error instanceof KeywardError) return undefined;
    throw error;
  }
}

/**
 * Seals a record for its place.
 *
 * @throws KeywardError `VALUE_INVALID` for text that is not well-formed or an expiry that is not a number;
 * {@link requirePlace} has checked the place.
 */
export function seal(
  keyId: string,
  root: RootKey,
  place: Place,
  content: RecordContent,
  options: SealOptions,
): StoredValue {
  const { value } = content;
  const text = typeof value === "string";
  if (text && !value.isWellFormed()) {
    throw recordError("VALUE_INVALID", place, "would hold text with a lone surrogate", {
      hint: "Encode the value, or store bytes.",
    });
  }
  const written = options.form === "text" ? `kw1.${keyId}.` : `kw1:${keyId}:`;
  // A foreign format may have read any number as its expiry.
  const plain = layOutPlaintext(value, requireTime(place.key, content.expires), options.padTo);
  const nonce = Buffer.allocUnsafe(nonceBytes);
  let subkey: ReturnType<RootKey["subkey"]>;
  if (options.knownAnswerNonce === undefined) {
    subkey = root.drawNonce(nonce, 0, mostBytes(plain));
  } else {
    nonce.set(options.knownAnswerNonce);
    subkey = root.subkey(nonce.subarray(0, subkeyPrefixBytes));
  }
  const cipher = createCipheriv("aes-256-gcm", subkey, nonce.subarray(subkeyPrefixBytes), { authTagLength: tagBytes });
  cipher.setAAD(associatedData(written, place));
  const ciphertext = plain.map((piece) =>
    typeof piece === "string" ? cipher.update(piece, "utf8") : cipher.update(piece),
  );
  cipher.final();
  // What was laid out here may be in Node's pool, which the `buffer` of any small Buffer shows.
  for (const piece of plain) if (piece !== value && typeof piece !== "string") piece.fill(0);
  const body = [root.commitment, nonce, ...ciphertext, cipher.getAuthTag()];
  return options.form === "text" ? written + Buffer.concat(body).toString("base64url") : binaryEnvelope(written, body);
}

/** In memory of its own: a store may pass it on together with its `buffer`, to a worker for one. */
function binaryEnvelope(written: string, body: readonly Uint8Array[]): Buffer {
  const envelope = Buffer.allocUnsafeSlow(body.reduce((length, piece) => length + piece.length, written.length));
  let at = envelope.write(written, "latin1");
  for (const piece of body) {
    envelope.set(piece, at);
    at += piece.length;
  }
  return envelope;
}

/**
 * Opens an envelope whose header was read, under the root that its key id names.
 *
 * @throws KeywardError `RECORD_MALFORMED`, `KEY_MISMATCH` when the id names other material than it was sealed under,
 * `RECORD_TAMPERED` when the record was altered or lies elsewhere than where it was sealed.
 */
export function open(stored: StoredValue, header: EnvelopeHeader, root: RootKey, place: Place): RecordContent {
  const { keyId, written } = header;
  const body = readBody(stored, header, place);
  if (body.length < bodyOverheadBytes + 1) throw malformed(place, "it is cut short", keyId);
  if (!timingSafeEqual(body.subarray(0, commitmentBytes), root.commitment)) {
    throw recordError("KEY_MISMATCH", place, `was sealed under other material than key "${keyId}" holds here`, {
      keyId,
      hint: "Give every key an id of its own, and find the material this id had; or the record was altered.",
    });
  }
  const tagAt = body.length - tagBytes;
  const nonceAt = commitmentBytes;
  const ciphertextAt = nonceAt + nonceBytes;
  const subkey = root.subkey(body.subarray(nonceAt, nonceAt + subkeyPrefixBytes));
  // Without authTagLength Node would accept a tag cut to 4 bytes.
  const decipher = createDecipheriv("aes-256-gcm", subkey, body.subarray(nonceAt + subkeyPrefixBytes, ciphertextAt), {
    authTagLength: tagBytes,
  });
  decipher.setAAD(associatedData(written, place));
  decipher.setAuthTag(body.subarray(tagAt));
  const plain = decipher.update(body.subarray(ciphertextAt, tagAt));
  try {
    decipher.final();
  } catch (cause) {
    throw recordError("RECORD_TAMPERED", place, `does not open under key "${keyId}"`, {
      keyId,
      hint: "It was altered, or moved here from another key, namespace or scope. Restore it or delete it.",
      cause,
    });
  }
  return readPlaintext(plain, place, keyId);
}

/**
 * Refuses a place that has no one encoding.
 *
 * @throws KeywardError `VALUE_INVALID`.
 */
export function requirePlace(namespace: string, key: string): Place {
  if (typeof key === "string" && typeof namespace === "string" && key.isWellFormed() && namespace.isWellFormed()) {
    return { namespace, key };
  }
  throw new KeywardError("VALUE_INVALID", "A key or namespace is not a well-formed string", {
    namespace,
    key,
    hint: "Keys and namespaces are strings without lone surrogates: encode what is not text.",
  });
}

/** Whether a record whose expiry this is has ceased to be. */
export function hasExpired(expires: number | undefined, nowMs: number = Date.now()): boolean {
  return expires !== undefined && nowMs >= expires;
}

/** An error about one record, which names its place in properties and not in the message. */
export function recordError(
  code: KeywardErrorCode,
  place: Place,
  problem: string,
  details: { readonly hint: string; readonly keyId?: string; readonly cause?: unknown },
): KeywardError {
  return new KeywardError(code, `A record ${problem}`, { ...details, ...place });
}

function malformed(place: Place, problem: string, keyId?: string): KeywardError {
  return recordError("RECORD_MALFORMED", place, `is a broken envelope: ${problem}`, {
    hint: "It was cut or altered on its way. Restore it or delete it.",
    ...(keyId === undefined ? {} : { keyId }),
  });
}

function latin1(bytes: Uint8Array, length: number): string {
  return asBuffer(bytes).toString("latin1", 0, length);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** The length of "kw" and the digits after it. */
function lengthOfVersion(bytes: Uint8Array): number {
  let length = 2;
  for (let byte = bytes[length]; byte !== undefined && byte >= 0x30 && byte <= 0x39; byte = bytes[length]) length++;
  return length;
}

function readBody(stored: StoredValue, { form, written, keyId }: EnvelopeHeader, place: Place): Buffer {
  if (form === "binary") {
    if (typeof stored === "string") throw malformed(place, "a binary envelope lies in a string", keyId);
    return asBuffer(stored).subarray(written.length);
  }
  const text = typeof stored === "string" ? stored : latin1(stored, stored.length);
  const encoded = text.slice(written.length);
  const body = Buffer.from(encoded, "base64url");
  if (!isCanonical(encoded, body)) throw malformed(place, "its body is not canonical base64url", keyId);
  return body;
}

/** Whether Node, which decoded `encoded` to `body`, would write it like that. Writing it would take as long as decrypting. */
function isCanonical(encoded: string, body: Buffer): boolean {
  const leftOver = body.length % 3;
  return (
    // Node skips what is not in the alphabet and ends at padding: then fewer bytes come out than the length stands for.
    encoded.length === Math.ceil((body.length * 4) / 3) &&
    // It takes "+/" for "-_", and what lies above U+00FF for its lower eight bits.
    !encoded.includes("+") &&
    !encoded.includes("/") &&
    !aboveLatin1.test(encoded) &&
    (leftOver === 0 || (lastCharacters[leftOver - 1] ?? "").includes(encoded.charAt(encoded.length - 1)))
  );
}

/** flags(1) ‖ [expires u48be] ‖ [length u32be] ‖ value ‖ zero padding, in one or two pieces. */
function layOutPlaintext(
  value: StoredValue,
  expires: number | undefined,
  padTo: number | undefined,
): readonly StoredValue[] {
  const text = typeof value === "string";
  // A long value is a piece of its own, which is never copied. For a short one, one more call of the cipher costs more.
  const apart = padTo === undefined && value.length > longValue;
  const valueBytes = apart ? 0 : text ? Buffer.byteLength(value) : value.length;
  const valueAt = 1 + (expires === undefined ? 0 : 6) + (padTo === undefined ? 0 : 4);
  const length = valueAt + valueBytes;
  const plain = Buffer.allocUnsafe(padTo === undefined ? length : Math.ceil(length / padTo) * padTo);
  plain[0] = (text ? isText : 0) | (expires === undefined ? 0 : hasExpiry) | (padTo === undefined ? 0 : isPadded);
  if (expires !== undefined) plain.writeUIntBE(expires, 1, 6);
  if (padTo !== undefined) plain.writeUInt32BE(valueBytes, valueAt - 4);
  if (apart) return [plain, value];
  if (text) plain.write(value, valueAt, "utf8");
  else plain.set(value, valueAt);
  if (plain.length > length) plain.fill(0, length);
  return [plain];
}

/** No fewer bytes than will be encrypted: counting those of a long text takes longer than encrypting a short one. */
function mostBytes(pieces: readonly StoredValue[]): number {
  return pieces.reduce((sum, piece) => sum + (typeof piece === "string" ? 3 * piece.length : piece.length), 0);
}

function readPlaintext(plain: Buffer, place: Place, keyId: string): RecordContent {
  const flags = plain[0] ?? 0;
  if (flags > (isText | hasExpiry | isPadded)) throw malformed(place, "it has flags of a later release", keyId);
  const expiresAt = 1;
  const lengthAt = expiresAt + (flags & hasExpiry ? 6 : 0);
  const valueAt = lengthAt + (flags & isPadded ? 4 : 0);
  if (plain.length < valueAt) throw malformed(place, "it is cut short", keyId);
  let value = plain.subarray(valueAt);
  if (flags & isPadded) {
    const length = plain.readUInt32BE(lengthAt);
    if (length > value.length || !value.subarray(length).every((byte) => byte === 0)) {
      throw malformed(place, "its padding is not what it says", keyId);
    }
    value = value.subarray(0, length);
  }
  if (flags & isText && !isUtf8(value)) throw malformed(place, "its text is not UTF-8", keyId);
  const content = { value: flags & isText ? value.toString("utf8") : value };
  return flags & hasExpiry ? { ...content, expires: plain.readUIntBE(expiresAt, 6) } : content;
}

/**
 * PAE(header as written, namespace, key): LE64 of the count, then LE64 of the length and the piece, each.
 *
 * Source: PASETO, Pre-Authentication Encoding,
 * https://github.com/paseto-standard/paseto-spec/blob/master/docs/01-Protocol-Versions/Common.md
 */
function associatedData(written: string, { namespace, key }: Place): Buffer {
  const namespaceBytes = Buffer.byteLength(namespace);
  const keyBytes = Buffer.byteLength(key);
  const data = Buffer.allocUnsafe(32 + written.length + namespaceBytes + keyBytes);
  writeLE64(data, 3, 0);
  let at = writeLE64(data, written.length, 8);
  at += data.write(written, at, "latin1");
  at = writeLE64(data, namespaceBytes, at);
  at += data.write(namespace, at, "utf8");
  at = writeLE64(data, keyBytes, at);
  data.write(key, at, "utf8");
  return data;
}

/** PASETO clears the top bit of each length; lengths here stay far below it. */
function writeLE64(data: Buffer, length: number, at: number): number {
  data.writeUInt32LE(length, at);
  return data.writeUInt32LE(0, at + 4);
}
