import { setTimeout as sleep } from "node:timers/promises";
import {
  type Census,
  census,
  type EncryptedStoreOrKeyv,
  KeywardError,
  type OptionNames,
  rangesOf,
  requireAmount,
  requireOptions,
} from "@keyward/core";
import { Queue } from "bullmq";
import {
  bullOptions,
  type Counts,
  primaryOf,
  type QueueOptions,
  queueOptionNames,
  type RangeQueue,
  withQueueErrors,
} from "./queue.ts";

/** Options of {@link startReencryption}. */
export interface StartReencryptionOptions extends QueueOptions {
  /** The encrypted store whose records are re-encrypted, or a Keyv that `createKeyv` created over this store. */
  readonly store: EncryptedStoreOrKeyv;
  /**
   * Number of ranges to divide the store into. Each range is one job. Choose a few ranges per worker. A store that
   * cannot be divided is one job. Default: 16.
   */
  readonly ranges?: number;
  /**
   * Maximum number of attempts of a job before it counts as failed. The pause before the second attempt is about 1 s,
   * and each later pause is twice as long as the pause before it. Default: 10.
   */
  readonly attempts?: number;
}

/**
 * Progress of a run: the number of jobs in each state in the latest pass, and the numbers of records that all workers
 * together have processed in this pass.
 */
export interface RunProgress extends Counts {
  /**
   * Number of the current pass over the store. The first pass has number 1. Another pass follows if a census finds
   * records that are not under {@link ReencryptionRun.primary}.
   */
  readonly round: number;
  /** Number of jobs in the current pass. */
  readonly jobs: number;
  /** Number of jobs that workers are processing now. */
  readonly active: number;
  /** Number of jobs that are done without an error. */
  readonly completed: number;
  /** Number of jobs that failed at every attempt and are no longer retried. */
  readonly failed: number;
}

/** Options of `ReencryptionRun.finished()`. */
export interface FinishedOptions {
  /** If this signal is aborted, `finished()` rejects with the signal's reason. The workers continue. Default: none. */
  readonly signal?: AbortSignal;
  /** `finished()` calls this function with the progress of the run after each poll of the queue. Default: none. */
  readonly onProgress?: (progress: RunProgress) => void;
  /** Pause between two polls of the queue, in milliseconds. Default: 1,000. */
  readonly pollMs?: number;
  /**
   * Maximum number of further passes over the store that `finished()` starts. `finished()` starts a further pass if a
   * census finds records that are not under {@link ReencryptionRun.primary}. Default: 2.
   */
  readonly repeats?: number;
}

const startOptionNames = {
  ...queueOptionNames,
  store: true,
  ranges: true,
  attempts: true,
} as const satisfies OptionNames<StartReencryptionOptions>;

const finishedOptionNames = {
  signal: true,
  onProgress: true,
  pollMs: true,
  repeats: true,
} as const satisfies OptionNames<FinishedOptions>;

/** A run: one re-encryption of all records of a store. Any number of processes may start or join the same run. */
export interface ReencryptionRun {
  /** The id of the encryption key under which the run re-encrypts all records. */
  readonly primary: string;
  /** Reads the progress of all workers from the queue. Rejects with an `AbortError` if the run has been aborted. */
  progress(): Promise<RunProgress>;
  /**
   * Waits until all jobs are done, and then counts the records under each encryption key (a census). Resolves to the
   * census if it finds every record under {@link ReencryptionRun.primary}. If the census finds records under other
   * encryption keys, for example because a process with an older keyring wrote them, the workers make another pass over
   * the store.
   *
   * @throws KeywardError with one of these codes, or an `AbortError` if the run has been aborted:
   *
   * - `VALUE_INVALID` if an option is unknown or out of range.
   * - `KEY_IN_USE` if records under other encryption keys remain after the last pass. The property `counts` of the
   *   error has the number of these records for each key id.
   * - `KEYRING_CONFLICT` if another key has become the primary of the keyring during the run.
   * - `STORE_UNAVAILABLE` if the store or the queue's Redis fails.
   */
  finished(options?: FinishedOptions): Promise<Census>;
  /** Pauses all workers after their current page. The workers stay connected and keep their progress. */
  pause(): Promise<void>;
  /** Lets the workers continue after a call of {@link ReencryptionRun.pause}. */
  resume(): Promise<void>;
  /**
   * Ends the run in every process. The workers stop after their current page, and the jobs are removed. Records that
   * were re-encrypted stay under {@link ReencryptionRun.primary}.
   */
  abort(): Promise<void>;
  /** Closes the connection of this process to the queue. The run and its workers continue. */
  close(): Promise<void>;
}

