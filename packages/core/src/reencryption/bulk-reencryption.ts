import { setImmediate as nextTurn } from "node:timers/promises";
import { leastExpires } from "../envelope/foreign-format.ts";
import { readHeader } from "../envelope/header.ts";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { type EncryptedStoreOrKeyv, type StoreParts, storeParts } from "../store/encrypted-store.ts";
import { isAbsent, isCurrent, isEncryptable, isForeign, type OpenedRecord } from "../store/record-codec.ts";
import { bytesOf, PageSize, targetPageBytes } from "../store-interface/page-size.ts";
import { expiryToSet, hasExpired, type RecordAddress, requireAddress } from "../store-interface/record.ts";
import {
  type AtomicStore,
  isStoredValue,
  type ScannableStore,
  type ScannedRecord,
  type ScanPage,
} from "../store-interface/store-capabilities.ts";
import { requireAtomic, type WrappedStore, wrapRejection } from "../store-interface/wrapped-store.ts";
import { pause } from "../waiting/pause.ts";
import { scannableOf, withinRange } from "./census.ts";
import { addMade, type Change, mayBeReplaced, removal } from "./record-changes.ts";
import {
  type ReencryptOptions,
  type ReencryptProgress,
  type ReencryptReport,
  requirePace,
  requireReencryptOptions,
  type UnreadableRecord,
  unreadableRecord,
} from "./reencryption-options.ts";
import {
  addCounts,
  formatProgress,
  invalidCheckpoint,
  noCounts,
  parseProgress,
  type ReencryptCounts,
} from "./saved-progress.ts";

const maxListed = 1_000;
const maxAttempts = 3;
/** Number of records that a job encrypts or decrypts before it lets other work of the process run. */
export const recordsPerTurn = 64;

/**
 * Re-encrypts every record of a store's backend under the primary key, in all namespaces. Records keep their expiry.
 *
 * The application may use the store during the job. The job replaces a record only if the record has not changed since
 * the job read it, so it never overwrites a newer value, and never restores a deleted or expired record.
 *
 * @throws KeywardError
 * - before any record is changed: `STORE_INVALID` if the store is neither an `EncryptedStore` nor made by `createKeyv`,
 *   `STORE_NOT_ATOMIC`, `STORE_NOT_SCANNABLE`, and `VALUE_INVALID` for an invalid option;
 * - `CHECKPOINT_INVALID` if the checkpoint cannot be used, or does not belong to a re-encryption of this store;
 * - `KEYRING_INVALID` for a keyring without keys, `OVERWRITE_REFUSED` if it cannot decrypt the store's check record;
 * - `STORE_UNAVAILABLE` if the store fails. The next run then resumes from the checkpoint.
 * @example
 * const report = await reencrypt(sessions, { checkpoint: fileCheckpoint("sessions.checkpoint"), maxPerSecond: 500 });
 * console.log(report.reencrypted, report.unreadable); // numbers of records
 */
export async function reencrypt(store: EncryptedStoreOrKeyv, options: ReencryptOptions = {}): Promise<ReencryptReport> {
  return await new Reencryption(store, options).run();
}

type MutableCounts = { -readonly [Name in keyof ReencryptCounts]: ReencryptCounts[Name] };

interface PageInProgress {
  readonly ring: Keyring;
  readonly done: Promise<ReencryptCounts>;
  readonly bytes: number;
  /** The cursor of the next page. Absent for the last page. */
  readonly nextCursor: string | undefined;
}

class Reencryption {
  readonly #parts: StoreParts;
  readonly #scannable: ScannableStore;
  readonly #options: ReencryptOptions;
  readonly #views = new Map<string, View>();
  readonly #unreadable: UnreadableRecord[] = [];
  readonly #startedAtMs = performance.now();
  readonly #size: PageSize;
  readonly #concurrency: number;
  /** The earliest time at which the next page may be scanned, if `maxPerSecond` is given. */
  #dueAtMs = 0;
  #counts: ReencryptCounts = noCounts;
  #scannedBefore = 0;
  /** The cursor in the checkpoint that this run resumed from, if any. */
  #resumedAt: string | undefined;
  /** Resolves when all pages that were scanned so far are encrypted. */
  #encrypting: Promise<void> = Promise.resolve();

