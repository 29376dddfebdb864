import { readHeader } from "../envelope/header.ts";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import { EncryptedStore, type EncryptedStoreOrKeyv, storeParts } from "../store/encrypted-store.ts";
import { isKeyv } from "../store-interface/adapters.ts";
import { pages } from "../store-interface/page-size.ts";
import {
  isRanged,
  isScannable,
  type RangedStore,
  type ScannableStore,
  type ScannedRecord,
} from "../store-interface/store-capabilities.ts";
import { wrapRejection } from "../store-interface/wrapped-store.ts";

/** The number of records under each encryption key, of records that are not encrypted, and of broken records. */
export interface CensusCounts {
  /** Number of all records, encrypted or not. */
  readonly records: number;
  /**
   * Number of encrypted records under each encryption key, by the id of the key. `JSON.stringify` writes this Map as an
   * object.
   */
  readonly keys: ReadonlyMap<string, number>;
  /** Number of records that Keyward did not encrypt: plaintext, or records that another program encrypted. */
  readonly unsealed: number;
  /**
   * Number of records that begin like an envelope of Keyward, but whose header cannot be read. Such a record is
   * damaged, or a later version of Keyward wrote it.
   */
  readonly broken: number;
}

/** The result of {@link census}: the counts for the whole backend, and for each of its namespaces. */
export interface Census extends CensusCounts {
  /**
   * The counts for each namespace, by the name of the namespace. Records without a namespace are counted under the name
   * "". `JSON.stringify` writes this Map as an object.
   */
  readonly namespaces: ReadonlyMap<string, CensusCounts>;
}

/** The options of {@link census}. */
export interface CensusOptions {
  /**
   * Maximum number of records that the census reads in one page. The first pages are smaller, and pages of large
   * records too. Default: 1,000.
   */
  readonly batchSize?: number;
  /** If this signal is aborted, the census stops, and rejects with the reason of the signal. */
  readonly signal?: AbortSignal;
  /** Called after each page of records with the number of records counted so far. */
  readonly onProgress?: (records: number) => void;
}

const censusOptionNames = {
  batchSize: true,
  signal: true,
  onProgress: true,
} as const satisfies OptionNames<CensusOptions>;

/**
 * Returns an empty Map that `JSON.stringify` writes as an object with the Map's entries. An ordinary Map becomes `{}`.
 */
function newCounts<Count>(): Map<string, Count> {
  const counts = new Map<string, Count>();
  // Not a subclass of Map: assertions such as `toEqual(new Map(…))` compare the class.
  Object.defineProperty(counts, "toJSON", {
    // An assignment to "__proto__", which is a valid namespace, would set the prototype of the object.
    value: () => Object.fromEntries(counts),
  });
  return counts;
}

class Counter implements CensusCounts {
  records = 0;
  unsealed = 0;
  broken = 0;
  readonly keys = newCounts<number>();

  count(record: ScannedRecord): void {
    this.records++;
    try {
      const keyId = readHeader(record.value, record)?.keyId;
      if (keyId === undefined) this.unsealed++;
      else this.keys.set(keyId, (this.keys.get(keyId) ?? 0) + 1);
    } catch (error) {
      requireKeywardError(error);
      this.broken++;
    }
  }
}

/**
 * Counts the records under each encryption key, over all namespaces of a backend.
 *
 * Reads only the headers of the records and needs no encryption key, so you can also pass a store that does not
 * encrypt. A record that is written during the census may be counted or not.
 *
 * `JSON.stringify` writes each Map of the result as an object. A namespace may be named `__proto__`, and such an object
 * then has a property with this name. Copy the parsed object only with functions that keep this property, such as
 * `Object.entries`.
 *
 * @example
 * const { keys, namespaces } = await census(store);
 * console.log(keys.get("2026-11"), JSON.stringify(namespaces));
 *
 * @throws KeywardError `STORE_INVALID` if `store` is not a store; `VALUE_INVALID` for an unknown option, or a
 * `batchSize` that is not an integer of at least 1; `STORE_NOT_SCANNABLE`, `STORE_UNAVAILABLE`.
 * @example
 * const { records, keys: recordsByKey } = await census(sessions);
 * console.log(records, recordsByKey.get("2026-11") ?? 0);
 */
