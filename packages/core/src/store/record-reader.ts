import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type RecordAddress, requireAddress } from "../store-interface/record.ts";
import { isStoredValue, type StoredValue } from "../store-interface/store-capabilities.ts";
import type { WrappedStore } from "../store-interface/wrapped-store.ts";
import type { LazyReencryption } from "./lazy-reencryption.ts";
import type { OverwriteGuard } from "./overwrite-guard.ts";
import { isAbsent, isEncryptable, isUndecodable, type OpenedRecord, type RecordCodec } from "./record-codec.ts";
import type { StoreAttachment } from "./store-attachment.ts";

/** The parts of a store that {@link RecordReader} uses. */
export interface RecordReaderParts {
  readonly attachment: StoreAttachment;
  readonly inner: WrappedStore;
  readonly codec: RecordCodec;
  readonly guard: OverwriteGuard;
  readonly reencryption: LazyReencryption | undefined;
}

/**
 * Converts the decrypted value of a record into the result of a read. Returns a promise only if the conversion is
 * asynchronous.
 */
export type Convert<Result> = (value: StoredValue, address: RecordAddress) => Result | Promise<Result>;

/**
 * The read methods that a Keyv made by `createKeyv` calls. They return values that were decoded with the option
 * `decode` of the store.
 */
export interface DecodedReads {
  get(key: string): Promise<unknown>;
  getMany(keys: readonly string[]): Promise<readonly unknown[]>;
  iterator(): AsyncGenerator<[string, unknown], void>;
}

/** The outcome of reading one record of a batch. */
type ReadOrError<Result> = { readonly result: Result | undefined } | { readonly error: KeywardError };

const maxListedErrors = 1_000;

/**
 * Reads and decrypts records. Marks a record that cannot be read, so that no write replaces it by accident. Queues a
 * record under an older key for lazy re-encryption.
 */
export class RecordReader {
  readonly #parts: RecordReaderParts;

  constructor(parts: RecordReaderParts) {
    this.#parts = parts;
  }

  async get<Result>(key: string, convert: Convert<Result>): Promise<Result | undefined> {
    const { attachment, inner } = this.#parts;
    const address = requireAddress(attachment.namespaceForCall(), key);
    return this.#read(await inner.get(key), address, convert);
  }

  async getMany<Result>(keys: readonly string[], convert: Convert<Result>): Promise<(Result | undefined)[]> {
    const errors: KeywardError[] = [];
    const results: (Result | undefined)[] = [];
    for (const read of await this.#readMany(keys, convert)) {
      if ("error" in read) errors.push(read.error);
      else results.push(read.result);
    }
    if (errors.length > 0) throw unreadable(errors, errors.length, keys.length);
    return results;
  }

  /**
   * Reads records like {@link RecordReader.getMany}. For a record that cannot be read, returns its error instead of
   * rejecting.
   */
  async getManyOrErrors<Result>(
    keys: readonly string[],
    convert: Convert<Result>,
  ): Promise<(Result | KeywardError | undefined)[]> {
    const reads = await this.#readMany(keys, convert);
    return reads.map((read) => ("error" in read ? read.error : read.result));
  }

