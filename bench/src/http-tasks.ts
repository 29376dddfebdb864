import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { createApiKey, HttpStore } from "@keyward/http-kv";
import { createStorage } from "unstorage";
import httpDriver from "unstorage/drivers/http";
import { sampleRecords } from "./sample-records.ts";
import { inTurn, type PreparedTask, type Task } from "./task.ts";

const sizesBytes = [256, 4_096];
const atOnce = 16;
const batchSize = 100;

/** The names of the tasks over HTTP. */
export const httpNames = [
  "16 single reads at once, HTTP",
  "16 requests at once to the server, HTTP",
  "100 reads, HTTP",
  "100 writes, HTTP",
] as const;

/** Servers over memory stores on loopback, each in its own process, and a client. */
interface Servers {
  readonly store: HttpStore;
  readonly ours: string;
  readonly bare: string;
  readonly handler: string;
  readonly unstorages: string;
  readonly apiKey: string;
  stop(): void;
}

/**
 * Tasks that measure HTTP KV against three baselines: client and server against those of unstorage, the handler against
 * one that only compares the API key, and batches against single calls.
 */
export function httpTasks(): Task[] {
  return httpNames.flatMap((name) =>
    sizesBytes.map((sizeBytes) => ({ name, sizeBytes, prepare: () => prepare(name, sizeBytes) })),
  );
}

async function prepare(name: (typeof httpNames)[number], sizeBytes: number): Promise<PreparedTask> {
  const records = sampleRecords(sizeBytes, { count: batchSize });
  const keys = records.map(({ address }) => address.key);
  const entries = records.map(({ address, text }) => ({ key: address.key, value: text }));
  const servers = await start(records[0]?.text ?? "");
  const { store } = servers;
  await store.setMany(entries);
  const close = async () => servers.stop();
  switch (name) {
    case "16 single reads at once, HTTP": {
      const overUnstorage = createStorage({ driver: httpDriver({ base: servers.unstorages }) });
      const driverOnOurs = createStorage({
        driver: httpDriver({ base: servers.ours, headers: { authorization: `Bearer ${servers.apiKey}` } }),
      });
      for (const { key, value } of entries) {
        await overUnstorage.setItemRaw(key, value);
        await driverOnOurs.setItemRaw(key, value);
      }
      return {
        variants: [
          { name: "unstorage on its server", operation: many(inTurn(keys, (key) => overUnstorage.getItemRaw(key))) },
          { name: "HttpStore on keyward-kv", operation: many(inTurn(keys, (key) => store.get(key))) },
          { name: "unstorage on keyward-kv", operation: many(inTurn(keys, (key) => driverOnOurs.getItemRaw(key))) },
        ],
        close,
      };
    }
    case "16 requests at once to the server, HTTP": {
      const body = JSON.stringify({ space: "records", namespace: "", keys: [keys[0]] });
      await new HttpStore({ url: servers.handler, apiKey: servers.apiKey }).setMany(entries);
      return {
        variants: [
          { name: "a handler that compares the key", operation: many(() => ask(servers.bare, servers.apiKey, body)) },
          { name: "createKvHandler", operation: many(() => ask(servers.handler, servers.apiKey, body)) },
          { name: "keyward-kv", operation: many(() => ask(servers.ours, servers.apiKey, body)) },
        ],
        close,
      };
    }
    case "100 reads, HTTP":
      return {
        variants: [
          { name: "one after the other", operation: inOrder(keys, (key) => store.get(key)) },
          { name: "16 at once", operation: inOrder(groups(keys), (group) => all(group, (key) => store.get(key))) },
          { name: "in a batch", operation: () => store.getMany(keys) },
        ],
        close,
      };
    case "100 writes, HTTP":
      return {
        variants: [
          { name: "one after the other", operation: inOrder(entries, ({ key, value }) => store.set(key, value)) },
          {
            name: "16 at once",
            operation: inOrder(groups(entries), (group) => all(group, ({ key, value }) => store.set(key, value))),
          },
          { name: "in a batch", operation: () => store.setMany(entries) },
        ],
        close,
      };
  }
}

function many(operation: () => unknown): () => unknown {
  return () => Promise.all(Array.from({ length: atOnce }, operation));
}

function all<Item>(items: readonly Item[], operation: (item: Item) => unknown): Promise<unknown[]> {
  return Promise.all(items.map(operation));
}

function inOrder<Item>(items: readonly Item[], operation: (item: Item) => unknown): () => unknown {
  return async () => {
    for (const item of items) await operation(item);
  };
}

function groups<Item>(items: readonly Item[]): Item[][] {
  const grouped: Item[][] = [];
  for (let start = 0; start < items.length; start += atOnce) grouped.push(items.slice(start, start + atOnce));
  return grouped;
}

/** Sends one request with a minimal client. */
function ask(url: string, apiKey: string, body: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const headers = { authorization: `Bearer ${apiKey}`, "content-length": body.length };
    const sending = request(`${url}/get`, { method: "POST", headers }, (answer) => {
      answer.resume();
      answer.on("end", resolve);
    });
    sending.on("error", reject);
    sending.end(body);
  });
}

async function start(text: string): Promise<Servers> {
  const folder = mkdtempSync(join(tmpdir(), "keyward-bench-"));
  const tenants = join(folder, "tenants.json");
  const { apiKey, entry } = createApiKey({ tenant: "bench" });
  writeFileSync(tenants, JSON.stringify({ "keyward-kv": 1, keys: [entry] }));
  const file = (path: string) => fileURLToPath(new URL(path, import.meta.url));
  const program = file("../../packages/cli/src/keyward-kv.ts");
  const unlimited = ["--requests-per-second", "1000000000"];
  const running = await Promise.all([
    listening(program, ["serve", "--tenants", tenants, "--store", "memory:", "--port", "0", ...unlimited]),
    listening(file("kv-handler-server.ts"), ["bare", JSON.stringify(entry), text]),
    listening(file("kv-handler-server.ts"), ["keyward", JSON.stringify(entry)]),
    listening(file("kv-unstorage-server.ts"), []),
  ]);
  const [ours, bare, handler, unstorages] = running;
  return {
    store: new HttpStore({ url: ours.url, apiKey }),
    ours: ours.url,
    bare: bare.url.replace(/\/$/, ""),
    handler: handler.url.replace(/\/$/, ""),
    unstorages: unstorages.url,
    apiKey,
    stop() {
      for (const { stop } of running) stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Starts a server program, and reads the server's URL from the line that the program prints. */
async function listening(program: string, parameters: readonly string[]): Promise<{ url: string; stop(): void }> {
  const child = spawn(process.execPath, [program, ...parameters], { stdio: ["ignore", "pipe", "ignore"] });
  const url = await new Promise<string>((resolve, reject) => {
    let printed = "";
    child.stdout.on("data", (data) => {
      printed += String(data);
      const listens = /listens on (\S+)/.exec(printed)?.[1];
      if (listens !== undefined) resolve(listens);
    });
    child.once("exit", () => reject(new Error(`${program} ended:\n${printed}`)));
  });
  return { url, stop: () => child.kill("SIGKILL") };
}
