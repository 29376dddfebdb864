// A bulk job in a process of its own, to be killed. It begins when it is sent the keyring, and tells each page it did.
import { EncryptedStore, fileCheckpoint, Keyring, reencrypt } from "@keyward/core";
import { keyIdIn } from "../store/store/inner-stores.ts";
import { openStore } from "./open-store.ts";

/** What the process tells. */
export interface JobMessage {
  readonly kind: "ready" | "page" | "complete";
  /** Records that this run was given although they lay under the primary already. */
  readonly repeated: number;
  /** The most records that it was given in one page. */
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
