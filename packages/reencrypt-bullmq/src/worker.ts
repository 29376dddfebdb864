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

/** Options of {@link reencryptionWorker}. */
export interface ReencryptionWorkerOptions
  extends QueueOptions,
    Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond"> {
  /**
   * The encrypted store whose records the worker re-encrypts, or a Keyv that `createKeyv` created over this store. All
   * workers need a store with the same records and a keyring with the same keys.
   */
  readonly store: EncryptedStoreOrKeyv;
  /**
   * Maximum number of pages that the worker processes at a time. If the worker crashes, the pages in progress are
   * processed again. Default: 1, because other workers run in parallel.
   */
  readonly concurrency?: number;
  /**
   * How long the lock on a range outlives a crash of its worker, in milliseconds. Another worker continues the range at
   * most 2 × `lockMs` after the crash. Default: 30,000.
   */
  readonly lockMs?: number;
  /**
   * The worker calls this function with its report at the end of each range, and when it stops within a range. The
   * report lists the records that cannot be decrypted, each with the record's key. Default: none.
   */
  readonly onReport?: (report: ReencryptReport) => void;
  /**
   * The worker calls this function with the error of each failed attempt at a job, and with errors of its connection to
   * the queue. It retries the job and reconnects by itself. A connection error that recurs is reported once, and then
   * at growing intervals with the number of times that it has occurred. After the worker has reconnected, the next
   * connection error is reported immediately. Default: none.
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

/** A worker of this process, which re-encrypts ranges until it is closed. */
export interface ReencryptionWorker {
  /**
   * Stops the worker after its current page. Another worker, or a worker that is started later, continues the range
   * after that page.
   */
  close(): Promise<void>;
}

/**
 * Starts a worker that re-encrypts the ranges that `startReencryption` adds to the queue, one range at a time. Start a
 * worker in each process that should share the work, before or after you call `startReencryption`.
 *
 * @throws KeywardError with one of these codes:
 *
 * - `STORE_INVALID` if `store` is not an encrypted store.
 * - `VALUE_INVALID` if an option is unknown or out of range, the prefix of a queue on a Cluster is not in braces, or
 *   the URL of the queue's Redis is invalid.
 *
 * @example
 * ```ts
 * import { createKeyv } from "@keyward/core";
 * import { envKeys } from "@keyward/keys-env";
 * import { reencryptionWorker } from "@keyward/reencrypt-bullmq";
 * import { RedisStore } from "@keyward/store-redis";
 *
 * const connection = process.env["REDIS_URL"] ?? "redis://localhost";
 * const sessions = createKeyv({ store: new RedisStore(connection), keys: envKeys("APP_ENCRYPTION_KEY") });
 * const worker = reencryptionWorker({ connection, store: sessions, onError: console.error });
 * process.once("SIGTERM", () => worker.close());
 * ```
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
  /** The id of the job whose range this worker re-encrypts now. */
  #inProgress: string | undefined;

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
      // A job is never abandoned, no matter how many workers die while they process it.
      maxStalledCount: Number.MAX_SAFE_INTEGER,
    });
    this.#queue.on("error", this.#reportError);
    this.#worker.on("error", (error) => {
      if (!this.#isLateRenewal(error)) this.#reportError(error);
    });
    this.#worker.on("ready", () => this.#repetitions.succeeded());
  }

  /** Reports an error of the connection to the queue. */
  readonly #reportError = (error: unknown): void => {
    const reported = withoutArguments(error);
    const repetition = this.#repetitions.occurred(reported);
    if (repetition !== undefined) this.#options.onError?.(reported, repetition);
  };

  /**
   * Returns whether BullMQ failed to renew the lock of a job that this worker had already given back. The worker renews
   * locks by a timer, so a renewal can reach the queue just after the job has ended. That is harmless.
   */
  #isLateRenewal({ message }: Error): boolean {
    const id = /^could not renew lock for job (.+)$/.exec(message)?.[1];
    return id !== undefined && id !== this.#inProgress;
  }

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
    this.#inProgress = job.id;
    try {
      done = await this.#reencrypt(job);
    } catch (error) {
      this.#options.onError?.(withoutArguments(error), { times: 1 });
      throw errorForQueue(error);
    } finally {
      this.#inProgress = undefined;
    }
    if (done !== undefined) return done;
    await job.moveToWait(token);
    throw new WaitingError();
  }

  /**
   * Re-encrypts the range of a job. Returns the counts of the range, or `undefined` if the worker was stopped before
   * the range was done.
   */
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
          // The last checkpoint is kept, in case the worker dies before it can report that the job is done.
          if (checkpoint !== undefined) await job.updateData({ ...job.data, checkpoint });
          if (await this.#queue.isPaused()) paused.abort();
        },
      },
      onProgress: (progress) => {
        job.updateProgress(countsOf(progress)).catch(this.#reportError);
      },
    });
    onReport?.(report);
    // A report with unreadable records is incomplete too, but repeating the range would not help.
    if (!report.complete && signal.aborted) return undefined;
    if (report.primary !== primary) await requirePrimary(store, primary);
    return countsOf(report);
  }
}

/**
 * Checks that the primary of the worker's keyring is the key of the run. Otherwise the worker would re-encrypt records
 * under an earlier or a later key.
 */
async function requirePrimary(store: EncryptedStore, primary: string): Promise<void> {
  if ((await primaryOf(store)) === primary) return;
  const message = `The job re-encrypts under key "${primary}", which is not the primary of this worker's keyring`;
  throw new KeywardError("KEYRING_CONFLICT", message, {
    hint: `If this worker has an older keyring, give the worker the keyring in which key "${primary}" is the primary. If another key has become the primary since \`startReencryption\` was called, call \`startReencryption\` again.`,
    keyId: primary,
  });
}

/**
 * Returns the error that the queue stores. Messages of other libraries are left out, because they may contain secrets.
 */
function errorForQueue(error: unknown): Error {
  if (error instanceof KeywardError) return new Error(`${error.code}: ${error.message}`);
  return new Error(error instanceof Error ? error.name : "A value that is not an Error was thrown");
}
