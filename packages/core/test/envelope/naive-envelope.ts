import { createCipheriv, createDecipheriv, createHmac } from "node:crypto";

// A second implementation of docs/envelope.md. It is slow, caches nothing and shares no code with packages/core/src.
// Tests compare the two.

/** The key and the address of a record, named as in docs/envelope.md. */
export interface NaiveRecord {
  readonly root: Uint8Array;
  readonly keyId: string;
  readonly namespace: string;
  readonly key: string;
}

export type NaiveForm = "text" | "binary";

export interface NaiveContent {
  readonly value: string | Uint8Array;
  readonly expires?: number;
}

/** The error that a failed check throws. Its message is the error code for this check in docs/envelope.md. */
export class NaiveRefusal extends Error {}

const bytes = (text: string): Buffer => Buffer.from(text, "utf8");
const hmac = (key: Uint8Array, data: Uint8Array): Buffer => createHmac("sha256", key).update(data).digest();

function hkdf32(root: Uint8Array, info: Uint8Array): Buffer {
  return hmac(hmac(Buffer.alloc(32), root), Buffer.concat([info, Buffer.of(1)]));
}

export const commitmentOf = (root: Uint8Array): Buffer => hkdf32(root, bytes("keyward/v1 commit"));
export const scopedRoot = (root: Uint8Array, name: string): Buffer => hkdf32(root, bytes(`keyward/v1 scope\0${name}`));

function encryptBlock(key: Uint8Array, block: Uint8Array): Buffer {
  const cipher = createCipheriv("aes-256-ecb", key, null).setAutoPadding(false);
  return Buffer.concat([cipher.update(block), cipher.final()]);
}

/** Derives the AES-256-GCM key for a 24-byte nonce, as XAES-256-GCM does. */
export function subkeyOf(key: Uint8Array, nonce: Uint8Array): Buffer {
  const l = BigInt(`0x${encryptBlock(key, Buffer.alloc(16)).toString("hex")}`);
  const k1 = BigInt.asUintN(128, l << 1n) ^ (l >> 127n === 1n ? 0x87n : 0n);
  const halves = [1, 2].map((counter) => {
    const message = Buffer.concat([Buffer.of(0, counter, 0x58, 0), nonce.subarray(0, 12)]);
    const mixed = BigInt(`0x${message.toString("hex")}`) ^ k1;
    return encryptBlock(key, Buffer.from(mixed.toString(16).padStart(32, "0"), "hex"));
  });
  return Buffer.concat(halves);
}

export function pae(...pieces: readonly Uint8Array[]): Buffer {
  const le64 = (count: number): Buffer => {
    const encoded = Buffer.alloc(8);
    encoded.writeBigUInt64LE(BigInt(count));
    return encoded;
  };
  return Buffer.concat([le64(pieces.length), ...pieces.flatMap((piece) => [le64(piece.length), piece])]);
}

export function xaesSeal(key: Uint8Array, nonce: Uint8Array, plain: Uint8Array, data: Uint8Array): Buffer {
  const cipher = createCipheriv("aes-256-gcm", subkeyOf(key, nonce), nonce.subarray(12), { authTagLength: 16 });
  cipher.setAAD(data);
  return Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
}

export const sealingKey = (root: Uint8Array): Buffer => hkdf32(root, bytes("keyward/v1 seal"));

export function layOut({ value, expires }: NaiveContent, padTo?: number): Buffer {
  const content = typeof value === "string" ? bytes(value) : value;
  const pieces: Uint8Array[] = [
    Buffer.of((typeof value === "string" ? 1 : 0) + (expires === undefined ? 0 : 2) + (padTo === undefined ? 0 : 4)),
  ];
  if (expires !== undefined) pieces.push(Buffer.from(expires.toString(16).padStart(12, "0"), "hex"));
  if (padTo !== undefined) pieces.push(Buffer.from(content.length.toString(16).padStart(8, "0"), "hex"));
  pieces.push(content);
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const missing = padTo === undefined ? 0 : (padTo - (length % padTo)) % padTo;
  return Buffer.concat([...pieces, Buffer.alloc(missing)]);
}

export const headerOf = (keyId: string, form: NaiveForm): string =>
  form === "text" ? `kw1.${keyId}.` : `kw1:${keyId}:`;

