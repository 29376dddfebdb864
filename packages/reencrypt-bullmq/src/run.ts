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
  askingQueue,
  bullOptions,
  type Counts,
  primaryOf,
  type QueueOptions,
  queueOptionNames,
  type RangeQueue,
} from "./queue.ts";

/** What {@link startReencryption} needs. */
export interface StartReencryptionOptions extends QueueOptions {
  /** The store whose records are to be sealed again, or a Keyv of `createKeyv` over it. */
  readonly store: EncryptedStoreOrKeyv;
  /** How many jobs to divide the store into, where it can be divided; a few for each worker. Default 16. */
  readonly ranges?: number;
  /** How often a job is tried, at growing distances from 1 s, before it counts as failed. Default 10. */
  readonly attempts?: number;
}

/** How far a run has come: the jobs of its latest round, over all workers. */
export interface RunProgress extends Counts {
  /** How many times the store is being walked; above 1 where the census found records that were left. */
  readonly round: number;
  /** All jobs of the round. */
  readonly jobs: number;
  /** Jobs that a worker has now. */
  readonly active: number;
  /** Jobs that are done. */
  readonly completed: number;
  /** Jobs that failed at every attempt. */
  readonly failed: number;
}

/** How to wait for the end of a run. */
export interface FinishedOptions {
  /** Stops the waiting, which then rejects with the reason; the workers go on. */
  readonly signal?: AbortSignal;
  /** Called each time the queue was asked. */
  readonly onProgress?: (progress: RunProgress) => void;
  /** How often to ask the queue, in ms. Default 1,000. */
  readonly pollMs?: number;
  /** How many times to walk the store again where records were left. Default 2. */
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

/** A run over a whole store, which any number of processes may hold. */
export interface ReencryptionRun {
  /** The id of the key that the records are to lie under. */
  readonly primary: string;
  /** How far the workers have come, read from the queue. Rejects with an `AbortError` when the run was aborted. */
  progress(): Promise<RunProgress>;
  /**
   * Resolves once all jobs are over and a census finds every record of the store under {@link ReencryptionRun.primary}.
   * Where it finds others, such as records that a process with an older ring wrote meanwhile, the store is walked again.
   *
   * @throws KeywardError `VALUE_INVALID` for an option that there is not, or cannot be; `KEY_IN_USE` when records are left after the last walk, with their `counts`; `KEYRING_CONFLICT`
   * when another key has become primary; `STORE_UNAVAILABLE`. An `AbortError` when the run was aborted.
   */
  finished(options?: FinishedOptions): Promise<Census>;
  /** Has all workers stop after the page under way. They keep their connections and their places. */
  pause(): Promise<void>;
  /** Has the workers go on. */
  resume(): Promise<void>;
  /** Ends the run for everybody: the workers stop after the page under way, and its jobs are removed. */
  abort(): Promise<void>;
  /** Closes the connection to the queue. The workers go on. */
  close(): Promise<void>;
}

/**
 * Puts one job for each range of the store into the queue, for the workers that {@link reencryptionWorker} makes. For a
 * key that has a run already it adds nothing but joins it, and has its failed jobs tried again.
 *
 * @throws KeywardError `STORE_INVALID`, `STORE_NOT_ATOMIC`, `STORE_NOT_SCANNABLE`; `VALUE_INVALID` for an option that there
 * is not, a count that is not a whole number from 1, or on a Cluster a prefix without braces; `KEYRING_INVALID` for a ring without keys; `PROVIDER_UNAVAILABLE`;
 * `STORE_UNAVAILABLE` when the Redis of the queue fails.
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
    await askingQueue(() => run.start());
  } catch (error) {
    await run.close();
    throw error;
  }
  return {
    primary: run.primary,
    progress: () => askingQueue(() => run.progress()),
    finished: (wait) => askingQueue(() => run.finished(wait), wait?.signal),
    pause: () => askingQueue(() => run.pause()),
    resume: () => askingQueue(() => run.resume()),
    abort: () => askingQueue(() => run.abort()),
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
    // What fails rejects besides.
    queue.on("error", () => undefined);
  }

  async start(): Promise<void> {
    const { ranges = defaultRanges } = this.#options;
    // Asked for first, so that nothing is added where the store cannot be scanned.
    await rangesOf(this.#options.store, ranges);
    await this.#findRound();
    await this.#addRound(ranges);
    await this.#retryFailed();
  }

  async progress(): Promise<RunProgress> {
    const sum = { scanned: 0, current: 0, reencrypted: 0, conflicts: 0, expired: 0, unreadable: 0 };
    const states = { active: 0, completed: 0, failed: 0 };
    for (const id of this.#ids()) {
      const [state, job] = await Promise.all([this.#queue.getJobState(id), this.#queue.getJob(id)]);
      if (state === "unknown") throw new DOMException("The run was aborted: its jobs are gone", "AbortError");
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
    for (let walk = 0; ; walk++) {
      await this.#over(options);
      const counts = await census(this.#options.store, signal === undefined ? {} : { signal });
      const left = counts.records - (counts.keys.get(this.primary) ?? 0);
      if (left === 0) return counts;
      if ((await primaryOf(this.#options.store)) !== this.primary) {
        throw new KeywardError("KEYRING_CONFLICT", "Another key became primary during the re-encryption", {
          hint: "Start a run again: it will be for the key that is primary now.",
          keyId: this.primary,
        });
      }
      if (walk >= repeats) throw await this.#remaining(counts, left);
      // A census takes long: nobody may have aborted the run meanwhile.
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
    // Oldest first: whoever waits for a round finds it gone before he would add the next one.
    for (let round = 1; round <= this.#round; round++) {
      for (let index = 0; index < this.#jobs; index++) {
        // A worker that has it lets go after its page; the lock of one that died runs out.
        const id = jobId(this.primary, round, index);
        while ((await this.#queue.remove(id)) === 0) await sleep(pauseMs);
      }
    }
    if (!wasPaused) await this.#queue.resume();
  }

  async close(): Promise<void> {
    await this.#queue.close();
  }

  /** The latest round, which another process may have added. */
  async #findRound(): Promise<void> {
    while ((await this.#queue.getJob(jobId(this.primary, this.#round + 1, 0))) !== undefined) this.#round++;
  }

  /** Adds what the round does not have yet, divided as whoever came first has divided it. */
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

  async #over({ signal, onProgress, pollMs = 1_000 }: FinishedOptions): Promise<void> {
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
    return new KeywardError("KEY_IN_USE", `${left} records do not lie under the primary after the last walk`, {
      hint: "A process that still seals under another key? Else see what reports of workers say of records that do not open.",
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

/** The id of a job: whoever adds it again adds nothing. */
function jobId(primary: string, round: number, index: number): string {
  return `${primary}.${round}.${index}`;
}

const countNames = ["scanned", "current", "reencrypted", "conflicts", "expired", "unreadable"] as const;

function readCount(counts: unknown, name: keyof Counts): number {
  const count: unknown = typeof counts === "object" && counts !== null ? Reflect.get(counts, name) : 0;
  return typeof count === "number" ? count : 0;
}
