import { createCipheriv, createDecipheriv, randomBytes, type ScryptOptions, scrypt } from "node:crypto";
import { promisify } from "node:util";
import { KeywardError } from "@keyward/core";

// docs/keyring.md ("Backups") specifies the document.

const algorithm = "aes-256-gcm";
const [keyBytes, saltBytes, nonceBytes, tagBytes] = [32, 16, 12, 16];
/** The cost of a guess: scrypt with these parameters takes 128 MiB and about half a second. */
const cost = { N: 2 ** 17, r: 8, p: 1 } as const;
/** The range of each parameter that is accepted from a file. The largest values take 1 GiB. */
const bounds = { N: [2 ** 14, 2 ** 20], r: [1, 8], p: [1, 4] } as const;

const deriveKey = promisify<string, Buffer, number, ScryptOptions, Buffer>(scrypt);

/** The fields of an encrypted backup from which the encryption key and the associated data are computed. */
interface Header {
  readonly N: number;
  readonly r: number;
  readonly p: number;
  readonly salt: Buffer;
  readonly nonce: Buffer;
}

/** Returns whether a text is JSON with the field that marks an encrypted backup. */
export function isEncryptedBackup(text: string): boolean {
  return Object.hasOwn(fieldsOf(text), "keyward-backup");
}

/** Encrypts a keyring document under a passphrase, and returns the document of the encrypted backup. */
export async function encryptBackup(document: string, passphrase: string): Promise<string> {
  const header: Header = { ...cost, salt: randomBytes(saltBytes), nonce: randomBytes(nonceBytes) };
  const key = await keyFor(passphrase, header);
  try {
    const cipher = createCipheriv(algorithm, key, header.nonce).setAAD(associatedData(header));
    const encrypted = [cipher.update(document, "utf8"), cipher.final()];
    const ciphertext = Buffer.concat([...encrypted, cipher.getAuthTag()]).toString("base64url");
    const { N, r, p } = header;
    const [salt, nonce] = [header.salt.toString("base64url"), header.nonce.toString("base64url")];
    const fields = { "keyward-backup": 1, kdf: "scrypt", N, r, p, salt, cipher: algorithm, nonce, ciphertext };
    return JSON.stringify(fields, null, 2);
  } finally {
    key.fill(0);
  }
}

/**
 * Decrypts an encrypted backup, and returns the keyring document. Returns `undefined` if the passphrase is wrong, and also
 * if the text was altered, because the two look the same.
 *
 * @throws KeywardError `KEYRING_INVALID` if the text is not a document of an encrypted backup, or has a field that is out
 * of range.
 */
export async function decryptBackup(text: string, passphrase: string): Promise<string | undefined> {
  const fields = fieldsOf(text);
  const header = readHeader(fields);
  const ciphertext = readBytes(fields, "ciphertext");
  if (ciphertext.length <= tagBytes) throw invalidBackup('its field "ciphertext" is too short');
  const key = await keyFor(passphrase, header);
  try {
    const decipher = createDecipheriv(algorithm, key, header.nonce, { authTagLength: tagBytes })
      .setAAD(associatedData(header))
      .setAuthTag(ciphertext.subarray(-tagBytes));
    const decrypted = decipher.update(ciphertext.subarray(0, -tagBytes));
    try {
      decipher.final();
      return decrypted.toString();
    } catch {
      return undefined;
    } finally {
      decrypted.fill(0);
    }
  } finally {
    key.fill(0);
  }
}

async function keyFor(passphrase: string, { N, r, p, salt }: Header): Promise<Buffer> {
  // The same passphrase may be typed in another form on another machine.
  return await deriveKey(passphrase.normalize("NFC"), salt, keyBytes, { N, r, p, maxmem: 256 * (N + p) * r });
}

function associatedData({ N, r, p, salt, nonce }: Header): Buffer {
  const encoded = [salt.toString("base64url"), algorithm, nonce.toString("base64url")];
  return Buffer.from(["keyward-backup", 1, "scrypt", N, r, p, ...encoded].join(":"));
}

type Fields = Readonly<Record<string, unknown>>;

/** Returns the fields of a JSON object. Returns an empty object for any other text. */
function fieldsOf(text: string): Fields {
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === "object" && parsed !== null ? Object.fromEntries(Object.entries(parsed)) : {};
  } catch {
    return {};
  }
}

function readHeader(fields: Fields): Header {
  if (fields["keyward-backup"] !== 1) {
    throw invalidBackup('its field "keyward-backup" is not 1, the only version that this release reads');
  }
  if (fields["kdf"] !== "scrypt") throw invalidBackup('its field "kdf" is not "scrypt"');
  if (fields["cipher"] !== algorithm) throw invalidBackup(`its field "cipher" is not "${algorithm}"`);
  const header = {
    N: readParameter(fields, "N"),
    r: readParameter(fields, "r"),
    p: readParameter(fields, "p"),
    salt: readBytes(fields, "salt", saltBytes),
    nonce: readBytes(fields, "nonce", nonceBytes),
  };
  if (!Number.isInteger(Math.log2(header.N))) throw invalidBackup('its field "N" is not a power of two');
  return header;
}

function readParameter(fields: Fields, name: "N" | "r" | "p"): number {
  const value = fields[name];
  const [least, most] = bounds[name];
  if (typeof value === "number" && Number.isInteger(value) && value >= least && value <= most) return value;
  throw invalidBackup(`its field "${name}" is not an integer between ${least} and ${most}`);
}

function readBytes(fields: Fields, name: string, length?: number): Buffer {
  const text = fields[name];
  const bytes = Buffer.from(typeof text === "string" ? text : "", "base64url");
  if (bytes.toString("base64url") === text && (length === undefined || bytes.length === length)) return bytes;
  throw invalidBackup(
    `its field "${name}" is not ${length === undefined ? "" : `${length} bytes in `}base64url without padding`,
  );
}

function invalidBackup(problem: string): KeywardError {
  return new KeywardError("KEYRING_INVALID", `The encrypted backup is not valid: ${problem}`, {
    hint: "Use another copy of the backup. If a later release of Keyward wrote the backup, update Keyward.",
  });
}
