import { decrypt, open, seal, sealAgain } from "../envelope/envelope.ts";
import { type ForeignFormat, mayBeEncrypted, readsPlaintext, requireContent } from "../envelope/foreign-format.ts";
import { type EnvelopeHeader, readHeader } from "../envelope/header.ts";
import { KeywardError } from "../errors/errors.ts";
import type { RingKey } from "../keyring/key.ts";
import { type Keyring, keyOf } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import {
  hasExpired,
  type RecordAddress,
  type RecordContent,
  recordError,
  type ValueForm,
} from "../store-interface/record.ts";
import { isStoredValue, type StoredValue } from "../store-interface/store-capabilities.ts";
import { DecryptedRecords } from "./decrypted-records.ts";
import { RecordScopes } from "./record-scopes.ts";

/** The content of a record that was decrypted, or that was read in a foreign format (written without Keyward). */
export type OpenedRecord = {
  readonly content: RecordContent;
  /** True if the record needs no re-encryption: it is encrypted under the primary, or the keyring has no keys. */
  readonly current: boolean;
} & (
  | { readonly keyId: string }
  | {
      readonly keyId?: never;
      readonly format: string;
      /**
       * False if re-encryption must not encrypt the record, because its format cannot detect a wrong key and
       * `encryptUnauthenticated` of the format is not true.
       */
      readonly encryptable: boolean;
      /** True if the record was stored unencrypted. */
      readonly isPlaintext: boolean;
    }
);

/** The result of {@link RecordCodec.sealAgainAtOnce}: the re-encrypted envelope, and the expiry of its record. */
export interface SealedAgain {
  readonly sealed: StoredValue;
  readonly expires: number | undefined;
}

/** The options of a store that determine how its records are encrypted and read. */
export interface RecordCodecOptions {
  readonly scopes: RecordScopes;
  readonly accept: readonly ForeignFormat[];
  readonly padTo?: number | undefined;
  /** Maximum number of decrypted records to keep for further reads. Default: none. */
  readonly keepDecrypted?: number | undefined;
  /**
   * Decodes a value as the application does, and throws if the value cannot be decoded. Default: every value is
   * accepted without decoding.
   */
  readonly decode?: ((value: StoredValue) => unknown) | undefined;
}

const undecodable = new WeakSet<KeywardError>();

/**
 * Encrypts values for a store, and decrypts stored values. Looks up the encryption key of each value in the keyring.
 */
export class RecordCodec {
  readonly #source: KeyringSource;
  readonly #form: ValueForm;
  readonly #options: RecordCodecOptions;
  readonly #formats: readonly ForeignFormat[];
  readonly #kept: DecryptedRecords<OpenedRecord> | undefined;

  constructor(source: KeyringSource, form: ValueForm, options: RecordCodecOptions) {
    this.#source = source;
    this.#form = form;
    this.#options = options;
    this.#formats = options.accept.toSorted((one, other) => tryOrder(one) - tryOrder(other));
    const { keepDecrypted } = options;
    this.#kept = keepDecrypted === undefined ? undefined : new DecryptedRecords(keepDecrypted);
  }

  /**
   * Returns a codec for the records in the reserved space that belong to `scope`, or that belong to no scope if `scope`
   * is `undefined`. The codec accepts no foreign format and adds no padding.
   */
  forScope(scope: string | undefined): RecordCodec {
    return new RecordCodec(this.#source, this.#form, { scopes: new RecordScopes(scope), accept: [] });
  }

  /**
   * Returns a codec for a job that reads all records once. The returned codec has a cache of its own, so that the job
   * does not replace the keyrings in the cache of this codec.
   */
  forOnePass(): RecordCodec {
    return new RecordCodec(this.#source, this.#form, {
      ...this.#options,
      scopes: this.#options.scopes.forOnePass(),
      keepDecrypted: undefined,
    });
  }

  /**
   * Returns the keyring in use, derived for the scope of the store. If the option `scope` of the store is a function,
   * returns the keyring without deriving it: the other methods of the codec derive a keyring for each record.
   */
  ring(): Keyring | Promise<Keyring> {
    const { scopes } = this.#options;
    const ring = this.#source.current();
    if (!(ring instanceof Promise)) return scopes.keyringForStore(ring);
    const scoped = ring.then((loaded) => scopes.keyringForStore(loaded));
    // A caller may only test whether this is a promise, and discard it. A rejection must not end the process.
    scoped.catch(() => undefined);
    return scoped;
  }

