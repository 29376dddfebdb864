import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { asKeywardError, type KeywardError } from "../errors/errors.ts";
import { isEnabled, type Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { StoredValue } from "../store-interface/capabilities.ts";
import type { ReplacementUntil } from "../store-interface/inner-store.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import type { BackgroundEvents } from "./background-events.ts";
import { isCurrent, isForeign, type OpenedRecord, type RecordCodec } from "./record-codec.ts";
import type { WriteGate } from "./write-gate.ts";

/** What the events `reencrypted`, `reencrypt:conflict` and `reencrypt:error` say. */
export interface ReencryptEvent {
  /** "" where there is none. */
  readonly namespace: string;
  /** The key of the record, which may be a secret. */
  readonly key: string;
  /** The key id the record was sealed under, or the name of the foreign format. */
  readonly from: string;
  /** The key id it is sealed under now, or was to be. */
  readonly to: string;
  /** What went wrong, with `reencrypt:error`. */
  readonly error?: KeywardError;
}

/** What became of a record that was to be sealed again, as the event that says so. */
export type ReencryptOutcome = "reencrypted" | "reencrypt:conflict" | "reencrypt:error";

/** Replaces each record that is unchanged, and says which were. */
export type ReplaceMany = (changes: readonly ReplacementUntil[]) => Promise<boolean[]>;

/** What re-encryption behind reads works with. */
export interface LazyReencryptionParts {
  readonly replaceMany: ReplaceMany;
  readonly codec: RecordCodec;
  readonly writeGate: WriteGate;
  readonly source: KeyringSource;
  readonly events: BackgroundEvents;
}

interface Job {
  readonly address: RecordAddress;
  readonly expected: StoredValue;
  readonly record: OpenedRecord;
}

const maxQueued = 1_000;
const maxQueuedBytes = 32 * 2 ** 20;
// Sealing holds the event loop: a batch is what may go between two turns of it.
const batchRecords = 32;
// Reads share processor, connection and server with it. What a batch costs them is about three times its sealing, so it is
// in the way of far fewer than one read in a hundred. At 1 KiB this is about a hundred records a second.
const restPerSealing = 1_000;
const maxRestMs = 1_000;

/**
 * Seals again, behind the reads that found them, records that lie under another key than the primary. Bounded, in what is
 * queued and in the time it takes: what does not fit waits for its next read or for the bulk job.
 */
export class LazyReencryption {
  readonly #parts: LazyReencryptionParts;
  readonly #queue = new Map<string, Job>();
  readonly #underWay = new Set<string>();
  #queuedBytes = 0;
  #running: Promise<void> | undefined;
  #restUntilMs = 0;
  /** Cuts short the rest that is being taken. */
  #resting: AbortController | undefined;
  #waiting = 0;

  constructor(parts: LazyReencryptionParts) {
    this.#parts = parts;
  }

  /**
   * Takes a record that was read, unless it is being sealed already or the queue is full. What was queued of an earlier
   * read makes way: a record that is written often would have changed since.
   */
  offer(address: RecordAddress, expected: StoredValue, record: OpenedRecord): void {
    const { key } = address;
    if (this.#underWay.has(key)) return;
    const earlier = this.#queue.get(key);
    if (earlier === undefined && this.#queue.size >= maxQueued) return;
    const otherBytes = this.#queuedBytes - (earlier?.expected.length ?? 0);
    if (otherBytes > 0 && otherBytes + expected.length > maxQueuedBytes) return;
    this.#queue.set(key, { address, expected, record });
    this.#queuedBytes = otherBytes + expected.length;
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  /** Resolves when nothing is queued or under way; until then it takes no rest. */
  async settled(): Promise<void> {
    this.#waiting++;
    this.#resting?.abort();
    while (this.#running !== undefined) await this.#running;
    this.#waiting--;
  }

  async #run(): Promise<void> {
    while (this.#queue.size > 0) {
      await nextTurn();
      await this.#rest();
      const batch: Job[] = [];
      for (const [key, job] of this.#queue) {
        if (batch.length === batchRecords) break;
        this.#queue.delete(key);
        this.#queuedBytes -= job.expected.length;
        this.#underWay.add(key);
        batch.push(job);
      }
      // What is queued takes the ring of its own time: only a batch can be late.
      await this.#parts.source.whileSealing(this.#reseal(batch));
      for (const { address } of batch) this.#underWay.delete(address.key);
    }
  }

  async #rest(): Promise<void> {
    const restMs = this.#restUntilMs - performance.now();
    if (restMs <= 0 || this.#waiting > 0) return;
    this.#resting = new AbortController();
    const { signal } = this.#resting;
    await sleep(restMs, undefined, { signal, ref: false }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
    this.#resting = undefined;
  }

  async #reseal(batch: readonly Job[]): Promise<void> {
    // First what takes time: a ring that was taken is to be used at once.
    const decodable = await this.#decodable(batch);
    let to = "";
    try {
      const ring = await this.#parts.writeGate.keyringForWriting();
      to = ring.primary;
      const jobs: Job[] = [];
      const changes: ReplacementUntil[] = [];
      const startedAtMs = performance.now();
      for (const job of decodable) {
        const change = this.#change(ring, job);
        if (change === undefined) continue;
        jobs.push(job);
        changes.push(change);
      }
      const sealedAtMs = performance.now();
      this.#restUntilMs = sealedAtMs + Math.min(maxRestMs, restPerSealing * (sealedAtMs - startedAtMs));
      if (changes.length === 0) return;
      const replaced = await this.#parts.replaceMany(changes);
      for (const [index, job] of jobs.entries()) {
        this.#report(replaced[index] === true ? "reencrypted" : "reencrypt:conflict", eventOf(job, to));
      }
    } catch (cause) {
      for (const job of decodable)
        this.#report("reencrypt:error", { ...eventOf(job, to), error: reencryptionError(cause) });
    }
  }

  /** Without the foreign records that the reader of the store cannot decode, which stay as they are. */
  async #decodable(batch: readonly Job[]): Promise<readonly Job[]> {
    const decodable: Job[] = [];
    for (const job of batch) {
      try {
        if (isForeign(job.record)) await this.#parts.codec.requireDecodable(job.record, job.address);
        decodable.push(job);
      } catch (cause) {
        this.#report("reencrypt:error", { ...eventOf(job, ""), error: reencryptionError(cause) });
      }
    }
    return decodable;
  }

  #report(outcome: ReencryptOutcome, event: ReencryptEvent): void {
    const { events } = this.#parts;
    if (outcome === "reencrypt:error") events.emitFailure(outcome, event, event.error);
    else {
      events.succeeded("reencrypt:error");
      events.emit(outcome, event);
    }
  }

  /** The replacement of one record; `undefined` where there is none to be made. */
  #change(ring: Keyring, job: Job): ReplacementUntil | undefined {
    const { address, expected, record } = job;
    // The ring may have changed since the read: a record it made current is left alone.
    if (ring.primary === "" || isCurrent(record.keyId, ring)) return undefined;
    // Under a key that was disabled since, it may be a forgery: nobody may read it any more, sealed anew or not.
    if (record.keyId !== undefined && !isEnabled(ring, record.keyId)) return undefined;
    const { content } = record;
    try {
      return {
        key: address.key,
        expected,
        next: this.#parts.codec.seal(ring, address, content),
        expires: content.expires,
      };
    } catch (cause) {
      this.#report("reencrypt:error", { ...eventOf(job, ring.primary), error: reencryptionError(cause) });
      return undefined;
    }
  }
}

function reencryptionError(cause: unknown): KeywardError {
  const hint = "The record is as it was; its next read tries again.";
  return asKeywardError(cause, "STORE_UNAVAILABLE", "Re-encryption behind a read failed", hint);
}

function eventOf({ address, record }: Job, to: string): ReencryptEvent {
  return { ...address, from: record.keyId ?? record.format, to };
}
