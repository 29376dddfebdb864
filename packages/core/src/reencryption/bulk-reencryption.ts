import { setImmediate as nextTurn } from "node:timers/promises";
import { readHeader } from "../envelope/header.ts";
import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import { isEnabled, type Keyring } from "../keyring/keyring.ts";
import { type EncryptedStoreOrKeyv, type StoreParts, storeParts } from "../store/encrypted-store.ts";
import { isAbsent, isCurrent, isForeign } from "../store/record-codec.ts";
import {
  type AtomicStore,
  isStoredValue,
  type Replacement,
  type ScannableStore,
  type ScannedRecord,
  type ScanPage,
} from "../store-interface/capabilities.ts";
import { type InnerStore, requireAtomic, wrapRejection } from "../store-interface/inner-store.ts";
import { bytesOf, PageSize, targetPageBytes } from "../store-interface/page-size.ts";
import { hasExpired, type RecordAddress, requireAddress } from "../store-interface/record.ts";
import { pause } from "../waiting/pause.ts";
import { scannableOf, withinRange } from "./census.ts";
import type { Checkpoint } from "./checkpoint.ts";

/** How a bulk re-encryption goes about it. */
export interface ReencryptOptions {
  /** The most records a page may have. It begins with few, and has fewer where they are large or slow. Default 500. */
  readonly batchSize?: number;
  /** Pages being worked on at a time. Default 4. */
  readonly concurrency?: number;
  /**
   * The most records to look at in a second, on average and without making up for a slow time: what is left for live
   * traffic. Default: no limit.
   */
  readonly maxPerSecond?: number;
  /** Only the records of this range, one of those that `rangesOf` gives. Default: all. */
  readonly range?: string;
  /** Counts what would be done, and writes nothing. */
  readonly dryRun?: boolean;
  /** Where to write down how far the job has come, and to go on from. See `fileCheckpoint`. */
  readonly checkpoint?: Checkpoint;
  /** Stops the job after the pages under way; the report then says `complete: false`. */
  readonly signal?: AbortSignal;
  /** Called after each page. */
  readonly onProgress?: (progress: ReencryptProgress) => void;
  /** Only these namespaces; "" is the records without one. Default: all. */
  readonly namespaces?: readonly string[];
}

/** How far a re-encryption has come. */
export interface ReencryptProgress {
  /** Records looked at; twice when the primary changed on the way, since the job then begins anew. */
  readonly scanned: number;
  /** Records that lay under the primary already. */
  readonly current: number;
  /** Records sealed again (in a dry run: that would be). */
  readonly reencrypted: number;
  /** Records that somebody else changed or removed first, and that were left to him. */
  readonly conflicts: number;
  /** Among the records, those whose expiry has passed. They are sealed again like the others. */
  readonly expired: number;
  /** Records that cannot be opened, or are foreign and cannot be decoded. They are left alone. */
  readonly unreadable: number;
  /** Records looked at in a second, in this run. */
  readonly ratePerSecond: number;
}

/** A record that could not be opened. */
export interface UnreadableRecord {
  /** "" where there is none. */
  readonly namespace: string;
  /** The key of the record, which may be a secret. */
  readonly key: string;
  /** The id of the key it needs, where its header says. */
  readonly keyId?: string;
  /** Why it does not open. */
  readonly code: KeywardErrorCode;
}

/**
 * What a re-encryption did. Where it went on from a checkpoint, the counts of records include those of the runs before;
 * `unreadableRecords`, `durationMs` and `ratePerSecond` are of this run alone.
 */
export interface ReencryptReport extends ReencryptProgress {
  /** The id of the key that records now lie under. */
  readonly primary: string;
  /** Whether every record was looked at and could be opened; `false` when the job was stopped, or some are unreadable. */
  readonly complete: boolean;
  /** The records that could not be opened, the first 1,000 of them in this run. */
  readonly unreadableRecords: readonly UnreadableRecord[];
  /** How long this run took, in milliseconds. */
  readonly durationMs: number;
}

