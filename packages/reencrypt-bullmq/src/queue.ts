import {
  type EncryptedStoreOrKeyv,
  KeywardError,
  type OptionNames,
  type ReencryptProgress,
  reencrypt,
  requireUrl,
} from "@keyward/core";
import type { ConnectionOptions, Queue } from "bullmq";

/** Connection to the queue's Redis: a URL, or any `connection` of BullMQ, such as options or a client of ioredis. */
export type BullConnection = string | URL | ConnectionOptions;

/** Options that select the queue. Pass the same values to `startReencryption` and to all workers of the run. */
export interface QueueOptions {
  /** The Redis that stores the queue. The records may be stored in another Redis, or in another kind of store. */
  readonly connection: BullConnection;
  /** Name of the queue. Each store needs a separate queue. Default: "keyward-reencryption". */
  readonly queue?: string;
  /**
   * Prefix of the queue's keys in Redis. Default: "bull". On a Cluster the prefix must be in braces, such as "{bull}",
   * so that all these keys are in one slot.
   */
  readonly prefix?: string;
}

export const queueOptionNames = {
  connection: true,
  queue: true,
  prefix: true,
} as const satisfies OptionNames<QueueOptions>;

/**
 * The data of a job in the queue. The data contains no values of records. With a SqliteStore, the cursor in
 * `checkpoint` contains the key of a record.
 */
export interface RangeJob {
  /** The id of the encryption key under which the job re-encrypts the records. */
  readonly primary: string;
  /** Number of all jobs in one pass over the store, including this job. */
  readonly jobs: number;
  /**
   * The range of the store that the job re-encrypts. Absent if the store cannot be divided into ranges. Then the job
   * re-encrypts the whole store.
   */
  readonly range?: string;
  /**
   * The counts of the job so far, and the cursor of the store at which the job continues. Absent until the first page
   * is done.
   */
  readonly checkpoint?: string;
}

/** How many records a job has read (`scanned`), and how many of them had each outcome, such as `reencrypted`. */
export type Counts = Omit<ReencryptProgress, "ratePerSecond">;

/** The BullMQ queue, which has one job for each range of a store. */
export type RangeQueue = Queue<RangeJob, Counts, string>;

/**
 * Returns the name of the queue, and the BullMQ options that the queue and its workers share.
 *
 * @throws KeywardError `VALUE_INVALID` if the Redis keys of the queue would be in several slots of a Cluster, if the
 * URL cannot be parsed, or if its password is not percent-encoded.
 */
export function bullOptions({ connection, queue = "keyward-reencryption", prefix = "bull" }: QueueOptions) {
  if (isCluster(connection) && !/^[^{]*\{[^}]/.test(`${prefix}:${queue}`)) {
    throw new KeywardError("VALUE_INVALID", "The Redis keys of the queue would be in several slots of the Cluster", {
      hint: "BullMQ needs all Redis keys of a queue in one slot. So pass a `prefix` in braces, such as `{bull}`, to `startReencryption` and to all workers.",
    });
  }
  return { name: queue, options: { connection: checkedConnection(connection), prefix } };
}

/** Returns the connection after a check of its URL, because errors of BullMQ and ioredis would show the URL's password. */
function checkedConnection(connection: BullConnection): ConnectionOptions {
  if (typeof connection === "string" || connection instanceof URL) return { url: checkedUrl(connection) };
  if (!("url" in connection) || typeof connection.url !== "string") return connection;
  return { ...connection, url: checkedUrl(connection.url) };
}

function checkedUrl(given: string | URL): string {
  const rules = { protocols: ["redis:", "rediss:"], form: "rediss://user:password@host:6379/0" };
  return requireUrl("The URL of the queue's Redis", given, rules).href;
}

function isCluster(connection: BullConnection): boolean {
  return typeof connection === "object" && "isCluster" in connection && connection.isCluster === true;
}

/** Returns the id of the primary key of the store's keyring. */
export async function primaryOf(store: EncryptedStoreOrKeyv): Promise<string> {
  // A re-encryption that is aborted before it begins only reads the keyring.
  return (await reencrypt(store, { dryRun: true, signal: AbortSignal.abort() })).primary;
}

/** Picks the counts of records from the progress of a re-encryption, without the other properties. */
export function countsOf(progress: Counts): Counts {
  const { scanned, current, reencrypted, conflicts, expired, unreadable, unauthenticated, removed } = progress;
  return { scanned, current, reencrypted, conflicts, expired, unreadable, unauthenticated, removed };
}

/**
 * Returns the error without the arguments of the Redis command that failed. ioredis attaches the command to its errors,
 * and a login command includes the password. Redis also quotes arguments in some error replies, so the message is cut
 * off at the first quotation mark.
 */
export function withoutArguments(error: unknown): unknown {
  if (!(error instanceof Error && ("command" in error || "lastNodeError" in error))) return error;
  return new Error(error.message.replace(/\s*['"`].*$/s, " …"));
}

/**
 * Runs `work`, which uses the queue, and turns an error of the queue's Redis into a KeywardError.
 *
 * @param signal the signal with which the caller can abort `work`. If `work` rejects with the reason of this signal,
 * the reason is thrown unchanged.
 * @throws KeywardError `STORE_UNAVAILABLE` if the queue's Redis fails.
 */
export async function withQueueErrors<Result>(work: () => Promise<Result>, signal?: AbortSignal): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted === true && error === signal.reason) throw error;
    if (error instanceof KeywardError || (error instanceof DOMException && error.name === "AbortError")) throw error;
    throw new KeywardError("STORE_UNAVAILABLE", "The Redis of the re-encryption queue failed", {
      hint:
        "Check that the Redis of the queue can be reached and allows the commands of BullMQ. The property `error.cause` " +
        "has the error of the Redis client. Then repeat the call, because the queue keeps its jobs.",
      cause: withoutArguments(error),
    });
  }
}
