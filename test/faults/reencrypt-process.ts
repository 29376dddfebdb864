// A process that runs a bulk job, and that a test kills. It begins when it receives the keyring, and sends a message for
// each page that it has done.
import { EncryptedStore, fileCheckpoint, Keyring, reencrypt } from "@keyward/core";
import { keyIdIn } from "../store/store/inner-stores.ts";
import { openStore } from "./open-store.ts";

/** A message of the process that runs the bulk job, to the test. */
export interface JobMessage {
  readonly kind: "ready" | "page" | "complete";
  /** Number of records that this run scanned although they were already under the primary. */
  readonly repeated: number;
  /** Largest number of records in one page. */
  readonly largestPage: number;
}

const [address = "", checkpointPath = "", batchSize = "", concurrency = ""] = process.argv.slice(2);
let repeated = 0;
let largestPage = 0;

function tell(kind: JobMessage["kind"]): void {
  const message: JobMessage = { kind, repeated, largestPage };
  process.send?.(message);
}

process.once("message", async (document) => {
  const ring = Keyring.parse(String(document));
  const inner = openStore(address);
  const scan = inner.scan.bind(inner);
  inner.scan = async (options: { readonly cursor?: string; readonly limit?: number } = {}) => {
    const page = await scan(options);
    repeated += page.entries.filter(({ value }) => keyIdIn(value) === ring.primary).length;
    largestPage = Math.max(largestPage, page.entries.length);
    return page;
  };
  const store = new EncryptedStore(inner, { keys: ring });
  await reencrypt(store, {
    batchSize: Number(batchSize),
    concurrency: Number(concurrency),
    checkpoint: fileCheckpoint(checkpointPath),
    onProgress: () => tell("page"),
  });
  await store.disconnect();
  tell("complete");
  process.disconnect();
});
tell("ready");
