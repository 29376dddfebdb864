import { Buffer, isUtf8 } from "node:buffer";
import { type CipherGCM, createCipheriv, createDecipheriv, timingSafeEqual } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import type { StoredValue } from "../store-interface/capabilities.ts";
import { type RecordAddress, type RecordContent, recordError, type ValueForm } from "../store-interface/record.ts";
import { requireTime } from "../store-interface/store-arguments.ts";
import { commitmentBytes, type RootKey } from "./root-key.ts";
import { nonceBytes, subkeyPrefixBytes } from "./xaes.ts";

// The format is specified in docs/envelope.md; the names here are the names there.

const tagBytes = 16;
// Without it Node would accept a tag cut to 4 bytes.
const wholeTag = { authTagLength: tagBytes };
const bodyOverheadBytes = commitmentBytes + nonceBytes + tagBytes;
const isText = 1;
const hasExpiry = 2;
const isPadded = 4;
const isTextMark = String.fromCharCode(isText);

/** What an envelope says in the clear. */
export interface EnvelopeHeader {
  readonly form: ValueForm;
  readonly keyId: string;
  /** The header as written: "kw1." or "kw1:", the key id, and "." or ":". */
  readonly written: string;
}

/** How to seal. */
export interface SealOptions {
  readonly form: ValueForm;
  /** Pads the plaintext to a multiple of this many bytes. */
  readonly padTo?: number | undefined;
  /** For known answers only: a nonce drawn here instead of at random is a nonce used twice. */
  readonly knownAnswerNonce?: Uint8Array;
}

const headerPattern = /^kw([0-9]+)([.:])/;
const versionOnePattern = /^kw1([.:])([A-Za-z0-9_-]{1,32})\1/;
const longestHeader = 4 + 32 + 1;

/** What the next record most likely begins with, the latest first: to read a header takes longer than to compare it. */
let recentHeaders: readonly EnvelopeHeader[] = [];
const maxRecentHeaders = 4;

function remember(header: EnvelopeHeader): EnvelopeHeader {
  recentHeaders = [header, ...recentHeaders.slice(0, maxRecentHeaders - 1)];
  return header;
}

/** A copy that keeps no record in memory: a piece of a string holds on to all of it. */
function apart(piece: string): string {
  return Buffer.from(piece, "latin1").toString("latin1");
}

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
export function readHeader(stored: StoredValue, address: RecordAddress): EnvelopeHeader | undefined {
  const text = typeof stored === "string";
  const beginning = text ? stored : latin1(stored, longestHeader);
  for (const recent of recentHeaders) {
    // A header ends with its separator: what begins like this one has this one.
    if (beginning.startsWith(recent.written) && !(text && recent.form === "binary")) return recent;
  }
  if (!beginning.startsWith("kw")) return undefined;
  const header = versionOnePattern.exec(text ? stored.slice(0, longestHeader) : beginning);
  const [written, separator, keyId] = header ?? [];
  if (written !== undefined && keyId !== undefined) {
    if (separator === ":" && text) throw malformed(address, "a binary envelope lies in a string", keyId);
    return remember({ form: separator === "." ? "text" : "binary", keyId: apart(keyId), written: apart(written) });
  }
  const anyVersion = headerPattern.exec(
    typeof stored === "string" ? stored : latin1(stored, lengthOfVersion(stored) + 1),
  );
  if (anyVersion === null) return undefined;
  if (anyVersion[1] === "1") throw malformed(address, "its key id is not 1 to 32 of A-Z a-z 0-9 _ -");
  throw recordError("ENVELOPE_UNSUPPORTED", address, `is an envelope of version ${anyVersion[1]?.slice(0, 8)}`, {
    hint: "A later release of Keyward wrote it: update this one.",
  });
}

/** The key that an envelope names; `undefined` for what is none, or has a header that cannot be read. */
export function keyIdIn(stored: StoredValue, address: RecordAddress): string | undefined {
  try {
    return readHeader(stored, address)?.keyId;
  } catch (error) {
    if (error instanceof KeywardError) return undefined;
    throw error;
  }
}

/**
 * Seals a record for its place.
 *
 * @throws KeywardError `VALUE_INVALID` for text that is not well-formed or an expiry that is not a number;
 * {@link requireAddress} has checked the place.
 */