/** Returns an envelope around any plaintext, even if the plaintext is broken. */
export function sealPlain(record: NaiveRecord, form: NaiveForm, nonce: Uint8Array, plain: Uint8Array): string | Buffer {
  const header = headerOf(record.keyId, form);
  const data = pae(bytes(header), bytes(record.namespace), bytes(record.key));
  const body = Buffer.concat([commitmentOf(record.root), nonce, xaesSeal(sealingKey(record.root), nonce, plain, data)]);
  return form === "text" ? header + body.toString("base64url") : Buffer.concat([bytes(header), body]);
}

function decodeCanonically(encoded: string): Buffer {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const digits = [...encoded].map((character) => alphabet.indexOf(character));
  if (digits.includes(-1) || digits.length % 4 === 1) throw new NaiveRefusal("RECORD_MALFORMED");
  const bits = digits.map((digit) => digit.toString(2).padStart(6, "0")).join("");
  const whole = bits.length - (bits.length % 8);
  if (bits.slice(whole).includes("1")) throw new NaiveRefusal("RECORD_MALFORMED");
  return Buffer.from((bits.slice(0, whole).match(/.{8}/g) ?? []).map((octet) => Number.parseInt(octet, 2)));
}

/**
 * Decrypts a stored value with a keyring of one enabled key. Throws {@link NaiveRefusal} with the error code as its
 * message.
 */
export function openNaively(stored: string | Uint8Array, { root, keyId, namespace, key }: NaiveRecord): NaiveContent {
  const text = typeof stored === "string" ? stored : Buffer.from(stored).toString("latin1");
  const version = /^kw([0-9]+)[.:]/.exec(text)?.[1];
  if (version === undefined) throw new NaiveRefusal("RECORD_NOT_SEALED");
  if (version !== "1") throw new NaiveRefusal("ENVELOPE_UNSUPPORTED");
  const separator = text.charAt(3);
  const end = text.indexOf(separator, 4);
  const id = text.slice(4, end);
  if (end < 0 || id.length < 1 || id.length > 32 || /[^\w-]/.test(id)) throw new NaiveRefusal("RECORD_MALFORMED");
  if (separator === ":" && typeof stored === "string") throw new NaiveRefusal("RECORD_MALFORMED");
  if (id !== keyId) throw new NaiveRefusal("KEY_UNKNOWN");
  const rest = text.slice(end + 1);
  const body = separator === "." ? decodeCanonically(rest) : Buffer.from(rest, "latin1");
  if (body.length < 73) throw new NaiveRefusal("RECORD_MALFORMED");
  if (!body.subarray(0, 32).equals(commitmentOf(root))) throw new NaiveRefusal("KEY_MISMATCH");

  const nonce = body.subarray(32, 56);
  const decipher = createDecipheriv("aes-256-gcm", subkeyOf(sealingKey(root), nonce), nonce.subarray(12), {
    authTagLength: 16,
  });
  decipher.setAAD(pae(bytes(text.slice(0, end + 1)), bytes(namespace), bytes(key)));
  decipher.setAuthTag(body.subarray(-16));
  let plain: Buffer = decipher.update(body.subarray(56, -16));
  try {
    decipher.final();
  } catch {
    throw new NaiveRefusal("RECORD_TAMPERED");
  }

  const take = (count: number): Buffer => {
    if (plain.length < count) throw new NaiveRefusal("RECORD_MALFORMED");
    const taken = plain.subarray(0, count);
    plain = plain.subarray(count);
    return taken;
  };
  const flags = take(1).readUInt8();
  if (flags > 7) throw new NaiveRefusal("RECORD_MALFORMED");
  const expiry = flags & 2 ? { expires: take(6).readUIntBE(0, 6) } : {};
  let value: Buffer = plain;
  if (flags & 4) {
    const length = take(4).readUInt32BE();
    value = take(length);
    if (plain.some((octet) => octet !== 0)) throw new NaiveRefusal("RECORD_MALFORMED");
  }
  if ((flags & 1) === 0) return { value, ...expiry };
  try {
    return { value: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(value), ...expiry };
  } catch {
    throw new NaiveRefusal("RECORD_MALFORMED");
  }
}