  constructor(store: EncryptedStoreOrKeyv, options: ReencryptOptions) {
    requireReencryptOptions("reencrypt", options);
    const parts = storeParts(store);
    this.#parts = { ...parts, codec: parts.codec.forOnePass() };
    this.#scannable = withinRange(scannableOf(store), options.range);
    this.#options = options;
    requireAtomic(this.#parts.inner);
    const { batchSize, concurrency, maxPerSecond } = requirePace(options);
    this.#concurrency = concurrency;
    this.#size = new PageSize(maxPerSecond === undefined ? batchSize : Math.min(batchSize, maxPerSecond));
  }

  async run(): Promise<ReencryptReport> {
    let ring = await this.#ringToEncryptWith();
    let cursor = await this.#resume(ring);
    const { signal } = this.#options;
    const inProgress: PageInProgress[] = [];
    let isComplete = false;
    try {
      while (!isComplete && signal?.aborted !== true) {
        const { entries, cursor: nextCursor } = await this.#scan(cursor);
        const page = {
          ring,
          nextCursor,
          bytes: bytesOf(entries),
          done: this.#parts.source.whileSealing(this.#reencryptPage(entries, ring)),
        };
        this.#size.held(entries.length, page.bytes);
        // The pages are awaited in order below. A rejection before that must not end the process.
        page.done.catch(() => undefined);
        inProgress.push(page);
        cursor = nextCursor;
        while (inProgress.length >= (cursor === undefined ? 1 : this.#concurrency)) await this.#finish(inProgress);
        while (bytesInProgress(inProgress) > (this.#concurrency - 1) * targetPageBytes) await this.#finish(inProgress);
        if (cursor !== undefined) await this.#keepRate(entries.length, inProgress);

        const latest = await this.#ringToEncryptWith();
        if (latest.primary === ring.primary) isComplete = cursor === undefined;
        else {
          // The records so far, and those in progress, are under the former primary: wait for them, and start over.
          while (inProgress.length > 0) await this.#finish(inProgress);
          cursor = undefined;
          // The job lists the unreadable records again when it starts over.
          this.#counts = { ...this.#counts, unreadable: 0, unauthenticated: 0 };
          this.#unreadable.length = 0;
        }
        ring = latest;
      }
      while (inProgress.length > 0) await this.#finish(inProgress);
    } finally {
      await Promise.allSettled(inProgress.map(({ done }) => done));
    }
    if (isComplete && this.#options.dryRun !== true) {
      await this.#parts.check.renew(ring);
      await this.#parts.reserve?.renew();
      await this.#options.checkpoint?.write(undefined);
    }
    return {
      ...this.#progress(),
      primary: ring.primary,
      complete: isComplete && this.#counts.unreadable === 0 && this.#counts.unauthenticated === 0,
      unreadableRecords: this.#unreadable,
      durationMs: performance.now() - this.#startedAtMs,
    };
  }

  async #ringToEncryptWith(): Promise<Keyring> {
    const { codec, writeGate } = this.#parts;
    const ring = await (this.#options.dryRun === true ? codec.ring() : writeGate.keyringForWriting());
    if (ring.primary === "") {
      throw new KeywardError("KEYRING_INVALID", "The keyring has no keys, so there is no primary to re-encrypt with", {
        hint: "Add a key to the keyring first.",
      });
    }
    return ring;
  }

  async #scan(cursor: string | undefined): Promise<ScanPage> {
    const { limit } = this.#size;
    try {
      return await wrapRejection(() => this.#scannable.scan({ limit, ...(cursor === undefined ? {} : { cursor }) }));
    } catch (error) {
      const isUnknown = error instanceof KeywardError && error.code === "VALUE_INVALID";
      throw isUnknown && cursor !== undefined && cursor === this.#resumedAt ? invalidCheckpoint(error) : error;
    }
  }

  async #keepRate(records: number, inProgress: PageInProgress[]): Promise<void> {
    const { maxPerSecond, signal } = this.#options;
    if (maxPerSecond === undefined) return;
    this.#dueAtMs = Math.max(performance.now(), this.#dueAtMs) + (records / maxPerSecond) * 1_000;
    if (this.#dueAtMs <= performance.now()) return;
    // The wait may be long, so save the progress first.
    while (inProgress.length > 0) await this.#finish(inProgress);
    try {
      await pause(this.#dueAtMs - performance.now(), signal);
    } catch (error) {
      if (signal?.aborted !== true) throw error;
    }
  }

  /**
   * Waits until the oldest page in progress is done, adds its counts, and writes a checkpoint with the cursor of the
   * next page. So all pages before the cursor in a checkpoint are done.
   */
  async #finish(inProgress: PageInProgress[]): Promise<void> {
    const page = inProgress[0];
    if (page === undefined) return;
    this.#counts = addCounts(this.#counts, await page.done);
    inProgress.shift();
    const { checkpoint, dryRun = false, namespaces = null, range, removeExpired = false, onProgress } = this.#options;
    if (page.nextCursor !== undefined && !dryRun) {
      const text = formatProgress({
        primary: page.ring.primary,
        ...(checkpoint?.job === undefined ? {} : { job: checkpoint.job }),
        namespaces,
        ...(range === undefined ? {} : { range }),
        ...(removeExpired ? { removeExpired } : {}),
        cursor: page.nextCursor,
        counts: this.#counts,
      });
      await checkpoint?.write(text);
    }
    onProgress?.(this.#progress());
  }

  async #resume(ring: Keyring): Promise<string | undefined> {
    const { checkpoint, dryRun = false, namespaces = null, removeExpired = false } = this.#options;
    const text = dryRun ? undefined : await checkpoint?.read();
    if (text === undefined) return undefined;
    const saved = parseProgress(text);
    // Writing to this checkpoint would delete the progress of the other job.
    if (saved.job !== checkpoint?.job) throw invalidCheckpoint();
    // A checkpoint of another primary, or of other records, does not apply to this job.
    if (saved.primary !== ring.primary || saved.range !== this.#options.range) return undefined;
    if (removeExpired && saved.removeExpired !== true) return undefined;
    if (JSON.stringify(saved.namespaces) !== JSON.stringify(namespaces)) return undefined;
    this.#counts = saved.counts;
    this.#scannedBefore = saved.counts.scanned;
    this.#resumedAt = saved.cursor;
    return saved.cursor;
  }

  async #reencryptPage(entries: readonly ScannedRecord[], ring: Keyring): Promise<ReencryptCounts> {
    const startedAtMs = performance.now();
    const counts = { ...noCounts };
    const byNamespace = new Map<string, ScannedRecord[]>();
    const wanted = this.#options.namespaces;
    for (const entry of entries) {
      if (wanted !== undefined && !wanted.includes(entry.namespace)) continue;
      const group = byNamespace.get(entry.namespace);
      if (group === undefined) byNamespace.set(entry.namespace, [entry]);
      else group.push(entry);
    }
    for (const [namespace, group] of byNamespace) await this.#reencryptGroup(namespace, group, ring, counts);
    this.#size.took(entries.length, performance.now() - startedAtMs);
    return counts;
  }

  async #reencryptGroup(
    namespace: string,
    entries: readonly ScannedRecord[],
    ring: Keyring,
    counts: MutableCounts,
  ): Promise<void> {
    counts.scanned += entries.length;
    let changes = await this.#reencryptRecords(entries, ring, counts);
    if (this.#options.dryRun === true) {
      addMade(changes, counts);
      return;
    }
    if (changes.length === 0) return;
    const { inner, atomic } = this.#view(namespace);
    for (let attempt = 1; ; attempt++) {
      const latest = await this.#parts.writeGate.keyringForWriting();
      // If the primary has changed, do not encrypt under the former primary. If the key of a record was disabled in the
      // meantime, do not replace the record, because it may be forged.
      const attempted =
        latest.primary === ring.primary ? changes.filter((change) => mayBeReplaced(latest, change)) : [];
      counts.conflicts += changes.length - attempted.length;
      if (attempted.length === 0) return;
      const replaced = await inner.replaceMany(atomic, attempted);
      const overtaken = attempted.filter((_, index) => replaced[index] !== true);
      addMade(
        attempted.filter((_, index) => replaced[index] === true),
        counts,
      );
      if (overtaken.length === 0) return;
      // Another process wrote these records first. It may have used an older key, so read them again.
      changes = attempt < maxAttempts ? await this.#reencryptCurrent(namespace, overtaken, inner, ring, counts) : [];
      counts.conflicts += overtaken.length - changes.length;
      if (changes.length === 0) return;
    }
  }

  async #reencryptRecords(entries: readonly ScannedRecord[], ring: Keyring, counts: MutableCounts): Promise<Change[]> {
    const changes: Change[] = [];
    const deferred = await this.#afterPrevious(() => this.#encryptAtOnce(entries, ring, counts, changes));
    const { codec } = this.#parts;
    for (const [index, { namespace, key, value }] of deferred.entries()) {
      if (index % recordsPerTurn === recordsPerTurn - 1) await nextTurn();
      const address = { namespace, key };
      try {
        const record = await codec.open(value, address);
        if (isForeign(record)) await codec.requireDecodable(record, address);
        if (!isEncryptable(record)) {
          counts.unauthenticated++;
          continue;
        }
        if (this.#keepsCurrent(record, counts)) continue;
        if (isAbsent(record)) counts.expired++;
        if (this.#isRemoved(record.content.expires)) {
          changes.push(removal(key, value, record.keyId));
          continue;
        }
        // If an option of the format is wrong, the record may not have expired. Once encrypted, it would be lost.
        if (isAbsent(record) && record.keyId === undefined && !record.isPlaintext) continue;
        const next = codec.seal(ring, address, record.content);
        // The store may not know the expiry that a foreign record contains.
        const expires = isForeign(record) ? expiryToSet(record.content) : undefined;
        changes.push({ key, keyId: record.keyId, expected: value, next, expires, removes: false });
      } catch (error) {
        this.#noteUnreadable(error, address, counts);
      }
    }
    return changes;
  }

  /**
   * Re-encrypts the records that can be re-encrypted synchronously, because their encryption keys are loaded, and adds
   * them to `changes`. Returns the other records.
   */
  async #encryptAtOnce(
    entries: readonly ScannedRecord[],
    ring: Keyring,
    counts: MutableCounts,
    changes: Change[],
  ): Promise<ScannedRecord[]> {
    const { codec } = this.#parts;
    const deferred: ScannedRecord[] = [];
    for (const [index, entry] of entries.entries()) {
      // Encryption blocks the event loop, which the application needs for its own calls.
      if (index % recordsPerTurn === recordsPerTurn - 1) await nextTurn();
      const { namespace, key, value } = entry;
      const address = { namespace, key };
      try {
        const header = readHeader(value, address);
        if (isCurrent(header?.keyId, ring)) {
          // Only a decrypted record shows its expiry.
          if (this.#options.removeExpired === true) deferred.push(entry);
          else counts.current++;
          continue;
        }
        requireAddress(namespace, key);
        const encrypted = header === undefined ? undefined : codec.sealAgainAtOnce(ring, value, header, address);
        if (encrypted === undefined) {
          deferred.push(entry);
          continue;
        }
        const isExpired = hasExpired(encrypted.expires);
        if (isExpired) counts.expired++;
        if (this.#isRemoved(encrypted.expires)) changes.push(removal(key, value, header?.keyId));
        else changes.push({ key, keyId: header?.keyId, expected: value, next: encrypted.sealed, removes: false });
      } catch (error) {
        this.#noteUnreadable(error, address, counts);
      }
    }
    return deferred;
  }

  /** Returns whether the job removes a record with this expiry. A small number may be a duration, and not a time. */
  #isRemoved(expires: number | undefined): boolean {
    return this.#options.removeExpired === true && hasExpired(expires) && (expires ?? 0) >= leastExpires;
  }

  /** Counts a record that is under the primary and has not expired, and returns true. Otherwise returns false. */
  #keepsCurrent(record: OpenedRecord, counts: MutableCounts): boolean {
    if (!record.current || isAbsent(record)) return false;
    counts.current++;
    return true;
  }

  #noteUnreadable(error: unknown, address: RecordAddress, counts: MutableCounts): void {
    const unreadable = unreadableRecord(address, requireKeywardError(error));
    counts.unreadable++;
    if (this.#unreadable.length < maxListed) this.#unreadable.push(unreadable);
  }

  /**
   * Runs `work`, the encryption of one page, after the previous page is encrypted. During the encryption, the store
   * reads and writes other pages. If the encryption alternated between pages, all these pages would stay in memory
   * until the last page is encrypted.
   */
  async #afterPrevious<Result>(work: () => Promise<Result>): Promise<Result> {
    const done = this.#encrypting.then(work);
    this.#encrypting = done.then(
      () => undefined,
      () => undefined,
    );
    return await done;
  }

  async #reencryptCurrent(
    namespace: string,
    overtaken: readonly Change[],
    inner: WrappedStore,
    ring: Keyring,
    counts: MutableCounts,
  ): Promise<Change[]> {
    const stored = await inner.getMany(overtaken.map(({ key }) => key));
    const entries: ScannedRecord[] = [];
    for (const [index, { key }] of overtaken.entries()) {
      const value = stored[index];
      if (isStoredValue(value)) entries.push({ namespace, key, value });
    }
    const found = { ...noCounts };
    const changes = await this.#reencryptRecords(entries, ring, found);
    // The records are counted already. Add only the problems of values that another process has written since.
    counts.unreadable += found.unreadable;
    counts.unauthenticated += found.unauthenticated;
    return changes;
  }

  #view(namespace: string): View {
    let view = this.#views.get(namespace);
    if (view === undefined) {
      const inner = this.#parts.inner.view(namespace);
      if (inner === undefined) {
        throw new KeywardError(
          "NAMESPACE_CONFLICT",
          "The scan found records of another namespace, but the store can write only to its own namespace",
          {
            namespace,
            hint:
              "Create one store for each namespace. Run `reencrypt` once over each of these stores, with the " +
              "namespace of the store in the option `namespaces`.",
          },
        );
      }
      view = { inner, atomic: requireAtomic(inner) };
      this.#views.set(namespace, view);
    }
    return view;
  }

  #progress(): ReencryptProgress {
    const seconds = (performance.now() - this.#startedAtMs) / 1000;
    return { ...this.#counts, ratePerSecond: (this.#counts.scanned - this.#scannedBefore) / seconds };
  }
}

interface View {
  readonly inner: WrappedStore;
  readonly atomic: AtomicStore;
}

function bytesInProgress(inProgress: readonly PageInProgress[]): number {
  return inProgress.reduce((sum, { bytes }) => sum + bytes, 0);
}
