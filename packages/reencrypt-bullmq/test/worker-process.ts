// A worker in a process of its own: its ring and addresses come as the first message, and it says what it does.
import { EncryptedStore, Keyring } from "@keyward/core";
import { reencryptionWorker } from "@keyward/reencrypt-bullmq";
import { RedisStore } from "@keyward/store-redis";

/** What the parent sends. */
export interface Assignment {
  readonly ring: string;
  readonly store: string;
  readonly storePrefix: string;
  readonly queue: string;
  readonly queueName: string;
  readonly batchSize: number;
  readonly maxPerSecond: number;
  readonly lockMs: number;
}

process.once("message", (assignment: Assignment) => {
  const inner = new RedisStore(assignment.store, { prefix: assignment.storePrefix });
  const { batchSize, maxPerSecond, lockMs } = assignment;
  reencryptionWorker({
    connection: assignment.queue,
    queue: assignment.queueName,
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