export function seal(
  keyId: string,
  root: RootKey,
  address: RecordAddress,
  content: RecordContent,
  options: SealOptions,
): StoredValue {
  const { value } = content;
  const text = typeof value === "string";
  if (text && !value.isWellFormed()) {
    throw recordError("VALUE_INVALID", address, "would hold text with a lone surrogate", {
      hint: "Encode the value, or store bytes.",
    });
  }
  // A foreign format may have read any number as its expiry.
  return encrypt(
    keyId,
    root,
    address,
    layOutPlaintext(value, requireTime(address.key, content.expires), options.padTo),
    options,
  );
}

/**
 * Seals again what {@link decrypt} opened, under another key and for the same place. It is the same plaintext.
 */
export function sealAgain(
  keyId: string,
  root: RootKey,
  address: RecordAddress,
  { bytes }: Decrypted,
  form: ValueForm,
): StoredValue {
  return encrypt(keyId, root, address, { first: bytes }, { form });
}

function encrypt(
  keyId: string,
  root: RootKey,
  address: RecordAddress,
  { first, rest }: Plaintext,
  options: SealOptions,
): StoredValue {
  const written = options.form === "text" ? `kw1.${keyId}.` : `kw1:${keyId}:`;
  const nonce = Buffer.allocUnsafe(nonceBytes);
  let subkey: ReturnType<RootKey["subkey"]>;
  if (options.knownAnswerNonce === undefined) {
    subkey = root.drawNonce(nonce, 0, mostBytes(first) + (rest === undefined ? 0 : mostBytes(rest)));
  } else {
    nonce.set(options.knownAnswerNonce);
    subkey = root.subkey(nonce, 0);
  }
  const cipher = createCipheriv("aes-256-gcm", subkey, nonce.subarray(subkeyPrefixBytes), wholeTag);
  const beginning = beginningOf(written, address.namespace);
  cipher.setAAD(associatedData(beginning, address.key));
  const ciphertext = update(cipher, first);
  const further = rest === undefined ? undefined : update(cipher, rest);
  cipher.final();
  // What was laid out here may be in Node's pool, which the `buffer` of any small Buffer shows.
  if (typeof first !== "string") first.fill(0);
  const tag = cipher.getAuthTag();
  const body =
    further === undefined
      ? [root.commitment, nonce, ciphertext, tag]
      : [root.commitment, nonce, ciphertext, further, tag];
  return options.form === "text"
    ? written + Buffer.concat(body).toString("base64url")
    : binaryEnvelope(beginning.header, body);
}