const reencryptOptionNames = {
  batchSize: true,
  concurrency: true,
  maxPerSecond: true,
  range: true,
  dryRun: true,
  checkpoint: true,
  signal: true,
  onProgress: true,
  namespaces: true,
} as const satisfies OptionNames<ReencryptOptions>;

const maxListed = 1_000;
const maxAttempts = 3;
const recordsPerTurn = 64;

/**
 * Seals every record of a backend, all namespaces, under the primary. Safe beside live traffic: a record is replaced
 * only if it is still the one that was read, so a newer write, a delete or an expiry wins. Records keep their expiry.
 *
 * @throws KeywardError `STORE_INVALID` for what is neither an `EncryptedStore` nor made by `createKeyv`;
 * `STORE_NOT_ATOMIC`, `STORE_NOT_SCANNABLE` or, for an option, `VALUE_INVALID`, before anything is touched;
 * `OVERWRITE_REFUSED` when the ring cannot open the store's check record; `CHECKPOINT_INVALID`;
 * `KEYRING_INVALID` for a ring without keys; `STORE_UNAVAILABLE`, after which the job goes on from its checkpoint.
 */
export async function reencrypt(store: EncryptedStoreOrKeyv, options: ReencryptOptions = {}): Promise<ReencryptReport> {
  return await new Reencryption(store, options).run();
}

type Counts = Omit<ReencryptProgress, "ratePerSecond">;
type MutableCounts = { -readonly [Name in keyof Counts]: Counts[Name] };

interface SavedCheckpoint {
  readonly primary: string;
  readonly namespaces: readonly string[] | null;
  readonly range?: string;
  readonly cursor: string;
  readonly counts: Counts;
}

interface PageUnderWay {
  readonly ring: Keyring;
  readonly done: Promise<Counts>;
  readonly bytes: number;
  /** Where the page after it begins; absent for the last one. */
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
  /** With a rate limit, when the records looked at until now have had their time. */
  #dueAtMs = 0;
  #counts: Counts = noCounts;
  #scannedBefore = 0;
  /** The cursor of the checkpoint, if any. */
  #resumedAt: string | undefined;
  /** Settles when the pages until now are encrypted. */
  #encrypting: Promise<void> = Promise.resolve();

