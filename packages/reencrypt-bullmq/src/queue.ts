import {
  type EncryptedStoreOrKeyv,
  KeywardError,
  type OptionNames,
  type ReencryptProgress,
  reencrypt,
  requireUrl,
} from "@keyward/core";
import type { ConnectionOptions, Queue } from "bullmq";

/** The Redis that holds the queue: a URL, or what BullMQ takes as `connection`, such as options or a client of ioredis. */
export type BullConnection = string | URL | ConnectionOptions;

/** Where a run and its workers meet. */
export interface QueueOptions {
  /** The Redis of the queue; the records may lie in another. */
  readonly connection: BullConnection;
  /** The name of the queue. Each store needs one of its own. Default "keyward-reencryption". */
  readonly queue?: string;
  /** What the keys of the queue begin with in Redis. Default "bull"; on a Cluster it has to be in braces, as in "{bull}". */
  readonly prefix?: string;
}

export const queueOptionNames = {
  connection: true,
  queue: true,
  prefix: true,
} as const satisfies OptionNames<QueueOptions>;

/** What a job of the queue holds. It names no record: the checkpoint has counts and the cursor of the store. */
export interface RangeJob {
  /** The id of the key to seal under. */
  readonly primary: string;
  /** How many jobs the round has. */
  readonly jobs: number;
  /** Which records; absent where the store cannot be divided. */
  readonly range?: string;
  /** How far the job has come. */
  readonly checkpoint?: string;
}

/** What jobs have done. */
export type Counts = Omit<ReencryptProgress, "ratePerSecond">;

/** The queue of range jobs. */
export type RangeQueue = Queue<RangeJob, Counts, string>;

/**
 * What BullMQ is given, for a queue and for its workers.
 *
 * @throws KeywardError `VALUE_INVALID` for a queue that would lie in several slots of a Cluster, and a URL that cannot be
 * read or whose password is not percent-encoded.
 */
export function bullOptions({ connection, queue = "keyward-reencryption", prefix = "bull" }: QueueOptions) {
  if (isCluster(connection) && !/^[^{]*\{[^}]/.test(`${prefix}:${queue}`)) {
    throw new KeywardError("VALUE_INVALID", "The keys of the queue would lie in several slots of the Cluster", {
      hint: "BullMQ changes them together. Pass a prefix in braces, such as {bull}, to the run and to all its workers.",
    });
  }
  return { name: queue, options: { connection: checkedConnection(connection), prefix } };
}

/** With each URL checked before BullMQ and ioredis see it: their errors carry it, password included. */
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

/** The id of the key that the store seals under now. */
export async function primaryOf(store: EncryptedStoreOrKeyv): Promise<string> {
  // A job that is stopped before it begins looks at nothing but the ring.
  return (await reencrypt(store, { dryRun: true, signal: AbortSignal.abort() })).primary;
}

/** The counts alone. */
export function countsOf({ scanned, current, reencrypted, conflicts, expired, unreadable }: Counts): Counts {
  return { scanned, current, reencrypted, conflicts, expired, unreadable };
}

/**
 * An error as it may be handed on. Clients of Redis attach the command with its arguments to theirs: for a login that was
 * refused, the password. Servers quote arguments in some replies, so those end before the first quotation mark.
 */
export function withoutArguments(error: unknown): unknown {
  if (!(error instanceof Error && ("command" in error || "lastNodeError" in error))) return error;
  return new Error(error.message.replace(/\s*['"`].*$/s, " …"));
}

/**
 * Does what asks the queue.
 *
 * @param signal what stops it, with a reason of the caller's own.
 * @throws KeywardError `STORE_UNAVAILABLE` when its Redis fails.
 */
export async function askingQueue<Result>(work: () => Promise<Result>, signal?: AbortSignal): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (signal?.aborted === true && error === signal.reason) throw error;
    if (error instanceof KeywardError || (error instanceof DOMException && error.name === "AbortError")) throw error;
    throw new KeywardError("STORE_UNAVAILABLE", "The Redis of the queue failed", {
      hint: "See the cause. The jobs that are there stay: call it again once that Redis works.",
      cause: withoutArguments(error),
    });
  }
}
