export type { BullConnection } from "./queue.ts";
export {
  type FinishedOptions,
  type ReencryptionRun,
  type RunProgress,
  type StartReencryptionOptions,
  startReencryption,
} from "./run.ts";
export { type ReencryptionWorker, type ReencryptionWorkerOptions, reencryptionWorker } from "./worker.ts";