  async #readMany<Result>(keys: readonly string[], convert: Convert<Result>): Promise<readonly ReadOrError<Result>[]> {
    const { attachment, inner } = this.#parts;
    const namespace = attachment.namespaceForCall();
    const addresses = keys.map((key) => requireAddress(namespace, key));
    const stored = await inner.getMany([...keys]);
    // Decrypt all records at the same time, so that the records under unknown keys wait for the same load of the
    // keyring.
    return await Promise.all(addresses.map((address, index) => this.#readOrError(stored[index], address, convert)));
  }

  async *iterate<Result>(convert: Convert<Result>): AsyncGenerator<[string, Result], void> {
    const { attachment, inner } = this.#parts;
    const namespace = attachment.namespaceForCall();
    const errors: KeywardError[] = [];
    let unreadableCount = 0;
    let count = 0;
    for await (const [key, stored] of inner.iterate()) {
      count++;
      let result: Result | undefined;
      try {
        result = await this.#read(stored, requireAddress(namespace, key), convert);
      } catch (error) {
        unreadableCount++;
        if (errors.length < maxListedErrors) errors.push(requireKeywardError(error));
      }
      if (result !== undefined) yield [key, result];
    }
    if (errors.length > 0) throw unreadable(errors, unreadableCount, count);
  }

  /**
   * Decrypts and converts a stored record. Returns a promise only if loading the keyring, a foreign format or the
   * conversion is asynchronous.
   */
  #read<Result>(
    stored: unknown,
    address: RecordAddress,
    convert: Convert<Result>,
  ): Result | undefined | Promise<Result | undefined> {
    if (stored === undefined || stored === null) return undefined;
    try {
      const record = this.#parts.codec.openAtOnce(stored, address);
      if (record === undefined) return this.#readLater(stored, address, convert);
      const read = this.#resultOf(record, stored, address, convert);
      return read instanceof Promise ? this.#markIfRejected(read, address) : read;
    } catch (error) {
      this.#parts.guard.markUnreadable(address.namespace, address.key);
      throw error;
    }
  }

  async #readLater<Result>(
    stored: unknown,
    address: RecordAddress,
    convert: Convert<Result>,
  ): Promise<Result | undefined> {
    const opening = this.#parts.codec.open(stored, address);
    return await this.#markIfRejected(
      opening.then((record) => this.#resultOf(record, stored, address, convert)),
      address,
    );
  }

  async #markIfRejected<Result>(reading: Promise<Result>, { namespace, key }: RecordAddress): Promise<Result> {
    try {
      return await reading;
    } catch (error) {
      this.#parts.guard.markUnreadable(namespace, key);
      throw error;
    }
  }

  /**
   * Converts the value of a decrypted record. If its encryption key is not the primary, then queues the record for lazy
   * re-encryption.
   */
  #resultOf<Result>(
    record: OpenedRecord,
    stored: unknown,
    address: RecordAddress,
    convert: Convert<Result>,
  ): Result | undefined | Promise<Result> {
    if (isAbsent(record)) return undefined;
    const converted = convert(record.content.value, address);
    if (record.current) return converted;
    if (!(converted instanceof Promise)) {
      this.#offer(record, stored, address);
      return converted;
    }
    return converted.then((result) => {
      this.#offer(record, stored, address);
      return result;
    });
  }

  #offer(record: OpenedRecord, stored: unknown, address: RecordAddress): void {
    if (isStoredValue(stored) && isEncryptable(record)) this.#parts.reencryption?.offer(address, stored, record);
  }

  /**
   * Does the same as `#read`, but returns the error of an unreadable record, so that the rest of the batch is still
   * read.
   */
  #readOrError<Result>(
    stored: unknown,
    address: RecordAddress,
    convert: Convert<Result>,
  ): ReadOrError<Result> | Promise<ReadOrError<Result>> {
    try {
      const read = this.#read(stored, address, convert);
      return read instanceof Promise ? read.then((result) => ({ result }), errorOf) : { result: read };
    } catch (error) {
      return errorOf(error);
    }
  }
}

function errorOf(thrown: unknown): { readonly error: KeywardError } {
  return { error: requireKeywardError(thrown) };
}

/** Returns one error for the records of a batch that cannot be read. */
export function unreadable(errors: readonly KeywardError[], broken: number, total: number): KeywardError {
  const hint =
    "Read `error.errors`, which lists the key of each unreadable record, with a hint. To read the other records of the " +
    "batch, call getManyOrErrors() of the EncryptedStore.";
  if (errors.every(isUndecodable)) {
    const problem = `Records that can be decrypted, but not decoded: ${broken} of ${total}`;
    return new KeywardError("RECORD_MALFORMED", problem, { errors, hint });
  }
  const codes = [...new Set(errors.map(({ code }) => code))].join(", ");
  return new KeywardError("RECORDS_UNREADABLE", `Records that cannot be decrypted: ${broken} of ${total} (${codes})`, {
    errors,
    hint,
  });
}
