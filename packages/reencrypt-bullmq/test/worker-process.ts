// A worker in a process of its own: its ring and addresses come as the first message, and it says what it does.
import { EncryptedStore, Keyring } from "@keyward/core";
import { reencryptionWorker } from "@keyward/reencrypt-bullmq";
import { RedisStore } from "@keyward/store-redis";
import { Cluster } from "ioredis";

/** A URL, or some nodes of a Cluster. */
export type Address = string | readonly { readonly host: string; readonly port: number }[];

/** What the parent sends. */
export interface Assignment {
  readonly ring: string;
  readonly store: Address;
  readonly storePrefix: string;
  readonly queue: Address;
  readonly queueName: string;
  readonly queuePrefix: string;
  readonly batchSize: number;
  readonly maxPerSecond: number;
  readonly lockMs: number;
}

process.once("message", (assignment: Assignment) => {
  const { store, storePrefix, queue, queueName, queuePrefix, batchSize, maxPerSecond, lockMs } = assignment;
  const inner = new RedisStore(typeof store === "string" ? store : { nodes: store }, { prefix: storePrefix });
  reencryptionWorker({
    connection:
      typeof queue === "string" ? queue : new Cluster([...queue], { redisOptions: { maxRetriesPerRequest: null } }),
    queue: queueName,
    prefix: queuePrefix,
    store: new EncryptedStore(inner, { keys: Keyring.parse(assignment.ring) }),
    batchSize,
    maxPerSecond,
    lockMs,
    onError: (error) => console.error(error),
  });
  process.send?.("ready");
});
// Nobody is left to work for.
process.once("disconnect", () => process.exit());