  /**
   * Encrypts a value under the primary of `ring`. If `ring` has no keys, returns the value unencrypted.
   *
   * @throws KeywardError `VALUE_INVALID` if `ring` has no keys and the value begins like an envelope, because a read
   * would then treat the plaintext value as an envelope.
   */
  seal(ring: Keyring, address: RecordAddress, content: RecordContent): StoredValue {
    const { value } = content;
    const primary = keyOf(this.#options.scopes.keyringForRecord(ring, address), ring.primary);
    if (primary !== undefined) {
      return seal(primary.id, primary.root, address, content, { form: this.#form, padTo: this.#options.padTo });
    }
    if (beginsLikeEnvelope(value, address)) {
      throw recordError("VALUE_INVALID", address, "would be written in plaintext, but begins like an envelope", {
        hint: "The keyring has no keys, so values are written in plaintext. Use a keyring with a key, so that values are encrypted.",
      });
    }
    return value;
  }

  /**
   * Decrypts a stored record. If the record is not an envelope, reads it with the formats in the option `accept`. Also
   * returns a record that has expired.
   *
   * @throws KeywardError if the record cannot be decrypted, or if no format in `accept` reads the record.
   */
  async open(stored: unknown, address: RecordAddress): Promise<OpenedRecord> {
    const opened = this.openAtOnce(stored, address);
    if (opened !== undefined) return opened;
    const value = requireStored(stored, address);
    const header = readHeader(value, address);
    if (header === undefined) return await this.#openForeign(value, address);
    const { ring, failure } = await this.#source.lookUp(header.keyId);
    return openUnder(this.#inScope(ring, address), value, header, address, failure);
  }

  /**
   * Decrypts an envelope synchronously. Returns `undefined` if this is not possible, because the keyring or the
   * encryption key has to be loaded, or because the record is not an envelope. In this case, call {@link
   * RecordCodec.open}.
   *
   * @throws KeywardError like {@link RecordCodec.open}.
   */
  openAtOnce(stored: unknown, address: RecordAddress): OpenedRecord | undefined {
    const value = requireStored(stored, address);
    const ring = this.ring();
    const known = ring instanceof Promise ? undefined : this.#kept?.find(value, ring, address);
    if (known !== undefined) return known;
    const header = readHeader(value, address);
    if (header === undefined || ring instanceof Promise || keyOf(ring, header.keyId) === undefined) return undefined;
    const opened = openUnder(this.#options.scopes.keyringForRecord(ring, address), value, header, address);
    this.#kept?.keep(value, ring, address, opened);
    return opened;
  }

  /**
   * Re-encrypts an envelope under the primary of `ring`, synchronously. Returns `undefined` if this is not possible,
   * because the keyring or the encryption key has to be loaded, or because `ring` has no primary. In this case, call
   * {@link RecordCodec.open}.
   *
   * @throws KeywardError like {@link RecordCodec.open}.
   */
  sealAgainAtOnce(
    ring: Keyring,
    stored: StoredValue,
    header: EnvelopeHeader,
    address: RecordAddress,
  ): SealedAgain | undefined {
    const { scopes } = this.#options;
    const current = this.ring();
    if (ring.primary === "" || current instanceof Promise || keyOf(current, header.keyId) === undefined)
      return undefined;
    const scoped = scopes.keyringForRecord(ring, address);
    const primary = keyOf(scoped, ring.primary);
    const key = keyOf(current === ring ? scoped : scopes.keyringForRecord(current, address), header.keyId);
    if (primary === undefined || key === undefined) return undefined;
    requireEnabled(key, address);
    if (this.#options.padTo === undefined) {
      const decrypted = decrypt(stored, header, key.root, address);
      if (!decrypted.padded) {
        return {
          sealed: sealAgain(primary.id, primary.root, address, decrypted, this.#form),
          expires: decrypted.expires,
        };
      }
    }
    const content = open(stored, header, key.root, address);
    return { sealed: this.seal(ring, address, content), expires: content.expires };
  }

  /**
   * Decrypts an envelope, even if its encryption key is disabled. Returns `undefined` if `stored` is not an envelope,
   * or if `ring` does not contain this key.
   *
   * @throws KeywardError if `ring` contains the key, but the envelope cannot be decrypted.
   */
  openIgnoringStatus(ring: Keyring, stored: StoredValue, address: RecordAddress): RecordContent | undefined {
    const header = readHeader(stored, address);
    const key = header === undefined ? undefined : keyOf(this.#inScope(ring, address), header.keyId);
    return header === undefined || key === undefined ? undefined : open(stored, header, key.root, address);
  }

  /**
   * Decodes a value with the function in the option `decode`. Returns a promise only if this function returns a
   * promise.
   *
   * @throws KeywardError `RECORD_MALFORMED` for a value that the application cannot decode.
   */
  decode(value: StoredValue, address: RecordAddress): unknown {
    try {
      const decoded = this.#options.decode === undefined ? value : this.#options.decode(value);
      if (!(decoded instanceof Promise)) return decoded;
      return decoded.catch((error: unknown) => {
        throw notDecodable(error, address);
      });
    } catch (error) {
      throw notDecodable(error, address);
    }
  }

  /**
   * Verifies that the application can decode a record in a foreign format. Call this method before such a record is
   * encrypted: a wrong format in `accept` may have read it, and after the encryption the right format could no longer
   * read it.
   *
   * @throws KeywardError `RECORD_MALFORMED` if the application cannot decode the record.
   */
  async requireDecodable({ content }: OpenedRecord, address: RecordAddress): Promise<void> {
    await this.decode(content.value, address);
  }

  async #openForeign(stored: StoredValue, address: RecordAddress): Promise<OpenedRecord> {
    const ring = await this.ring();
    if (ring.primary === "") {
      const content = requireContent("plaintext", { value: stored }, address) ?? { value: stored };
      return { content, format: "plaintext", encryptable: true, isPlaintext: true, current: true };
    }
    const forbidsPlaintext = ring.encryptedNamespaces.includes(address.namespace);
    let failure: KeywardError | undefined;
    for (const format of this.#formats) {
      // A record that a format has recognized but not decrypted must not be read as plaintext.
      if (readsPlaintext(format) && (forbidsPlaintext || failure !== undefined)) continue;
      const content = await readForeign(format, stored, address).catch((error: unknown) => {
        // The records of two formats may look alike, so the next format is tried too.
        if (!(error instanceof KeywardError && error.code === "RECORD_TAMPERED")) throw error;
        failure ??= error;
        return undefined;
      });
      if (content !== undefined) {
        const encryptable = mayBeEncrypted(format);
        return { content, format: nameOf(format), encryptable, isPlaintext: readsPlaintext(format), current: false };
      }
    }
    if (failure !== undefined) throw failure;
    throw recordError(
      "RECORD_NOT_SEALED",
      address,
      "is not an envelope, and no format in the option `accept` reads it",
      {
        hint: forbidsPlaintext
          ? "The keyring forbids plaintext in this namespace, so a program without Keyward wrote the record. Find out which program wrote it, and then delete the record."
          : "The record was written without Keyward. If the application wrote it before it used Keyward, list the format of the record in the option `accept`, so that the record is read and then encrypted. If you have listed the format, correct its options, such as `layout`, `joinedBy`, `encoding` and `ignoredFields`. Otherwise find out which program wrote the record.",
      },
    );
  }

  #inScope(ring: Keyring, address: RecordAddress): Keyring {
    const { scopes } = this.#options;
    return scopes.keyringForRecord(scopes.keyringForStore(ring), address);
  }
}

/**
 * Returns the rank by which formats are tried: 0 for a format that detects a wrong key, 1 for one that does not, 2 for
 * plaintext.
 */
function tryOrder(format: ForeignFormat): number {
  if (readsPlaintext(format)) return 2;
  return format.authenticated === false ? 1 : 0;
}

function nameOf(format: ForeignFormat): string {
  return format.name ?? "foreign";
}

async function readForeign(
  format: ForeignFormat,
  stored: StoredValue,
  address: RecordAddress,
): Promise<RecordContent | undefined> {
  try {
    return requireContent(nameOf(format), await format.read(stored, address), address);
  } catch (error) {
    if (error instanceof KeywardError) throw error;
    // Pass on only the name of the error: its message may quote the value, which is plaintext.
    const name = error instanceof Error ? error.name : typeof error;
    throw recordError("RECORD_MALFORMED", address, `cannot be read in the format "${nameOf(format)}": ${name}`, {
      hint: "The format recognized the record and then failed. Restore the record, or correct read() of the format.",
    });
  }
}

function requireStored(stored: unknown, address: RecordAddress): StoredValue {
  if (isStoredValue(stored)) return stored;
  throw recordError("RECORD_NOT_SEALED", address, "is an object, neither a string nor bytes", {
    hint: "A Keyv with the option `serialization: false` probably wrote the record. Write the record again with a Keyv without this option.",
  });
}

function openUnder(
  ring: Keyring,
  stored: StoredValue,
  header: EnvelopeHeader,
  address: RecordAddress,
  failure?: KeywardError,
): OpenedRecord {
  const { keyId } = header;
  const key = keyOf(ring, keyId);
  if (key === undefined) {
    throw recordError("KEY_UNKNOWN", address, `is encrypted under key "${keyId}", which the keyring does not have`, {
      keyId,
      hint: `Add key "${keyId}" to the keyring, enabled. An older export of the keyring may contain the key.`,
      ...(failure === undefined ? {} : { cause: failure }),
    });
  }
  requireEnabled(key, address);
  return { content: open(stored, header, key.root, address), keyId, current: isCurrent(keyId, ring) };
}

function requireEnabled({ id, status }: RingKey, address: RecordAddress): void {
  if (status !== "disabled") return;
  throw recordError("KEY_DISABLED", address, `is encrypted under key "${id}", which is disabled`, {
    keyId: id,
    hint: `Enable key "${id}" if it was disabled too early. If the key was compromised, leave it disabled, so that records which an attacker may have forged stay unreadable.`,
  });
}

/** Returns whether `keyId` is the id of the primary, so that a record under this key needs no re-encryption. */
export function isCurrent(keyId: string | undefined, keyring: Keyring): boolean {
  return keyId === keyring.primary;
}

/** Returns whether a record was read in a foreign format, and not from an envelope. */
export function isForeign(record: OpenedRecord): boolean {
  return record.keyId === undefined;
}

/**
 * Returns whether re-encryption may encrypt a record. It must not if the record is in a foreign format that cannot
 * detect a wrong key, unless `encryptUnauthenticated` of the format is true.
 */
export function isEncryptable(record: OpenedRecord): boolean {
  return record.keyId !== undefined || record.encryptable;
}

/**
 * Returns whether {@link notDecodable} made `error`, for a record that was decrypted, but whose value cannot be
 * decoded.
 */
export function isUndecodable(error: KeywardError): boolean {
  return undecodable.has(error);
}

/** Returns the error for a record that was decrypted, but whose value the application cannot decode. */
export function notDecodable(thrown: unknown, address?: RecordAddress): KeywardError {
  // Pass on only the name of the error: its message may quote the value, which is plaintext.
  const name = thrown instanceof Error ? thrown.name : typeof thrown;
  const error = new KeywardError(
    "RECORD_MALFORMED",
    `A record was decrypted, but its value cannot be decoded: ${name}`,
    {
      ...address,
      hint: "Use the `serialization` and `compression` with which the record was written. If these options have not changed, another application wrote the record: give each application its own namespace.",
    },
  );
  undecodable.add(error);
  return error;
}

/** Returns whether a stored record has expired. Calls of the application treat an expired record as absent. */
export function isAbsent(record: OpenedRecord): boolean {
  return hasExpired(record.content.expires);
}

function beginsLikeEnvelope(value: StoredValue, address: RecordAddress): boolean {
  try {
    return readHeader(value, address) !== undefined;
  } catch (error) {
    if (error instanceof KeywardError) return true;
    throw error;
  }
}
