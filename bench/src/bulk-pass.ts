// One pass over every record of a Redis. It runs in its own process, so that the memory of the process is the memory of
// the pass.
import { EncryptedStore, Keyring, reencrypt, type ScannedRecord, type StoredValue } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";

/** The message that starts a pass. */
export interface PassOrder {
  readonly url: string;
  /**
   * - `re-encrypt`: encrypts each record under the primary key.
   * - `copy`: writes the same bytes again, which is the same work without cryptography.
   * - `rewrap`: replaces each record by the result of the rewrap by Vault's Transit.
   */
  readonly kind: "re-encrypt" | "copy" | "rewrap";
  /** The keyring as a document. */
  readonly keyring: string;
  /** The Transit key of a `rewrap`. */
  readonly transit?: TransitKey;
}

/** A key of Vault's Transit engine. */
export interface TransitKey {
  readonly address: string;
  readonly token: string;
  readonly name: string;
}

/** The message that a finished pass sends. */
export interface PassResult {
  readonly records: number;
  /** CPU time of this process, in microseconds. */
  readonly cpuUs: number;
  readonly peakRssBytes: number;
  readonly peakHeapBytes: number;
}

const pageRecords = 500;
const maxPendingPages = 4;

process.once("message", async (order: PassOrder) => {
  const store = new RedisStore(order.url);
  const peak = watchMemory();
  const before = process.cpuUsage();
  const records = await runPass(store, order);
  const { user, system } = process.cpuUsage(before);
  const result: PassResult = { records, cpuUs: user + system, ...peak() };
  await store.disconnect();
  process.send?.(result, () => process.disconnect());
});
process.send?.("ready");

async function runPass(store: RedisStore, { kind, keyring, transit }: PassOrder): Promise<number> {
  switch (kind) {
    case "re-encrypt":
      return await reencryptAll(store, Keyring.parse(keyring));
    case "copy":
      return await replaceAll(store, async (values) => values);
    case "rewrap":
      if (transit === undefined) throw new Error("There is no Transit key");
      return await replaceAll(store, (values) => rewrap(transit, values));
  }
}

/** Records per request. OpenBao limits the strings in a JSON body, so this is about the maximum. */
const maxRewrapBatch = 250;

/** Sends records to Transit's rewrap in few large requests, as Vault's documentation advises. */
async function rewrap(transit: TransitKey, values: readonly StoredValue[]): Promise<StoredValue[]> {
  const requests: Promise<StoredValue[]>[] = [];
  for (let first = 0; first < values.length; first += maxRewrapBatch) {
    requests.push(rewrapBatch(transit, values.slice(first, first + maxRewrapBatch)));
  }
  return (await Promise.all(requests)).flat();
}

async function rewrapBatch(
  { address, token, name }: TransitKey,
  values: readonly StoredValue[],
): Promise<StoredValue[]> {
  const response = await fetch(`${address}/v1/transit/rewrap/${name}`, {
    method: "POST",
    headers: { "X-Vault-Token": token },
    body: JSON.stringify({ batch_input: values.map((ciphertext) => ({ ciphertext })) }),
  });
  if (!response.ok) throw new Error(`Transit answered ${response.status}`);
  const answered: { readonly data: { readonly batch_results: readonly { readonly ciphertext: string }[] } } =
    JSON.parse(await response.text());
  return answered.data.batch_results.map(({ ciphertext }) => ciphertext);
}

async function reencryptAll(store: RedisStore, keys: Keyring): Promise<number> {
  const { reencrypted, complete } = await reencrypt(new EncryptedStore(store, { keys }));
  if (!complete) throw new Error("The pass did not finish");
  return reencrypted;
}

/**
 * Replaces every record by what `next` returns for it. Like `reencrypt`, this function works on several pages at a
 * time.
 */
async function replaceAll(
  store: RedisStore,
  next: (values: readonly StoredValue[]) => Promise<readonly StoredValue[]>,
): Promise<number> {
  const pendingPages: Promise<number>[] = [];
  const replacePage = async (view: RedisStore, entries: readonly ScannedRecord[]) => {
    const values = await next(entries.map(({ value }) => value));
    const changes = entries.map(({ key, value }, index) => ({ key, expected: value, next: values[index] ?? "" }));
    return (await view.replaceMany(changes)).filter(Boolean).length;
  };
  let written = 0;
  let cursor: string | undefined;
  do {
    const page = await store.scan({ limit: pageRecords, ...(cursor === undefined ? {} : { cursor }) });
    cursor = page.cursor;
    const byNamespace = Map.groupBy(page.entries, ({ namespace }) => namespace);
    for (const [namespace, entries] of byNamespace) {
      pendingPages.push(replacePage(store.namespaced(namespace), entries));
    }
    while (pendingPages.length >= (cursor === undefined ? 1 : maxPendingPages))
      written += (await pendingPages.shift()) ?? 0;
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
