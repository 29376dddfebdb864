import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { asKeywardError, type KeywardError } from "../errors/errors.ts";
import { isEnabled, type Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import { expiryToSet, type RecordAddress } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { type RacingReplacement, requireAtomic, type WrappedStore } from "../store-interface/wrapped-store.ts";
import type { BackgroundEvents } from "./background-events.ts";
import type { LazyReencryptionMode } from "./encrypted-store-options.ts";
import { isCurrent, isForeign, type OpenedRecord, type RecordCodec } from "./record-codec.ts";
import type { WriteGate } from "./write-gate.ts";

/** The argument of the events `reencrypted`, `reencrypt:conflict` and `reencrypt:error`. */
export interface ReencryptEvent {
  /** The namespace of the record; "" if the record has no namespace. */
  readonly namespace: string;
  /** The record's key in the store, which may be confidential. */
  readonly key: string;
  /**
   * The id of the encryption key that the record was encrypted under before. If the record was in a foreign format
   * (written without Keyward), the name of this format.
   */
  readonly from: string;
  /**
   * The id of the encryption key that the record is encrypted under now. With `reencrypt:conflict` or
   * `reencrypt:error`, the id of the key for the re-encryption that was not made; "" if the error occurred before the
   * key was chosen.
   */
  readonly to: string;
  /** The reason why the record was not re-encrypted. Present only with the event `reencrypt:error`. */
  readonly error?: KeywardError;
}

/** The outcome of re-encrypting one record. It is also the name of the event that reports this outcome. */
export type ReencryptOutcome = "reencrypted" | "reencrypt:conflict" | "reencrypt:error";

/**
 * Replaces each record in `changes` whose stored value is unchanged. Returns one boolean for each record: true if it
 * was replaced.
 */
export type ReplaceMany = (changes: readonly RacingReplacement[]) => Promise<boolean[]>;

/** The parts of a store that {@link LazyReencryption} uses. */
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
// The number of records that are encrypted in one turn of the event loop, which encryption blocks.
const batchRecords = 32;
// Length of the pause after a batch, as a multiple of the time that its encryption took. A batch delays reads, which
// share processor, connection and server, by about three times the time of its encryption. With this pause, far fewer
// than one read in a hundred is delayed, and about 100 records of 1 KiB are re-encrypted a second.
const pausePerEncryption = 1_000;
const maxPauseMs = 1_000;

/**
 * Re-encrypts a record in the background after a read found it under an encryption key that is not the primary, or in a
 * foreign format. Limits the length of the queue and the share of processor time. A record that does not fit in the
 * queue is re-encrypted after its next read, or by bulk re-encryption.
 */
export class LazyReencryption {
  readonly #parts: LazyReencryptionParts;
  readonly #queue = new Map<string, Job>();
  readonly #inProgress = new Set<string>();
  #queuedBytes = 0;
  #running: Promise<void> | undefined;
  #pauseUntilMs = 0;
  /** Ends the current pause early. */
  #pausing: AbortController | undefined;
  #waiting = 0;

  constructor(parts: LazyReencryptionParts) {
    this.#parts = parts;
  }

  /**
   * Queues a record for re-encryption after it was read. Does nothing if the record is being re-encrypted already, or
   * if the queue is full. If the record is queued already, the value that was read last replaces the queued value,
   * because the record may have changed.
   *
   * @param expected the stored value that was read. The record is replaced only if the store still contains this value.
   */
  offer(address: RecordAddress, expected: StoredValue, record: OpenedRecord): void {
    const { key } = address;
    if (this.#inProgress.has(key)) return;
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

  /**
   * Resolves when no record is queued or being re-encrypted. While a caller waits for `settled()`, re-encryption does
   * not pause between batches.
   */
  async settled(): Promise<void> {
    this.#waiting++;
    this.#pausing?.abort();
    while (this.#running !== undefined) await this.#running;
    this.#waiting--;
  }

  async #run(): Promise<void> {
    while (this.#queue.size > 0) {
      await nextTurn();
      await this.#pause();
      const batch: Job[] = [];
      for (const [key, job] of this.#queue) {
        if (batch.length === batchRecords) break;
        this.#queue.delete(key);
        this.#queuedBytes -= job.expected.length;
        this.#inProgress.add(key);
        batch.push(job);
      }
      // Only the records of a batch are writes in progress. A queued record is encrypted later, under the keyring that
      // is then in use.
      await this.#parts.source.whileSealing(this.#reencrypt(batch));
      for (const { address } of batch) this.#inProgress.delete(address.key);
    }
  }

  async #pause(): Promise<void> {
    const pauseMs = this.#pauseUntilMs - performance.now();
    if (pauseMs <= 0 || this.#waiting > 0) return;
    this.#pausing = new AbortController();
    const { signal } = this.#pausing;
    await sleep(pauseMs, undefined, { signal, ref: false }).catch((error: unknown) => {
      if (!signal.aborted) throw error;
    });
    this.#pausing = undefined;
  }

  async #reencrypt(batch: readonly Job[]): Promise<void> {
    // Decode first: decoding may take time, and the keyring for writing must be used at once.
    const decodable = await this.#decodable(batch);
    let to = "";
    try {
      const ring = await this.#parts.writeGate.keyringForWriting();
      to = ring.primary;
      const jobs: Job[] = [];
      const changes: RacingReplacement[] = [];
      const startedAtMs = performance.now();
      for (const job of decodable) {
        const change = this.#change(ring, job);
        if (change === undefined) continue;
        jobs.push(job);
        changes.push(change);
      }
      const encryptedAtMs = performance.now();
      const pauseMs = Math.min(maxPauseMs, pausePerEncryption * (encryptedAtMs - startedAtMs));
      this.#pauseUntilMs = encryptedAtMs + pauseMs;
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

  /**
   * Returns the records of a batch that may be re-encrypted. A record in a foreign format that the application cannot
   * decode is left out, and stays unchanged.
   */
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

  /** Returns the replacement of one record; `undefined` if the record must stay unchanged. */
  #change(ring: Keyring, job: Job): RacingReplacement | undefined {
    const { address, expected, record } = job;
    // The keyring may have been reloaded since the read, and the record's key may be its primary.
    if (ring.primary === "" || isCurrent(record.keyId, ring)) return undefined;
    // If the key was disabled since the read, it may be compromised, and the record may be forged: do not make it
    // readable again.
    if (record.keyId !== undefined && !isEnabled(ring, record.keyId)) return undefined;
    const { content } = record;
    try {
      return {
        key: address.key,
        expected,
        next: this.#parts.codec.seal(ring, address, content),
        // The store may not know the expiry that a foreign record contains.
        ...(isForeign(record) ? { expires: expiryToSet(content) } : {}),
        keptExpires: content.expires,
      };
    } catch (cause) {
      this.#report("reencrypt:error", { ...eventOf(job, ring.primary), error: reencryptionError(cause) });
      return undefined;
    }
  }
}

function reencryptionError(cause: unknown): KeywardError {
  const hint =
    "No action is needed: the record is unchanged, and the next read of the record starts its re-encryption again.";
  return asKeywardError(cause, "STORE_UNAVAILABLE", "Lazy re-encryption of a record failed", hint);
}

function eventOf({ address, record }: Job, to: string): ReencryptEvent {
  return { ...address, from: record.keyId ?? record.format, to };
}

/** Returns the function with which lazy re-encryption replaces records; `undefined` if lazy re-encryption is off. */
export function replacementFor(mode: LazyReencryptionMode | undefined, inner: WrappedStore): ReplaceMany | undefined {
  switch (mode) {
    case "off":
      return undefined;
    case "on-read-may-undo-writes":
      inner.takeTurns();
      return (changes) => inner.replaceRacing(changes);
    case undefined:
      return inner.atomic === undefined ? undefined : replacementFor("on-read", inner);
    case "on-read": {
      const atomic = requireAtomic(inner);
      return (changes) => inner.replaceMany(atomic, changes);
    }
  }
}
