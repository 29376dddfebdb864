// Runs a worker in another process. Its keyring and addresses are in the first message; it replies when it is ready.
import { EncryptedStore, Keyring } from "@keyward/core";
import { reencryptionWorker } from "@keyward/reencrypt-bullmq";
import { RedisStore } from "@keyward/store-redis";
import { Cluster } from "ioredis";

/** Address of a Redis: a URL, or some nodes of a Cluster. */
export type Address = string | readonly { readonly host: string; readonly port: number }[];

/** The message of the parent process. */
export interface Assignment {
  readonly keyring: string;
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
    store: new EncryptedStore(inner, { keys: Keyring.parse(assignment.keyring) }),
    batchSize,
    maxPerSecond,
    lockMs,
    onError: (error) => console.error(error),
  });
  process.send?.("ready");
});
// The parent process has ended.
process.once("disconnect", () => process.exit());