  constructor(store: EncryptedStoreOrKeyv, options: ReencryptOptions) {
    requireOptions("reencrypt", options, reencryptOptionNames);
    this.#parts = storeParts(store);
    this.#scannable = withinRange(scannableOf(store), options.range);
    this.#options = options;
    requireAtomic(this.#parts.inner);
    const { batchSize, concurrency, maxPerSecond } = requirePace(options);
    this.#concurrency = concurrency;
    this.#size = new PageSize(maxPerSecond === undefined ? batchSize : Math.min(batchSize, maxPerSecond));
  }

  async run(): Promise<ReencryptReport> {
    let ring = await this.#ringToSealWith();
    let cursor = await this.#resume(ring);
    const { signal } = this.#options;
    const underWay: PageUnderWay[] = [];
    let isWalked = false;
    try {
      while (!isWalked && signal?.aborted !== true) {
        const { entries, cursor: nextCursor } = await this.#scan(cursor);
        const page = {
          ring,
          nextCursor,
          bytes: bytesOf(entries),
          done: this.#parts.source.whileSealing(this.#page(entries, ring)),
        };
        this.#size.held(entries.length, page.bytes);
        // Awaited in order further down; a rejection until then must not end the process.
        page.done.catch(() => undefined);
        underWay.push(page);
        cursor = nextCursor;
        while (underWay.length >= (cursor === undefined ? 1 : this.#concurrency)) await this.#finish(underWay);
        while (bytesUnderWay(underWay) > (this.#concurrency - 1) * targetPageBytes) await this.#finish(underWay);
        if (cursor !== undefined) await this.#keepRate(entries.length, underWay);

        const latest = await this.#ringToSealWith();
        if (latest.primary === ring.primary) isWalked = cursor === undefined;
        else {
          // What was sealed until now lies under the former primary, and so will what is under way: begin anew after it.
          while (underWay.length > 0) await this.#finish(underWay);
          cursor = undefined;
          // What cannot be opened now is found again.
          this.#counts = { ...this.#counts, unreadable: 0 };
          this.#unreadable.length = 0;
        }
        ring = latest;
      }
      while (underWay.length > 0) await this.#finish(underWay);
    } finally {
      await Promise.allSettled(underWay.map(({ done }) => done));
    }
    if (isWalked && this.#options.dryRun !== true) {
      await this.#parts.check.renew(ring);
      await this.#parts.reserve?.renew();
      await this.#options.checkpoint?.write(undefined);
    }
    return {
      ...this.#progress(),
      primary: ring.primary,
      complete: isWalked && this.#counts.unreadable === 0,
      unreadableRecords: this.#unreadable,
      durationMs: performance.now() - this.#startedAtMs,
    };
  }

  async #ringToSealWith(): Promise<Keyring> {
    const { codec, writeGate } = this.#parts;
    const ring = await (this.#options.dryRun === true ? codec.ring() : writeGate.keyringForWriting());
    if (ring.primary === "") {
      throw new KeywardError("KEYRING_INVALID", "There is no primary to re-encrypt under: the ring has no keys", {
        hint: "Configure a key first.",
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
      throw isUnknown && cursor !== undefined && cursor === this.#resumedAt ? badCheckpoint(error) : error;
    }
  }

  async #keepRate(records: number, underWay: PageUnderWay[]): Promise<void> {
    const { maxPerSecond, signal } = this.#options;
    if (maxPerSecond === undefined) return;
    this.#dueAtMs = Math.max(performance.now(), this.#dueAtMs) + (records / maxPerSecond) * 1_000;
    if (this.#dueAtMs <= performance.now()) return;
    // Nothing is left unsaved during a wait that may be long.
    while (underWay.length > 0) await this.#finish(underWay);
    try {
      await pause(this.#dueAtMs - performance.now(), signal);
    } catch (error) {
      if (signal?.aborted !== true) throw error;
    }
  }

  /** Pages count, and move the checkpoint, in the order they were scanned: what lies before it is done. */
  async #finish(underWay: PageUnderWay[]): Promise<void> {
    const page = underWay[0];
    if (page === undefined) return;
    this.#counts = add(this.#counts, await page.done);
    underWay.shift();
    const { checkpoint, dryRun = false, namespaces = null, range, onProgress } = this.#options;
    if (page.nextCursor !== undefined && !dryRun) {
      const saved: SavedCheckpoint = {
        primary: page.ring.primary,
        namespaces,
        ...(range === undefined ? {} : { range }),
        cursor: page.nextCursor,
        counts: this.#counts,
      };
      await checkpoint?.write(JSON.stringify({ keyward: "reencrypt", ...saved }));
    }
    onProgress?.(this.#progress());
  }

  async #resume(ring: Keyring): Promise<string | undefined> {
    const { checkpoint, dryRun = false, namespaces = null } = this.#options;
    const text = dryRun ? undefined : await checkpoint?.read();
    if (text === undefined) return undefined;
    const saved = parseCheckpoint(text);
    // A checkpoint of a former rotation, or of other records, says nothing about this job.
    if (saved.primary !== ring.primary || saved.range !== this.#options.range) return undefined;
    if (JSON.stringify(saved.namespaces) !== JSON.stringify(namespaces)) return undefined;
    this.#counts = saved.counts;
    this.#scannedBefore = saved.counts.scanned;
    this.#resumedAt = saved.cursor;
    return saved.cursor;
  }

  async #page(entries: readonly ScannedRecord[], ring: Keyring): Promise<Counts> {
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
    for (const [namespace, group] of byNamespace) await this.#group(namespace, group, ring, counts);
    this.#size.took(entries.length, performance.now() - startedAtMs);
    return counts;
  }

  async #group(
    namespace: string,
    entries: readonly ScannedRecord[],
    ring: Keyring,
    counts: MutableCounts,
  ): Promise<void> {
    counts.scanned += entries.length;
    let changes = await this.#sealAgain(entries, ring, counts);
    if (this.#options.dryRun === true) {
      counts.reencrypted += changes.length;
      return;
    }
    if (changes.length === 0) return;
    const { inner, atomic } = this.#view(namespace);
    for (let attempt = 1; ; attempt++) {
      const latest = await this.#parts.writeGate.keyringForWriting();
      // Under another primary this ring would take back what somebody sealed under that one; and what lies under a key that
      // was disabled since it was opened may be forged.
      const attempted =
        latest.primary === ring.primary ? changes.filter((change) => mayBeSealedAgain(latest, change)) : [];
      counts.conflicts += changes.length - attempted.length;
      if (attempted.length === 0) return;
      const replaced = await inner.replaceMany(atomic, attempted);
      const lost = attempted.filter((_, index) => replaced[index] !== true);
      counts.reencrypted += attempted.length - lost.length;
      if (lost.length === 0) return;
      // Somebody was faster. He may have sealed under the primary, or not: look once more.
      changes = attempt < maxAttempts ? await this.#sealWhatIsThereNow(namespace, lost, inner, ring) : [];
      counts.conflicts += lost.length - changes.length;
      if (changes.length === 0) return;
    }
  }

  async #sealAgain(entries: readonly ScannedRecord[], ring: Keyring, counts: MutableCounts): Promise<Change[]> {
    const changes: Change[] = [];
    const waitedFor = await this.#inTurn(() => this.#sealAgainAtOnce(entries, ring, counts, changes));
    const { codec } = this.#parts;
    for (const [index, { namespace, key, value }] of waitedFor.entries()) {
      if (index % recordsPerTurn === recordsPerTurn - 1) await nextTurn();
      const address = { namespace, key };
      try {
        const record = await codec.open(value, address);
        if (isForeign(record)) await codec.requireDecodable(record, address);
        if (isAbsent(record)) counts.expired++;
        const next = codec.seal(ring, address, record.content);
        changes.push({ key, keyId: record.keyId, expected: value, next });
      } catch (error) {
        this.#unreadableBecause(error, address, counts);
      }
    }
    return changes;
  }

  /** Adds to `changes`, and returns the records that something has to be waited for. */
  async #sealAgainAtOnce(
    entries: readonly ScannedRecord[],
    ring: Keyring,
    counts: MutableCounts,
    changes: Change[],
  ): Promise<ScannedRecord[]> {
    const { codec } = this.#parts;
    const waitedFor: ScannedRecord[] = [];
    for (const [index, entry] of entries.entries()) {
      // Sealing holds the event loop, which live traffic shares.
      if (index % recordsPerTurn === recordsPerTurn - 1) await nextTurn();
      const { namespace, key, value } = entry;
      const address = { namespace, key };
      try {
        const header = readHeader(value, address);
        if (isCurrent(header?.keyId, ring)) {
          counts.current++;
          continue;
        }
        requireAddress(namespace, key);
        const again = header === undefined ? undefined : codec.sealAgainAtOnce(ring, value, header, address);
        if (again === undefined) {
          waitedFor.push(entry);
          continue;
        }
        if (hasExpired(again.expires)) counts.expired++;
        changes.push({ key, keyId: header?.keyId, expected: value, next: again.sealed });
      } catch (error) {
        this.#unreadableBecause(error, address, counts);
      }
    }
    return waitedFor;
  }

  #unreadableBecause(error: unknown, { namespace, key }: RecordAddress, counts: MutableCounts): void {
    if (!(error instanceof KeywardError)) throw error;
    counts.unreadable++;
    const { code, keyId } = error;
    if (this.#unreadable.length >= maxListed) return;
    this.#unreadable.push({ namespace, key, code, ...(keyId === undefined ? {} : { keyId }) });
  }

  /**
   * One page after the other: while one is encrypted the store reads and writes others, and what is made of a page is
   * soon let go of. Pages that took turns would all be written at the end.
   */
  async #inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
    const done = this.#encrypting.then(work);
    this.#encrypting = done.then(
      () => undefined,
      () => undefined,
    );
    return await done;
  }

  async #sealWhatIsThereNow(
    namespace: string,
    lost: readonly Change[],
    inner: InnerStore,
    ring: Keyring,
  ): Promise<Change[]> {
    const stored = await inner.getMany(lost.map(({ key }) => key));
    const entries: ScannedRecord[] = [];
    for (const [index, { key }] of lost.entries()) {
      const value = stored[index];
      if (isStoredValue(value)) entries.push({ namespace, key, value });
    }
    return await this.#sealAgain(entries, ring, { ...noCounts });
  }

  #view(namespace: string): View {
    let view = this.#views.get(namespace);
    if (view === undefined) {
      const inner = this.#parts.inner.view(namespace);
      if (inner === undefined) {
        throw new KeywardError(
          "NAMESPACE_CONFLICT",
          "The store shows one namespace at a time, and the scan found others",
          {
            namespace,
            hint: "Run the re-encryption once for each namespace, with the option namespaces.",
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

/** Whether the key that a record lies under still opens; what is not sealed has none. */
function mayBeSealedAgain(ring: Keyring, { keyId }: Change): boolean {
  return keyId === undefined || isEnabled(ring, keyId);
}

/** A replacement, and the key that the record lies under; `undefined` for what is not sealed. */
interface Change extends Replacement {
  readonly keyId: string | undefined;
}

interface View {
  readonly inner: InnerStore;
  readonly atomic: AtomicStore;
}

const noCounts: Counts = { scanned: 0, current: 0, reencrypted: 0, conflicts: 0, expired: 0, unreadable: 0 };

function add(one: Counts, other: Counts): Counts {
  return {
    scanned: one.scanned + other.scanned,
    current: one.current + other.current,
    reencrypted: one.reencrypted + other.reencrypted,
    conflicts: one.conflicts + other.conflicts,
    expired: one.expired + other.expired,
    unreadable: one.unreadable + other.unreadable,
  };
}

function bytesUnderWay(underWay: readonly PageUnderWay[]): number {
  return underWay.reduce((sum, { bytes }) => sum + bytes, 0);
}

/**
 * How fast to re-encrypt.
 *
 * @throws KeywardError `VALUE_INVALID`.
 */
export function requirePace(pace: Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond">): {
  readonly batchSize: number;
  readonly concurrency: number;
  readonly maxPerSecond: number | undefined;
} {
  const { batchSize = 500, concurrency = 4, maxPerSecond } = pace;
  requireAmount("batchSize", batchSize, "records");
  requireAmount("concurrency", concurrency, "pages");
  if (maxPerSecond !== undefined) requireAmount("maxPerSecond", maxPerSecond, "records");
  return { batchSize, concurrency, maxPerSecond };
}

/** Whether a text is the checkpoint of a re-encryption. */
export function isCheckpoint(text: string): boolean {
  try {
    parseCheckpoint(text);
    return true;
  } catch (error) {
    if (error instanceof KeywardError) return false;
    throw error;
  }
}

function parseCheckpoint(text: string): SavedCheckpoint {
  let saved: unknown;
  try {
    saved = JSON.parse(text);
  } catch {
    // The parser's own message quotes the text.
    throw badCheckpoint();
  }
  if (!isSavedCheckpoint(saved)) throw badCheckpoint();
  return saved;
}

function isSavedCheckpoint(saved: unknown): saved is SavedCheckpoint {
  if (typeof saved !== "object" || saved === null) return false;
  if (!("keyward" in saved && saved.keyward === "reencrypt" && "primary" in saved && "namespaces" in saved))
    return false;
  if (!("cursor" in saved && typeof saved.cursor === "string" && "counts" in saved)) return false;
  if ("range" in saved && typeof saved.range !== "string") return false;
  const counts: unknown = saved.counts;
  return (
    typeof counts === "object" &&
    counts !== null &&
    Object.keys(noCounts).every((name) => isCount(Reflect.get(counts, name)))
  );
}

function isCount(value: unknown): boolean {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

/** @param cause of a store that does not know the cursor. */
function badCheckpoint(cause?: KeywardError): KeywardError {
  const what = cause === undefined ? "a re-encryption" : "a re-encryption of this store";
  return new KeywardError("CHECKPOINT_INVALID", `What lies in the checkpoint is not one of ${what}`, {
    cause,
    hint: "Is it another job's? Remove it to begin from the start: nothing is lost by that but time.",
  });
}