/**
 * Starts the re-encryption of a store under its primary key, and adds one job for each range of the store to the queue.
 * The workers that `reencryptionWorker` creates process the jobs. If there is already a run for this primary key, the
 * call joins that run and retries its failed jobs.
 *
 * @throws KeywardError with one of these codes:
 *
 * - `STORE_INVALID`, `STORE_NOT_ATOMIC` or `STORE_NOT_SCANNABLE` if the store cannot be re-encrypted.
 * - `VALUE_INVALID` if an option is unknown, `ranges` or `attempts` is not an integer of at least 1, the prefix of a
 *   queue on a Cluster is not in braces, or the URL of the queue's Redis is invalid.
 * - `KEYRING_INVALID` if the keyring has no keys.
 * - `PROVIDER_UNAVAILABLE` if the keyring cannot be loaded.
 * - `STORE_UNAVAILABLE` if the queue's Redis fails.
 *
 * @example
 * ```ts
 * import { createKeyv } from "@keyward/core";
 * import { envKeys } from "@keyward/keys-env";
 * import { reencryptionWorker, startReencryption } from "@keyward/reencrypt-bullmq";
 * import { RedisStore } from "@keyward/store-redis";
 *
 * const connection = process.env["REDIS_URL"] ?? "redis://localhost";
 * const sessions = createKeyv({ store: new RedisStore(connection), keys: envKeys("APP_ENCRYPTION_KEY") });
 * const worker = reencryptionWorker({ connection, store: sessions, onError: console.error });
 * const run = await startReencryption({ connection, store: sessions });
 * console.log((await run.finished()).keys); // the number of records per key id
 * await run.close();
 * await worker.close();
 * await sessions.disconnect();
 * ```
 */
export async function startReencryption(options: StartReencryptionOptions): Promise<ReencryptionRun> {
  const { ranges = defaultRanges, attempts = defaultAttempts } = requireOptions(
    "startReencryption",
    options,
    startOptionNames,
  );
  requireAmount("ranges", ranges, "ranges");
  requireAmount("attempts", attempts, "attempts");
  const primary = await primaryOf(options.store);
  const { name, options: shared } = bullOptions(options);
  const run = new QueuedRun(primary, new Queue(name, shared), options);
  try {
    await withQueueErrors(() => run.start());
  } catch (error) {
    await run.close();
    throw error;
  }
  return {
    primary: run.primary,
    progress: () => withQueueErrors(() => run.progress()),
    finished: (wait) => withQueueErrors(() => run.finished(wait), wait?.signal),
    pause: () => withQueueErrors(() => run.pause()),
    resume: () => withQueueErrors(() => run.resume()),
    abort: () => withQueueErrors(() => run.abort()),
    close: () => run.close(),
  };
}

const keptForSeconds = 7 * 24 * 60 * 60;
const pauseMs = 100;
const defaultRanges = 16;
const defaultAttempts = 10;

class QueuedRun implements ReencryptionRun {
  readonly primary: string;
  readonly #queue: RangeQueue;
  readonly #options: StartReencryptionOptions;
  #round = 1;
  #jobs = 0;

  constructor(primary: string, queue: RangeQueue, options: StartReencryptionOptions) {
    this.primary = primary;
    this.#queue = queue;
    this.#options = options;
    // BullMQ also rejects the call that failed, so the event needs no handling.
    queue.on("error", () => undefined);
  }