/** In memory of its own: a store may pass it on together with its `buffer`, to a worker for one. */
function binaryEnvelope(header: Buffer, body: readonly Uint8Array[]): Buffer {
  let length = header.length;
  for (const piece of body) length += piece.length;
  const envelope = Buffer.allocUnsafeSlow(length);
  envelope.set(header);
  let at = header.length;
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
export function open(
  stored: StoredValue,
  header: EnvelopeHeader,
  root: RootKey,
  address: RecordAddress,
): RecordContent {
  return readPlaintext(decryptBytes(stored, header, root, address), address, header.keyId);
}

/** The plaintext of a record whose value nobody asks for. */
export interface Decrypted {
  readonly bytes: Buffer;
  /** As {@link RecordContent.expires}. */
  readonly expires: number | undefined;
  /** Whether it may be encrypted as it is where nothing is padded. */
  readonly padded: boolean;
}

/**
 * As {@link open}, with all its checks, where the value is not looked at: to decode a text and encode it again takes as
 * long as to decrypt it.
 *
 * @throws KeywardError as {@link open}.
 */
export function decrypt(stored: StoredValue, header: EnvelopeHeader, root: RootKey, address: RecordAddress): Decrypted {
  const bytes = decryptBytes(stored, header, root, address);
  const { flags, valueAt, valueEnd, expires } = readLayout(bytes, address, header.keyId);
  // The flags alone are ASCII.
  const value = valueAt === 1 && valueEnd === bytes.length ? bytes : bytes.subarray(valueAt, valueEnd);
  if (flags & isText && !isUtf8(value)) throw notUtf8(address, header.keyId);
  return { bytes, expires, padded: (flags & isPadded) !== 0 };
}

function decryptBytes(stored: StoredValue, header: EnvelopeHeader, root: RootKey, address: RecordAddress): Buffer {
  const { keyId, written } = header;
  const body = readBody(stored, header, address);
  if (body.length < bodyOverheadBytes + 1) throw malformed(address, "it is cut short", keyId);
  if (!timingSafeEqual(body.subarray(0, commitmentBytes), root.commitment)) {
    throw recordError("KEY_MISMATCH", address, `was sealed under other material than key "${keyId}" holds here`, {
      keyId,
      hint: "Give every key an id of its own, and find the material this id had; or the record was altered.",
    });
  }
  const tagAt = body.length - tagBytes;
  const nonceAt = commitmentBytes;
  const ciphertextAt = nonceAt + nonceBytes;
  const iv = body.subarray(nonceAt + subkeyPrefixBytes, ciphertextAt);
  const decipher = createDecipheriv("aes-256-gcm", root.subkey(body, nonceAt), iv, wholeTag);
  decipher.setAAD(associatedData(beginningOf(written, address.namespace), address.key));
  decipher.setAuthTag(body.subarray(tagAt));
  const plain = decipher.update(body.subarray(ciphertextAt, tagAt));
  try {
    decipher.final();
  } catch (cause) {
    throw recordError("RECORD_TAMPERED", address, `does not open under key "${keyId}"`, {
      keyId,
      hint: "It was altered, or moved here from another key, namespace or scope. Restore it or delete it.",
      cause,
    });
  }
  return plain;
}

function malformed(address: RecordAddress, problem: string, keyId?: string): KeywardError {
  return recordError("RECORD_MALFORMED", address, `is a broken envelope: ${problem}`, {
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

function readBody(stored: StoredValue, { form, written, keyId }: EnvelopeHeader, address: RecordAddress): Buffer {
  if (form === "binary") {
    if (typeof stored === "string") throw malformed(address, "a binary envelope lies in a string", keyId);
    return asBuffer(stored).subarray(written.length);
  }
  const text = typeof stored === "string" ? stored : latin1(stored, stored.length);
  const encoded = text.slice(written.length);
  const body = Buffer.from(encoded, "base64url");
  if (!isCanonical(encoded, body)) throw malformed(address, "its body is not canonical base64url", keyId);
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

/** What is encrypted, in one or two pieces. */
interface Plaintext {
  readonly first: StoredValue;
  readonly rest?: StoredValue;
}

/** flags(1) ‖ [expires u48be] ‖ [length u32be] ‖ value ‖ zero padding. */
function layOutPlaintext(value: StoredValue, expires: number | undefined, padTo: number | undefined): Plaintext {
  const text = typeof value === "string";
  // A long value is a piece of its own, which is never copied. For a short one, one more call of the cipher costs more.
  const apart = padTo === undefined && value.length > longValue;
  // The flags alone are a character before the text, which the cipher takes as it is.
  if (text && !apart && expires === undefined && padTo === undefined) return { first: isTextMark + value };
  const valueBytes = apart ? 0 : text ? Buffer.byteLength(value) : value.length;
  const valueAt = 1 + (expires === undefined ? 0 : 6) + (padTo === undefined ? 0 : 4);
  const length = valueAt + valueBytes;
  const plain = Buffer.allocUnsafe(padTo === undefined ? length : Math.ceil(length / padTo) * padTo);
  plain[0] = (text ? isText : 0) | (expires === undefined ? 0 : hasExpiry) | (padTo === undefined ? 0 : isPadded);
  if (expires !== undefined) plain.writeUIntBE(expires, 1, 6);
  if (padTo !== undefined) plain.writeUInt32BE(valueBytes, valueAt - 4);
  if (apart) return { first: plain, rest: value };
  if (text) plain.write(value, valueAt, "utf8");
  else plain.set(value, valueAt);
  if (plain.length > length) plain.fill(0, length);
  return { first: plain };
}

function update(cipher: CipherGCM, piece: StoredValue): Buffer {
  return typeof piece === "string" ? cipher.update(piece, "utf8") : cipher.update(piece);
}

/** No fewer bytes than will be encrypted: counting those of a long text takes longer than encrypting a short one. */
function mostBytes(piece: StoredValue): number {
  return typeof piece === "string" ? 3 * piece.length : piece.length;
}

function readPlaintext(plain: Buffer, address: RecordAddress, keyId: string): RecordContent {
  const { flags, valueAt, valueEnd, expires } = readLayout(plain, address, keyId);
  const value = flags & isText ? readText(plain, valueAt, valueEnd, address, keyId) : plain.subarray(valueAt, valueEnd);
  return expires === undefined ? { value } : { value, expires };
}

/** Where what lies in a plaintext. */
interface PlaintextLayout {
  readonly flags: number;
  readonly valueAt: number;
  readonly valueEnd: number;
  readonly expires: number | undefined;
}

function readLayout(plain: Buffer, address: RecordAddress, keyId: string): PlaintextLayout {
  const flags = plain[0] ?? 0;
  if (flags > (isText | hasExpiry | isPadded)) throw malformed(address, "it has flags of a later release", keyId);
  const expiresAt = 1;
  const lengthAt = expiresAt + (flags & hasExpiry ? 6 : 0);
  const valueAt = lengthAt + (flags & isPadded ? 4 : 0);
  let valueEnd = plain.length;
  if (valueEnd < valueAt) throw malformed(address, "it is cut short", keyId);
  if (flags & isPadded) {
    valueEnd = valueAt + plain.readUInt32BE(lengthAt);
    if (valueEnd > plain.length || !plain.subarray(valueEnd).every((byte) => byte === 0)) {
      throw malformed(address, "its padding is not what it says", keyId);
    }
  }
  return { flags, valueAt, valueEnd, expires: flags & hasExpiry ? plain.readUIntBE(expiresAt, 6) : undefined };
}

function readText(plain: Buffer, from: number, to: number, address: RecordAddress, keyId: string): string {
  const text = plain.toString("utf8", from, to);
  // Where bytes are not UTF-8 this stands in their place, and hardly ever in a text that was written.
  if (text.includes("\ufffd") && !isUtf8(plain.subarray(from, to))) throw notUtf8(address, keyId);
  return text;
}

function notUtf8(address: RecordAddress, keyId: string): KeywardError {
  return malformed(address, "its text is not UTF-8", keyId);
}

/** What the associated data of many records begins with: LE64(3), then length and bytes of the header and of the namespace. */
interface Beginning {
  readonly written: string;
  readonly namespace: string;
  readonly bytes: Buffer;
  /** The header in it. */
  readonly header: Buffer;
}

/** The latest first. To seal again takes two in turns: that of the key it was under, and that of the next. */
let recentBeginnings: readonly Beginning[] = [];

function beginningOf(written: string, namespace: string): Beginning {
  for (const recent of recentBeginnings) {
    if (recent.written === written && recent.namespace === namespace) return recent;
  }
  const namespaceBytes = Buffer.byteLength(namespace);
  const bytes = Buffer.alloc(24 + written.length + namespaceBytes);
  writeLE64(bytes, 3, 0);
  const headerAt = writeLE64(bytes, written.length, 8);
  const headerEnd = headerAt + bytes.write(written, headerAt, "latin1");
  bytes.write(namespace, writeLE64(bytes, namespaceBytes, headerEnd), "utf8");
  const beginning = { written, namespace, bytes, header: bytes.subarray(headerAt, headerEnd) };
  recentBeginnings = [beginning, ...recentBeginnings.slice(0, maxRecentHeaders - 1)];
  return beginning;
}

/**
 * PAE(header as written, namespace, key): LE64 of the count, then LE64 of the length and the piece, each.
 *
 * Source: PASETO, Pre-Authentication Encoding,
 * https://github.com/paseto-standard/paseto-spec/blob/master/docs/01-Protocol-Versions/Common.md
 */
function associatedData({ bytes }: Beginning, key: string): Buffer {
  const keyBytes = Buffer.byteLength(key);
  const data = Buffer.allocUnsafe(bytes.length + 8 + keyBytes);
  data.set(bytes);
  data.write(key, writeLE64(data, keyBytes, bytes.length), "utf8");
  return data;
}

/** PASETO clears the top bit of each length; lengths here stay far below it. */
function writeLE64(data: Buffer, length: number, at: number): number {
  data.writeUInt32LE(length, at);
  return data.writeUInt32LE(0, at + 4);
}
