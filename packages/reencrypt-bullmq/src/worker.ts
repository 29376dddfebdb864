import {
  type EncryptedStore,
  type EncryptedStoreOrKeyv,
  encryptedStoreOf,
  KeywardError,
  type OptionNames,
  type ReencryptOptions,
  type ReencryptReport,
  type Repetition,
  Repetitions,
  reencrypt,
  requireAmount,
  requireOptions,
} from "@keyward/core";
import { type Job, Queue, WaitingError, Worker } from "bullmq";
import {
  bullOptions,
  type Counts,
  countsOf,
  primaryOf,
  type QueueOptions,
  queueOptionNames,
  type RangeJob,
  type RangeQueue,
  withoutArguments,
} from "./queue.ts";

/** How a worker goes about its jobs. */
export interface ReencryptionWorkerOptions
  extends QueueOptions,
    Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond"> {
  /**
   * The store whose records are sealed again, or a Keyv of `createKeyv` over it: the same records, and a ring of the same
   * keys, in every worker.
   */
  readonly store: EncryptedStoreOrKeyv;
  /**
   * Pages being worked on at a time. What is under way when a worker dies is looked at again. Default 1, since there are
   * several workers.
   */
  readonly concurrency?: number;
  /** How long after the death of a worker another one may take its range, in ms. Default 30,000. */
  readonly lockMs?: number;
  /** Hears in this process what a range came to, with the keys of records that cannot be opened. */
  readonly onReport?: (report: ReencryptReport) => void;
  /**
   * Hears why an attempt failed, and of what goes wrong in the background: of that once, then with a count and growing
   * pauses, and at once again after the worker was connected. The work goes on by itself.
   */
  readonly onError?: (error: unknown, repetition: Repetition) => void;
}

const workerOptionNames = {
  ...queueOptionNames,
  store: true,
  batchSize: true,
  concurrency: true,
  maxPerSecond: true,
  lockMs: true,
  onReport: true,
  onError: true,
} as const satisfies OptionNames<ReencryptionWorkerOptions>;

/** A process's part in re-encryptions. */
export interface ReencryptionWorker {
  /** Stops after the page under way. Its range goes on where it stopped, in another worker or a later one. */
  close(): Promise<void>;
}

/**
 * Works on the ranges that {@link startReencryption} puts into the queue, one at a time, until it is closed. Start it in
 * as many processes as should share the work, before or after the run is started.
 *
 * @throws KeywardError `STORE_INVALID` for what is no encrypted store; `VALUE_INVALID` for an option that there is not, or
 * cannot be, and for a prefix without braces on a Cluster.
 */
export function reencryptionWorker(options: ReencryptionWorkerOptions): ReencryptionWorker {
  return new RangeWorker(options);
}

class RangeWorker implements ReencryptionWorker {
  readonly #options: ReencryptionWorkerOptions;
  readonly #store: EncryptedStore;
  readonly #queue: RangeQueue;
  readonly #worker: Worker<RangeJob, Counts, string>;
  readonly #closing = new AbortController();
  readonly #repetitions = new Repetitions();

  constructor(options: ReencryptionWorkerOptions) {
    const { batchSize, concurrency, maxPerSecond } = requireOptions("reencryptionWorker", options, workerOptionNames);
    const { lockMs = 30_000 } = options;
    if (batchSize !== undefined) requireAmount("batchSize", batchSize, "records");
    if (concurrency !== undefined) requireAmount("concurrency", concurrency, "pages");
    if (maxPerSecond !== undefined) requireAmount("maxPerSecond", maxPerSecond, "records");
    requireAmount("lockMs", lockMs, "milliseconds");
    this.#options = options;
    this.#store = encryptedStoreOf(options.store);
    const { name, options: shared } = bullOptions(options);
    this.#queue = new Queue(name, shared);
    this.#worker = new Worker<RangeJob, Counts, string>(name, (job, token) => this.#process(job, token), {
      ...shared,
      lockDuration: lockMs,
      stalledInterval: lockMs,
      // However many workers die over it: the job goes on.
      maxStalledCount: Number.MAX_SAFE_INTEGER,
    });
    this.#queue.on("error", this.#tell);
    this.#worker.on("error", this.#tell);
    this.#worker.on("ready", () => this.#repetitions.succeeded());
  }

  /** Tells of what goes wrong in the background. */
  readonly #tell = (error: unknown): void => {
    const told = withoutArguments(error);
    const repetition = this.#repetitions.occurred(told);
    if (repetition !== undefined) this.#options.onError?.(told, repetition);
  };

  async close(): Promise<void> {
    this.#closing.abort();
    try {
      await this.#worker.close();
    } finally {
      await this.#queue.close();
    }
  }

  async #process(job: Job<RangeJob, Counts, string>, token: string | undefined): Promise<Counts> {
    let done: Counts | undefined;
    try {
      done = await this.#reencrypt(job);
    } catch (error) {
      this.#options.onError?.(withoutArguments(error), { times: 1 });
      throw describe(error);
    }
    if (done !== undefined) return done;
    await job.moveToWait(token);
    throw new WaitingError();
  }

  /** What came of the range; `undefined` where the work was stopped before its end. */
  async #reencrypt(job: Job<RangeJob, Counts, string>): Promise<Counts | undefined> {
    const store = this.#store;
    const { batchSize, concurrency = 1, maxPerSecond, onReport } = this.#options;
    const { primary, range } = job.data;
    await requirePrimary(store, primary);
    const paused = new AbortController();
    const signal = AbortSignal.any([this.#closing.signal, paused.signal]);
    const report = await reencrypt(store, {
      concurrency,
      ...(batchSize === undefined ? {} : { batchSize }),
      ...(maxPerSecond === undefined ? {} : { maxPerSecond }),
      ...(range === undefined ? {} : { range }),
      signal,
      checkpoint: {
        read: async () => job.data.checkpoint,
        write: async (checkpoint) => {
          // At the end the last one stays, for the case that the job is over and nobody learns of it.
          if (checkpoint !== undefined) await job.updateData({ ...job.data, checkpoint });
          if (await this.#queue.isPaused()) paused.abort();
        },
      },
      onProgress: (progress) => {
        job.updateProgress(countsOf(progress)).catch(this.#tell);
      },
    });
    onReport?.(report);
    // A report with unreadable records is not complete either, and another walk would find the same.
    if (!report.complete && signal.aborted) return undefined;
    if (report.primary !== primary) await requirePrimary(store, primary);
    return countsOf(report);
  }
}

/** A worker whose ring is behind would seal under the former key; one that is ahead, under a key nobody asked for. */
async function requirePrimary(store: EncryptedStore, primary: string): Promise<void> {
  if ((await primaryOf(store)) === primary) return;
  throw new KeywardError("KEYRING_CONFLICT", "The primary of this worker's ring is not the key of the run", {
    hint: "Let every worker load the ring in which that key is primary, or start a run for the key that is primary now.",
    keyId: primary,
  });
}

/** What is kept of an error in the queue: nothing that others wrote, which may have anything in it. */
function describe(error: unknown): Error {
  if (error instanceof KeywardError) return new Error(`${error.code}: ${error.message}`);
  return new Error(error instanceof Error ? error.name : "Something was thrown that is no error");
}