  async start(): Promise<void> {
    const { ranges = defaultRanges } = this.#options;
    // The ranges are read first, so that nothing is added for a store that cannot be scanned.
    await rangesOf(this.#options.store, ranges);
    await this.#findRound();
    await this.#addRound(ranges);
    await this.#retryFailed();
  }

  async progress(): Promise<RunProgress> {
    const sum = {
      scanned: 0,
      current: 0,
      reencrypted: 0,
      conflicts: 0,
      expired: 0,
      unreadable: 0,
      unauthenticated: 0,
      removed: 0,
    };
    const states = { active: 0, completed: 0, failed: 0 };
    for (const id of this.#ids()) {
      const [state, job] = await Promise.all([this.#queue.getJobState(id), this.#queue.getJob(id)]);
      if (state === "unknown") {
        throw new DOMException("The re-encryption was aborted, so its jobs are no longer in the queue", "AbortError");
      }
      if (state === "active" || state === "completed" || state === "failed") states[state]++;
      const counts: unknown = job?.returnvalue ?? job?.progress;
      for (const name of countNames) sum[name] += readCount(counts, name);
    }
    return { round: this.#round, jobs: this.#jobs, ...states, ...sum };
  }

  async finished(options: FinishedOptions = {}): Promise<Census> {
    const { signal, repeats = 2, pollMs = 1_000 } = requireOptions("finished", options, finishedOptionNames);
    requireAmount("repeats", repeats, "attempts", { least: 0 });
    requireAmount("pollMs", pollMs, "milliseconds");
    for (let pass = 0; ; pass++) {
      await this.#waitForJobs(options);
      const counts = await census(this.#options.store, signal === undefined ? {} : { signal });
      const left = counts.records - (counts.keys.get(this.primary) ?? 0);
      if (left === 0) return counts;
      if ((await primaryOf(this.#options.store)) !== this.primary) {
        throw new KeywardError(
          "KEYRING_CONFLICT",
          "Another key has become the primary of the keyring during the re-encryption",
          {
            hint: "Call `startReencryption` again to re-encrypt the records under the new primary.",
            keyId: this.primary,
          },
        );
      }
      if (pass >= repeats) throw await this.#remaining(counts, left);
      // A census takes long. If the run was aborted meanwhile, progress() rejects.
      await this.progress();
      this.#round++;
      await this.#addRound(this.#jobs);
    }
  }

  async pause(): Promise<void> {
    await this.#queue.pause();
  }

  async resume(): Promise<void> {
    await this.#queue.resume();
  }

  async abort(): Promise<void> {
    const wasPaused = await this.#queue.isPaused();
    await this.#queue.pause();
    await this.#findRound();
    // Oldest pass first, so that a process that waits for a pass finds its jobs removed before it would add the next pass.
    for (let round = 1; round <= this.#round; round++) {
      for (let index = 0; index < this.#jobs; index++) {
        // An active job cannot be removed. Its worker returns it after the current page; the lock of a dead worker
        // expires.
        const id = jobId(this.primary, round, index);
        while ((await this.#queue.remove(id)) === 0) await sleep(pauseMs);
      }
    }
    if (!wasPaused) await this.#queue.resume();
  }

  async close(): Promise<void> {
    await this.#queue.close();
  }

  /** Sets `#round` to the number of the latest pass in the queue. Another process may have added the jobs of this pass. */
  async #findRound(): Promise<void> {
    while ((await this.#queue.getJob(jobId(this.primary, this.#round + 1, 0))) !== undefined) this.#round++;
  }

  /**
   * Adds the jobs of the current pass that are not in the queue yet. `jobs` is the number of ranges to divide the store
   * into. If another process has added the first job, the number in that job applies instead.
   */
  async #addRound(jobs: number): Promise<void> {
    const first = jobId(this.primary, this.#round, 0);
    const divided = (await this.#queue.getJob(first))?.data.jobs ?? jobs;
    const ranges = await rangesOf(this.#options.store, divided);
    await this.#queue.addBulk(
      ranges.map((range, index) => ({
        name: "range",
        data: { primary: this.primary, jobs: ranges.length, ...(range === undefined ? {} : { range }) },
        opts: {
          jobId: jobId(this.primary, this.#round, index),
          attempts: this.#options.attempts ?? defaultAttempts,
          backoff: { type: "exponential", delay: 1_000, jitter: 0.5 },
          removeOnComplete: { age: keptForSeconds },
          removeOnFail: { age: keptForSeconds },
          stackTraceLimit: 0,
        },
      })),
    );
    this.#jobs = (await this.#queue.getJob(first))?.data.jobs ?? ranges.length;
  }

  async #retryFailed(): Promise<void> {
    for (const id of this.#ids()) {
      if ((await this.#queue.getJobState(id)) !== "failed") continue;
      const job = await this.#queue.getJob(id);
      await job?.retry("failed", { resetAttemptsMade: true });
    }
  }

  async #waitForJobs({ signal, onProgress, pollMs = 1_000 }: FinishedOptions): Promise<void> {
    for (;;) {
      signal?.throwIfAborted();
      const progress = await this.progress();
      onProgress?.(progress);
      if (progress.completed + progress.failed === progress.jobs) return;
      await sleep(pollMs, undefined, signal === undefined ? {} : { signal }).catch(() => signal?.throwIfAborted());
    }
  }

  async #remaining(counts: Census, left: number): Promise<KeywardError> {
    const jobs = await Promise.all(this.#ids().map((id) => this.#queue.getJob(id)));
    const reasons = new Set(jobs.flatMap((job) => job?.failedReason ?? []));
    const message = `${left} records are still under other keys than "${this.primary}" after the last pass`;
    return new KeywardError("KEY_IN_USE", message, {
      hint:
        "Check that every process has loaded the keyring with the new primary, because a process with an older keyring may " +
        "have written these records. Then start the re-encryption again. If records still remain, read the reports that " +
        "workers pass to `onReport`. A report lists the records that were not re-encrypted, because they cannot be decrypted.",
      keyId: this.primary,
      counts: {
        ...Object.fromEntries([...counts.keys].filter(([id]) => id !== this.primary)),
        ...(counts.unsealed > 0 ? { unsealed: counts.unsealed } : {}),
        ...(counts.broken > 0 ? { broken: counts.broken } : {}),
      },
      ...(reasons.size === 0 ? {} : { cause: new Error([...reasons].join("; ")) }),
    });
  }

  #ids(): string[] {
    return Array.from({ length: this.#jobs }, (_, index) => jobId(this.primary, this.#round, index));
  }
}

/** Returns the id of a job. BullMQ ignores a job whose id is already in the queue. */
function jobId(primary: string, round: number, index: number): string {
  return `${primary}.${round}.${index}`;
}

const countNames = [
  "scanned",
  "current",
  "reencrypted",
  "conflicts",
  "expired",
  "unreadable",
  "unauthenticated",
  "removed",
] as const;

function readCount(counts: unknown, name: keyof Counts): number {
  const count: unknown = typeof counts === "object" && counts !== null ? Reflect.get(counts, name) : 0;
  return typeof count === "number" ? count : 0;
}
