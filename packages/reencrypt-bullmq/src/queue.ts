import { type EncryptedStore, KeywardError, type ReencryptProgress, reencrypt } from "@keyward/core";
import type { ConnectionOptions, Queue } from "bullmq";

/** The Redis that holds the queue: a URL, or what BullMQ takes as `connection`, such as options or a client of ioredis. */
export type BullConnection = string | ConnectionOptions;

/** Where a run and its workers meet. */
export interface QueueOptions {
  /** The Redis of the queue; the records may lie in another. */
  readonly connection: BullConnection;
  /** The name of the queue. Each store needs one of its own. Default "keyward-reencryption". */
  readonly queue?: string;
  /** What the keys of the queue begin with in Redis. Default "bull"; on a Cluster it has to be in braces, as in "{bull}". */
  readonly prefix?: string;
}

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
 * @throws KeywardError `VALUE_INVALID` for a queue that would lie in several slots of a Cluster.
 */
export function bullOptions({ connection, queue = "keyward-reencryption", prefix = "bull" }: QueueOptions) {
  if (isCluster(connection) && !/^[^{]*\{[^}]/.test(`${prefix}:${queue}`)) {
    throw new KeywardError("VALUE_INVALID", "The keys of the queue would lie in several slots of the Cluster", {
      hint: "BullMQ changes them together. Pass a prefix in braces, such as {bull}, to the run and to all its workers.",
    });
  }
  return {
    name: queue,
    options: { connection: typeof connection === "string" ? { url: connection } : connection, prefix },
  };
}

function isCluster(connection: BullConnection): boolean {
  return typeof connection === "object" && "isCluster" in connection && connection.isCluster === true;
}

/** The id of the key that the store seals under now. */
export async function primaryOf(store: EncryptedStore): Promise<string> {
  // A job that is stopped before it begins looks at nothing but the ring.
  return (await reencrypt(store, { dryRun: true, signal: AbortSignal.abort() })).primary;
}

/** The counts alone. */
export function countsOf({ scanned, current, reencrypted, conflicts, expired, unreadable }: Counts): Counts {
  return { scanned, current, reencrypted, conflicts, expired, unreadable };
}