export async function census(
  store: EncryptedStoreOrKeyv | ScannableStore,
  options: CensusOptions = {},
): Promise<Census> {
  const { batchSize = 1_000, signal, onProgress } = requireOptions("census", options, censusOptionNames);
  requireAmount("batchSize", batchSize, "records");
  const total = new Counter();
  const namespaces = newCounts<Counter>();
  for await (const records of pages(scannableOf(store), batchSize)) {
    signal?.throwIfAborted();
    for (const record of records) {
      let counter = namespaces.get(record.namespace);
      if (counter === undefined) {
        counter = new Counter();
        namespaces.set(record.namespace, counter);
      }
      counter.count(record);
      total.count(record);
    }
    onProgress?.(total.records);
  }
  const { records, keys, unsealed, broken } = total;
  return { records, keys, unsealed, broken, namespaces };
}

/**
 * Divides the records of a store into ranges, so that several calls of `reencrypt` can share the work. Pass each
 * element of the result as the option `range` of one call. If the store cannot be divided, the result is `[undefined]`:
 * one call for all records, without the option `range`.
 *
 * @param count maximum number of ranges.
 * @throws KeywardError `STORE_NOT_SCANNABLE`; `VALUE_INVALID` for a count that is not an integer of at least 1.
 * @example
 * for (const range of await rangesOf(sessions, 4)) {
 *   await reencrypt(sessions, range === undefined ? {} : { range });
 * }
 */
export async function rangesOf(
  store: EncryptedStoreOrKeyv | ScannableStore,
  count: number,
): Promise<readonly (string | undefined)[]> {
  const scannable = scannableOf(store);
  requireAmount("count", count, "ranges");
  return isRanged(scannable) ? await wrapRejection(() => scannable.ranges(count)) : [undefined];
}

/**
 * Returns a store whose scans return only the records of `range`. Returns `store` itself if `range` is `undefined`.
 *
 * @throws KeywardError `VALUE_INVALID` if `range` is given and the store cannot be divided into ranges.
 */
export function withinRange(store: ScannableStore, range: string | undefined): ScannableStore {
  if (range === undefined) return store;
  if (!isRanged(store)) {
    throw new KeywardError(
      "VALUE_INVALID",
      'The option "range" was given, but the store cannot be divided into ranges',
      {
        hint: "Omit the option `range`, so that the job covers all records.",
      },
    );
  }
  const ranged: RangedStore = store;
  return { scan: (options) => ranged.scan({ ...options, range }) };
}

/**
 * Returns the store to scan: the store below `store` if `store` encrypts, otherwise `store` itself.
 *
 * @throws KeywardError `STORE_INVALID` if `store` is not a store; `STORE_NOT_SCANNABLE`.
 */
export function scannableOf(store: EncryptedStoreOrKeyv | ScannableStore): ScannableStore {
  const scannable = isPlainStore(store) ? store : storeParts(store).inner.scannable;
  if (scannable !== undefined && isScannable(scannable)) return scannable;
  throw new KeywardError("STORE_NOT_SCANNABLE", "The store cannot be scanned, because it has no scan()", {
    hint: "Use a store that has `scan()`, which reads the records of all namespaces. All stores of Keyward have it.",
  });
}

/**
 * Returns whether `store` is an object, but neither an `EncryptedStore` nor a Keyv. `storeParts` checks all other
 * values.
 */
function isPlainStore(store: EncryptedStoreOrKeyv | ScannableStore): store is ScannableStore {
  if (typeof store !== "object" || store === null || store instanceof EncryptedStore) return false;
  return !("encryptedStore" in store) && !isKeyv(store);
}
