import { decrypt, type EnvelopeHeader, open, readHeader, seal, sealAgain } from "../envelope/envelope.ts";
import { type ForeignFormat, readsPlaintext, requireContent } from "../envelope/foreign-format.ts";
import { KeywardError } from "../errors/errors.ts";
import { type Keyring, keyOf, type RingKey } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import { isStoredValue, type StoredValue } from "../store-interface/capabilities.ts";
import {
  hasExpired,
  type RecordAddress,
  type RecordContent,
  recordError,
  type ValueForm,
} from "../store-interface/record.ts";

/** A record as it was read. */
export type OpenedRecord = {
  readonly content: RecordContent;
  /** Whether it has nothing to gain from being sealed again. */
  readonly current: boolean;
} & ({ readonly keyId: string } | { readonly keyId?: never; readonly format: string });

/** What {@link RecordCodec.sealAgainAtOnce} made of a record. */
export interface SealedAgain {
  readonly sealed: StoredValue;
  readonly expires: number | undefined;
}

/** How records of one store are sealed and what is accepted when they are read. */
export interface RecordCodecOptions {
  readonly scope?: string | undefined;
  readonly accept: readonly ForeignFormat[];
  readonly padTo?: number | undefined;
  /** Decodes a value as the reader of the store does; absent where that reader takes values as they are. */
  readonly decode?: ((value: StoredValue) => unknown) | undefined;
}

const undecodable = new WeakSet<KeywardError>();

/** Between a stored value and a record: finds the key, then opens or seals. */
export class RecordCodec {
  readonly #source: KeyringSource;
  readonly #form: ValueForm;
  readonly #options: RecordCodecOptions;
  readonly #formats: readonly ForeignFormat[];
  readonly #scoped = new WeakMap<Keyring, Keyring>();

