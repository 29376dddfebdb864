// One pass over every record of a Redis, in a process of its own, so that its memory is that of the pass alone.
import { EncryptedStore, Keyring, reencrypt } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";

/** What the process is told. */
export interface PassOrder {
  readonly url: string;
  /** To seal again under the primary, or to write the same bytes again: the same work without crypto. */
  readonly kind: "re-encrypt" | "copy";
  /** The keyring as a document. */
  readonly keyring: string;
}

/** What the process answers. */
export interface PassResult {
  readonly records: number;
  readonly peakRssBytes: number;
  readonly peakHeapBytes: number;
}

const pageRecords = 500;
const pagesUnderWay = 4;

process.once("message", async (order: PassOrder) => {
  const store = new RedisStore(order.url);
  const peak = watchMemory();
  const records = order.kind === "copy" ? await copy(store) : await sealAgain(store, Keyring.parse(order.keyring));
  const result: PassResult = { records, ...peak() };
  await store.disconnect();
  process.send?.(result, () => process.disconnect());
});
process.send?.("ready");

async function sealAgain(store: RedisStore, keys: Keyring): Promise<number> {
  const { reencrypted, complete } = await reencrypt(new EncryptedStore(store, { keys }));
  if (!complete) throw new Error("The pass did not come to its end");
  return reencrypted;
}

/** As `reencrypt` goes about it, several pages at a time. */
async function copy(store: RedisStore): Promise<number> {
  const underWay: Promise<number>[] = [];
  let written = 0;
  let cursor: string | undefined;
  do {
    const page = await store.scan({ limit: pageRecords, ...(cursor === undefined ? {} : { cursor }) });
    cursor = page.cursor;
    const byNamespace = Map.groupBy(page.entries, ({ namespace }) => namespace);
    for (const [namespace, entries] of byNamespace) {
      const changes = entries.map(({ key, value }) => ({ key, expected: value, next: value }));
      underWay.push(
        store
          .namespaced(namespace)
          .replaceMany(changes)
          .then((replaced) => replaced.filter(Boolean).length),
      );
    }
    while (underWay.length >= (cursor === undefined ? 1 : pagesUnderWay)) written += (await underWay.shift()) ?? 0;
  } while (cursor !== undefined);
  return written;
}

function watchMemory(): () => Pick<PassResult, "peakRssBytes" | "peakHeapBytes"> {
  let peakRssBytes = 0;
  let peakHeapBytes = 0;
  const look = () => {
    const { rss, heapUsed } = process.memoryUsage();
    peakRssBytes = Math.max(peakRssBytes, rss);
    peakHeapBytes = Math.max(peakHeapBytes, heapUsed);
  };
  const timer = setInterval(look, 20);
  return () => {
    clearInterval(timer);
    look();
    return { peakRssBytes, peakHeapBytes };
  };
}
