import { Buffer } from "node:buffer";
import { type CipherGCM, createCipheriv, createDecipheriv, timingSafeEqual } from "node:crypto";
import { type RecordAddress, type RecordContent, recordError, type ValueForm } from "../store-interface/record.ts";
import { requireTime } from "../store-interface/store-arguments.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { associatedData, associatedDataPrefix } from "./associated-data.ts";
import { joinBinary, readBody, tagBytes } from "./body.ts";
import { type EnvelopeHeader, writeHeader } from "./header.ts";
import { checkPlaintext, type Decrypted, layOutPlaintext, type Plaintext, readPlaintext } from "./plaintext-layout.ts";
import { commitmentBytes, type RootKey } from "./root-key.ts";
import { nonceBytes, subkeyPrefixBytes } from "./xaes.ts";

export { type EnvelopeHeader, keyIdIn, readHeader } from "./header.ts";

// The format is specified in docs/envelope.md; the names here are the names there. Other folders read and write
// envelopes only through this module, so only this folder knows the bytes of a version.

// Without authTagLength, Node would accept a tag that was cut to 4 bytes.
const wholeTag = { authTagLength: tagBytes };

/** Options of {@link seal}. */
export interface SealOptions {
  readonly form: ValueForm;
  /** The plaintext is padded to a multiple of this number of bytes. Default: no padding. */
  readonly padTo?: number | undefined;
  /** A fixed nonce, for known-answer tests only, because no nonce may be used twice. Default: a random nonce. */
  readonly knownAnswerNonce?: Uint8Array;
}

/**
 * Encrypts the value and the expiry of a record for the record's address. The caller has checked the address with
 * {@link requireAddress}.
 *
 * @throws KeywardError `VALUE_INVALID` if the value is text that is not well-formed, or the expiry is not a number.
 */
export function seal(
  keyId: string,
  root: RootKey,
  address: RecordAddress,
  content: RecordContent,
  options: SealOptions,
): StoredValue {
  const { value } = content;
  if (typeof value === "string" && !value.isWellFormed()) {
    throw recordError("VALUE_INVALID", address, "cannot be encrypted, because its value contains a lone surrogate", {
      hint: "A lone surrogate has no UTF-8 encoding. Encode the value as well-formed text, for example as base64url, or store it as bytes.",
    });
  }
  // A foreign format may have returned any number as the expiry.
  const expires = requireTime(address.key, content.expires);
  return encrypt(keyId, root, address, layOutPlaintext(value, expires, options.padTo), options);
}

/** Encrypts a record that {@link decrypt} has decrypted: under the key `keyId`, for the same address. */
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
  const written = writeHeader(options.form, keyId);
  const nonce = Buffer.allocUnsafe(nonceBytes);
  let subkey: ReturnType<RootKey["subkey"]>;
  if (options.knownAnswerNonce === undefined) {
    subkey = root.drawNonce(nonce, 0, maxBytesOf(first) + (rest === undefined ? 0 : maxBytesOf(rest)));
  } else {
    nonce.set(options.knownAnswerNonce);
    subkey = root.subkey(nonce, 0);
  }
  const cipher = createCipheriv("aes-256-gcm", subkey, nonce.subarray(subkeyPrefixBytes), wholeTag);
  const prefix = associatedDataPrefix(written, address.namespace);
  cipher.setAAD(associatedData(prefix, address.key));
  const ciphertext = update(cipher, first);
  const further = rest === undefined ? undefined : update(cipher, rest);
  cipher.final();
  // A small plaintext is in Node's shared pool, which the `buffer` of any other small Buffer exposes.
  if (typeof first !== "string") first.fill(0);
  const tag = cipher.getAuthTag();
  const body =
    further === undefined
      ? [root.commitment, nonce, ciphertext, tag]
      : [root.commitment, nonce, ciphertext, further, tag];
  return options.form === "text"
    ? written + Buffer.concat(body).toString("base64url")
    : joinBinary(prefix.header, body);
}

/**
 * Decrypts an envelope.
 *
 * @param header the header of the envelope, which {@link readHeader} returned.
 * @param root the root (the key material) of the key that the header names.
 * @throws KeywardError
 * - `RECORD_MALFORMED` if the envelope is cut off or garbled;
 * - `KEY_MISMATCH` if `root` is not the root that encrypted the record;
 * - `RECORD_TAMPERED` if the record was altered, or was moved from another address.
 */
export function open(
  stored: StoredValue,
  header: EnvelopeHeader,
  root: RootKey,
  address: RecordAddress,
): RecordContent {
  return readPlaintext(decryptBytes(stored, header, root, address), address, header.keyId);
}

/**
 * Decrypts an envelope like {@link open}, with the same checks, but does not decode the value. For re-encryption: to
 * decode a text and encode it again would take as long as to decrypt the record.
 *
 * @throws KeywardError with the codes of {@link open}.
 */
export function decrypt(stored: StoredValue, header: EnvelopeHeader, root: RootKey, address: RecordAddress): Decrypted {
  return checkPlaintext(decryptBytes(stored, header, root, address), address, header.keyId);
}

function decryptBytes(stored: StoredValue, header: EnvelopeHeader, root: RootKey, address: RecordAddress): Buffer {
  const { keyId, written } = header;
  const body = readBody(stored, header, address);
  if (!timingSafeEqual(body.subarray(0, commitmentBytes), root.commitment)) {
    throw recordError(
      "KEY_MISMATCH",
      address,
      `was encrypted with other key material than key "${keyId}" has in this process`,
      {
        keyId,
        hint:
          `Use the keyring in which key "${keyId}" has the material that the record was written with. If the store has the option ` +
          "`scope`, check that `scope` selects the scope in which the record was written. If neither helps, the record was altered: " +
          "restore it from a backup. To prevent this error, never give two keys the same id.",
      },
    );
  }
  const tagAt = body.length - tagBytes;
  const nonceAt = commitmentBytes;
  const ciphertextAt = nonceAt + nonceBytes;
  const iv = body.subarray(nonceAt + subkeyPrefixBytes, ciphertextAt);
  const decipher = createDecipheriv("aes-256-gcm", root.subkey(body, nonceAt), iv, wholeTag);
  decipher.setAAD(associatedData(associatedDataPrefix(written, address.namespace), address.key));
  decipher.setAuthTag(body.subarray(tagAt));
  const plain = decipher.update(body.subarray(ciphertextAt, tagAt));
  try {
    decipher.final();
  } catch (cause) {
    throw recordError("RECORD_TAMPERED", address, `cannot be decrypted under key "${keyId}"`, {
      keyId,
      hint:
        "The record was altered, or copied here from another record's key, namespace or scope. Restore it from a backup, or " +
        "delete it.",
      cause,
    });
  }
  return plain;
}

function update(cipher: CipherGCM, piece: StoredValue): Buffer {
  return typeof piece === "string" ? cipher.update(piece, "utf8") : cipher.update(piece);
}

/**
 * Returns an upper bound of the size of a piece in bytes. The bytes of a text are not counted exactly, because counting
 * takes longer than encrypting a short text.
 */
function maxBytesOf(piece: StoredValue): number {
  return typeof piece === "string" ? 3 * piece.length : piece.length;
}
