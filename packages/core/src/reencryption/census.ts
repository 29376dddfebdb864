import { readHeader } from "../envelope/header.ts";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import { EncryptedStore, type EncryptedStoreOrKeyv, storeParts } from "../store/encrypted-store.ts";
import {
  isRanged,
  isScannable,
  type RangedStore,
  type ScannableStore,
  type ScannedRecord,
} from "../store-interface/capabilities.ts";
import { wrapRejection } from "../store-interface/inner-store.ts";
import { pages } from "../store-interface/page-size.ts";
import { isKeyv } from "../store-interface/wrappable-store.ts";

/** How many records lie under which key. */
export interface CensusCounts {
  /** All records counted. */
  readonly records: number;
  /** Envelopes by the id of the key they were sealed under. */
  readonly keys: ReadonlyMap<string, number>;
  /** Records that are not envelopes: plaintext, or a foreign format. */
  readonly unsealed: number;
  /** Records that begin like an envelope, of this version or a later one, and have no header that can be read. */
  readonly broken: number;
}

/** The counts over a whole backend, and for each namespace in it. */
export interface Census extends CensusCounts {
  /** "" is the records without a namespace. */
  readonly namespaces: ReadonlyMap<string, CensusCounts>;
}

/** How a census goes about it. */
export interface CensusOptions {
  /** The most records a page may have; it has fewer where they are large. Default 1,000. */
  readonly batchSize?: number;
  /** Stops the census, which then rejects with the reason. */
  readonly signal?: AbortSignal;
  /** Called after each page with the number of records counted so far. */
  readonly onProgress?: (records: number) => void;
}

const censusOptionNames = {
  batchSize: true,
  signal: true,
  onProgress: true,
} as const satisfies OptionNames<CensusOptions>;

class Counter implements CensusCounts {
  records = 0;
  unsealed = 0;
  broken = 0;
  readonly keys = new Map<string, number>();

  count(entry: ScannedRecord): void {
    this.records++;
    try {
      const keyId = readHeader(entry.value, entry)?.keyId;
      if (keyId === undefined) this.unsealed++;
      else this.keys.set(keyId, (this.keys.get(keyId) ?? 0) + 1);
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      this.broken++;
    }
  }
}

/**
 * Counts the records under each key, over all namespaces of a backend. It reads headers and needs no key, so anybody
 * who may read the store may count. A record written during the census may be missed or counted.
 *
 * @throws KeywardError `STORE_INVALID` for what is no store; `VALUE_INVALID` for an option that there is not, or
 * a `batchSize` that is not a whole number from 1;
 * `STORE_NOT_SCANNABLE`, `STORE_UNAVAILABLE`.
 */
export async function census(
  store: EncryptedStoreOrKeyv | ScannableStore,
  options: CensusOptions = {},
): Promise<Census> {
  const { batchSize = 1_000, signal, onProgress } = requireOptions("census", options, censusOptionNames);
  requireAmount("batchSize", batchSize, "records");
  const total = new Counter();
  const namespaces = new Map<string, Counter>();
  for await (const entries of pages(scannableOf(store), batchSize)) {
    signal?.throwIfAborted();
    for (const entry of entries) {
      let counter = namespaces.get(entry.namespace);
      if (counter === undefined) {
        counter = new Counter();
        namespaces.set(entry.namespace, counter);
      }
      counter.count(entry);
      total.count(entry);
    }
    onProgress?.(total.records);
  }
  const { records, keys, unsealed, broken } = total;
  return { records, keys, unsealed, broken, namespaces };
}

/**
 * The ranges to divide a re-encryption into, for its option `range`; one, of all records, where the store cannot be
 * divided.
 *
 * @param count the most ranges there may be.
 * @throws KeywardError `STORE_NOT_SCANNABLE`, or `VALUE_INVALID` for a count that is not a whole number from 1.
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
 * A store of which only one range is scanned; the whole one for `undefined`.
 *
 * @throws KeywardError `VALUE_INVALID` for a range of a store that cannot be divided.
 */
export function withinRange(store: ScannableStore, range: string | undefined): ScannableStore {
  if (range === undefined) return store;
  if (!isRanged(store)) {
    throw new KeywardError("VALUE_INVALID", "The store has no ranges", { hint: "Leave the option range out." });
  }
  const ranged: RangedStore = store;
  return { scan: (options) => ranged.scan({ ...options, range }) };
}

/**
 * What can be scanned in a store, wrapped or not.
 *
 * @throws KeywardError `STORE_INVALID` for what is no store, and `STORE_NOT_SCANNABLE`.
 */
export function scannableOf(store: EncryptedStoreOrKeyv | ScannableStore): ScannableStore {
  const scannable = isRaw(store) ? store : storeParts(store).inner.scannable;
  if (scannable !== undefined && isScannable(scannable)) return scannable;
  throw new KeywardError("STORE_NOT_SCANNABLE", "The store cannot be scanned over all its namespaces", {
    hint: "Wrap a store that has scan(), such as those of Keyward.",
  });
}

/** Whether it is a store that is not encrypted. What is no store at all is refused as an encrypted one. */
function isRaw(store: EncryptedStoreOrKeyv | ScannableStore): store is ScannableStore {
  if (typeof store !== "object" || store === null || store instanceof EncryptedStore) return false;
  return !("encryptedStore" in store) && !isKeyv(store);
}
