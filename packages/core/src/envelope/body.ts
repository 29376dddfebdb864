import type { RecordAddress } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { asBuffer } from "../store-interface/stored-bytes.ts";
import { binaryInString, type EnvelopeHeader } from "./header.ts";
import { malformedEnvelope } from "./malformed-envelope.ts";
import { commitmentBytes } from "./root-key.ts";
import { nonceBytes } from "./xaes.ts";

/** Length of a tag in bytes. */
export const tagBytes = 16;
/** Length of the shortest body, whose plaintext has one byte. */
const shortestBodyBytes = commitmentBytes + nonceBytes + 1 + tagBytes;

const aboveLatin1 = /[\u0100-\uffff]/;
/**
 * The characters with which a base64url text can end if its last character encodes only 2 bits, or only 4 bits. The
 * unused bits of these characters are 0.
 */
const lastCharacters = ["AQgw", "AEIMQUYcgkosw048"];

/**
 * Decodes the body of an envelope, which is everything after the header.
 *
 * @throws KeywardError `RECORD_MALFORMED` if an envelope in text form has a body that is not canonical base64url, if an
 * envelope in binary form is stored as a string, or if the body is shorter than the body of an empty record.
 */
export function readBody(stored: StoredValue, header: EnvelopeHeader, address: RecordAddress): Buffer {
  const body = bodyOf(stored, header, address);
  if (body.length < shortestBodyBytes) throw malformedEnvelope(address, "it is cut short", header.keyId);
  return body;
}

function bodyOf(stored: StoredValue, { form, written, keyId }: EnvelopeHeader, address: RecordAddress): Buffer {
  if (form === "binary") {
    if (typeof stored === "string") throw binaryInString(address, keyId);
    return asBuffer(stored).subarray(written.length);
  }
  const text = typeof stored === "string" ? stored : asBuffer(stored).toString("latin1");
  const encoded = text.slice(written.length);
  const body = Buffer.from(encoded, "base64url");
  if (!isCanonical(encoded, body)) throw malformedEnvelope(address, "its body is not canonical base64url", keyId);
  return body;
}

/**
 * Returns whether `encoded` is canonical base64url. `body` contains the bytes that Node decoded from `encoded`. To
 * encode `body` again and compare the texts would take as long as to decrypt the record.
 */
function isCanonical(encoded: string, body: Buffer): boolean {
  const leftOver = body.length % 3;
  return (
    // Node skips characters outside the alphabet and stops at padding, so fewer bytes come out than the length implies.
    encoded.length === Math.ceil((body.length * 4) / 3) &&
    // Node accepts "+/" for "-_", and reads a character above U+00FF as its lower eight bits.
    !encoded.includes("+") &&
    !encoded.includes("/") &&
    !aboveLatin1.test(encoded) &&
    (leftOver === 0 || (lastCharacters[leftOver - 1] ?? "").includes(encoded.charAt(encoded.length - 1)))
  );
}

/**
 * Joins the header and the pieces of the body into a binary envelope. The envelope is outside Node's shared pool,
 * because a store may pass on the whole `ArrayBuffer` behind the envelope, for example to a worker.
 */
export function joinBinary(header: Buffer, body: readonly Uint8Array[]): Buffer {
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