  constructor(source: KeyringSource, form: ValueForm, options: RecordCodecOptions) {
    this.#source = source;
    this.#form = form;
    this.#options = options;
    this.#formats = [
      ...options.accept.filter((format) => !readsPlaintext(format)),
      ...options.accept.filter(readsPlaintext),
    ];
  }

  /** For what a scope, or none, keeps beside the records: nothing foreign is accepted, nothing padded. */
  forScope(scope: string | undefined): RecordCodec {
    return new RecordCodec(this.#source, this.#form, { scope, accept: [] });
  }

  /** The ring in use, scoped as the store is. */
  ring(): Keyring | Promise<Keyring> {
    const ring = this.#source.current();
    if (!(ring instanceof Promise)) return this.#inScope(ring);
    const scoped = ring.then((loaded) => this.#inScope(loaded));
    // Whoever only looks whether a ring is at hand lets go of this promise; its failure is told to those who wait.
    scoped.catch(() => undefined);
    return scoped;
  }

  /** Seals under the ring's primary; in a ring without keys, leaves the value as it is. */
  seal(ring: Keyring, address: RecordAddress, content: RecordContent): StoredValue {
    const { value } = content;
    const primary = keyOf(ring, ring.primary);
    if (primary !== undefined) {
      return seal(primary.id, primary.root, address, content, { form: this.#form, padTo: this.#options.padTo });
    }
    if (looksSealed(value, address)) {
      throw recordError("VALUE_INVALID", address, "would be written in the clear and begins like an envelope", {
        hint: "Configure a key, so that values are sealed.",
      });
    }
    return value;
  }

  /**
   * Opens what lies at a place, expired or not.
   *
   * @throws KeywardError for everything that is there and cannot be read.
   */
  async open(stored: unknown, address: RecordAddress): Promise<OpenedRecord> {
    const opened = this.openAtOnce(stored, address);
    if (opened !== undefined) return opened;
    const value = requireStored(stored, address);
    const header = readHeader(value, address);
    if (header === undefined) return await this.#openForeign(value, address);
    const { ring, failure } = await this.#source.lookUp(header.keyId);
    return openUnder(this.#inScope(ring), value, header, address, failure);
  }

  /**
   * As {@link RecordCodec.open} where nothing has to be waited for, as nearly always: the ring is there and has the key.
   * Otherwise `undefined`.
   */
  openAtOnce(stored: unknown, address: RecordAddress): OpenedRecord | undefined {
    const value = requireStored(stored, address);
    const header = readHeader(value, address);
    const ring = this.ring();
    if (header === undefined || ring instanceof Promise || keyOf(ring, header.keyId) === undefined) return undefined;
    return openUnder(ring, value, header, address);
  }

  /**
   * Opens an envelope, whose header was read, and seals what it holds under the primary of `ring`. `undefined` where
   * something has to be waited for, or there is no primary: then {@link RecordCodec.open} says what is there.
   *
   * @throws KeywardError as {@link RecordCodec.open}.
   */
  sealAgainAtOnce(
    ring: Keyring,
    stored: StoredValue,
    header: EnvelopeHeader,
    address: RecordAddress,
  ): SealedAgain | undefined {
    const primary = keyOf(ring, ring.primary);
    const current = this.ring();
    if (primary === undefined || current instanceof Promise) return undefined;
    const key = keyOf(current, header.keyId);
    if (key === undefined) return undefined;
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
   * Opens an envelope under the key it names, disabled or not: whether a record is lost for good does not depend on it.
   *
   * @throws KeywardError as {@link RecordCodec.open}.
   */
  openIgnoringStatus(ring: Keyring, stored: StoredValue, address: RecordAddress): RecordContent | undefined {
    const header = readHeader(stored, address);
    const key = header === undefined ? undefined : keyOf(this.#inScope(ring), header.keyId);
    return header === undefined || key === undefined ? undefined : open(stored, header, key.root, address);
  }

  /**
   * The value as the reader of the store decodes it; a promise only where decoding gives one.
   *
   * @throws KeywardError `RECORD_MALFORMED` for a value that this reader cannot decode.
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
   * Refuses a foreign record that the reader of the store cannot decode: once encrypted, it would be beyond every format.
   *
   * @throws KeywardError `RECORD_MALFORMED`.
   */
  async requireDecodable({ content }: OpenedRecord, address: RecordAddress): Promise<void> {
    await this.decode(content.value, address);
  }

  async #openForeign(stored: StoredValue, address: RecordAddress): Promise<OpenedRecord> {
    const ring = await this.ring();
    if (ring.primary === "") {
      const content = requireContent("plaintext", { value: stored }, address) ?? { value: stored };
      return { content, format: "plaintext", current: true };
    }
    const closed = ring.encryptedNamespaces.includes(address.namespace);
    for (const format of this.#formats) {
      if (closed && readsPlaintext(format)) continue;
      const content = await readForeign(format, stored, address);
      if (content !== undefined) return { content, format: nameOf(format), current: false };
    }
    throw recordError("RECORD_NOT_SEALED", address, "is not sealed, and no accepted format reads it", {
      hint: closed
        ? "The keyring lists its namespace as sealed for good: somebody wrote around Keyward. Delete the record."
        : "Somebody wrote around Keyward, or it is older: list its format in accept to read and seal it.",
    });
  }

  #inScope(ring: Keyring): Keyring {
    const { scope } = this.#options;
    if (scope === undefined || ring.scopeName === scope || ring.primary === "") return ring;
    let scoped = this.#scoped.get(ring);
    if (scoped === undefined) {
      scoped = ring.scope(scope);
      this.#scoped.set(ring, scoped);
    }
    return scoped;
  }
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
    // What it threw may quote the value, and goes no further than its name.
    const name = error instanceof Error ? error.name : typeof error;
    throw recordError("RECORD_MALFORMED", address, `of the format "${nameOf(format)}" cannot be read: ${name}`, {
      hint: "The format claims the record and fails on it: the record is broken, or another format wrote it.",
    });
  }
}

function requireStored(stored: unknown, address: RecordAddress): StoredValue {
  if (isStoredValue(stored)) return stored;
  throw recordError("RECORD_NOT_SEALED", address, "is an object, neither a string nor bytes", {
    hint: "Keyv wrote it with serialization: false. Rewrite it with serialization on.",
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
    throw recordError("KEY_UNKNOWN", address, `is sealed under key "${keyId}", which the keyring does not have`, {
      keyId,
      hint: "Add that key to the ring, enabled; an older export of the ring may hold it.",
      ...(failure === undefined ? {} : { cause: failure }),
    });
  }
  requireEnabled(key, address);
  return { content: open(stored, header, key.root, address), keyId, current: isCurrent(keyId, ring) };
}

function requireEnabled({ id, status }: RingKey, address: RecordAddress): void {
  if (status !== "disabled") return;
  throw recordError("KEY_DISABLED", address, `is sealed under key "${id}", which is disabled`, {
    keyId: id,
    hint: "Enable the key if it was disabled too early; if it is compromised, the record is lost on purpose.",
  });
}

/** Whether a record under this key is current: its key is the primary, so that re-encryption would change nothing. */
export function isCurrent(keyId: string | undefined, keyring: Keyring): boolean {
  return keyId === keyring.primary;
}

/** Whether a record lay in a foreign format. */
export function isForeign(record: OpenedRecord): boolean {
  return record.keyId === undefined;
}

/** Whether an error says that a record opened, and that the reader of the store could not decode it. */
export function isUndecodable(error: KeywardError): boolean {
  return undecodable.has(error);
}

/** The error for a value that the reader of the store could not decode. */
export function notDecodable(thrown: unknown, address?: RecordAddress): KeywardError {
  // What a decoder throws may quote what it decodes, which is plaintext: it goes no further than its name.
  const name = thrown instanceof Error ? thrown.name : typeof thrown;
  const error = new KeywardError("RECORD_MALFORMED", `A record opens, and its reader cannot decode it: ${name}`, {
    ...address,
    hint: "Read it with the serialization and compression that it was written with, or find what else wrote it.",
  });
  undecodable.add(error);
  return error;
}

/** Whether a record is absent for the reader although it lies there. */
export function isAbsent(record: OpenedRecord): boolean {
  return hasExpired(record.content.expires);
}

function looksSealed(value: StoredValue, address: RecordAddress): boolean {
  try {
    return readHeader(value, address) !== undefined;
  } catch (error) {
    if (error instanceof KeywardError) return true;
    throw error;
  }
}
