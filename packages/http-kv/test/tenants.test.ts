import {
  chmodSync,
  chownSync,
  closeSync,
  linkSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";
import { KeywardError, type ScanPage } from "@keyward/core";
import {
  type ApiKeyEntry,
  createApiKey,
  createKvHandler,
  fileTenants,
  HttpStore,
  type KvHandler,
  type NewApiKey,
} from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import fc from "fast-check";
import { KeyvMemoryAdapter, type KeyvStorageAdapter } from "keyv";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { changeTenants, readTenants } from "../src/tenants-file.ts";
import { temporaryFolder } from "./servers.ts";

interface Answer {
  readonly status: number;
  readonly headers: [string, string][];
  readonly body: string;
}

async function ask(
  handler: KvHandler,
  apiKey: string | undefined,
  method: string,
  path: string,
  body?: string,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const request = new Request(`http://kv.test${path}`, {
    method,
    ...(body === undefined ? {} : { body }),
    headers: { ...headers, ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }) },
  });
  const response = await handler(request);
  return {
    status: response.status,
    headers: [...response.headers].filter(([name]) => name !== "x-server").sort(),
    body: await response.text(),
  };
}

const unlimited = { requestsPerSecond: Number.POSITIVE_INFINITY };

/** Tenant namespaces whose storage prefixes are similar. */
const tenantNamespaces: readonly NewApiKey[] = [
  { tenant: "a" },
  { tenant: "a", namespace: "b" },
  { tenant: "a", namespace: "records" },
  { tenant: "ab" },
  { tenant: "b", namespace: "a" },
];

/** Namespaces and keys that join to the same text, among themselves and with the names of tenant namespaces. */
const alikeNamespaces = ["", "b", "records/", "/records/", "b/records/"];
const alikeKeys = ["k", "", "records/k", "/k", "14:a//records/k", "b", "b/records/k"];

const stores: Record<string, () => KeyvStorageAdapter> = {
  "a store with namespaces": () => new MemoryStore(),
  SQLite: () => new SqliteStore(":memory:"),
  "a store without namespaces, of text": () => new KeyvMemoryAdapter(new Map()),
};

describe.each(Object.entries(stores))("tenant namespaces in %s", (name, openStore) => {
  const scannable = !name.includes("without");

  it("behave like separate stores, no matter which calls use the other tenant namespaces", async () => {
    const operation = fc.record({
      index: fc.nat({ max: tenantNamespaces.length - 1 }),
      method: fc.constantFrom("set", "delete", "get", "has", "iterate", "clear", "replace", "reserve", "scan"),
      namespace: fc.constantFrom(...alikeNamespaces),
      key: fc.constantFrom(...alikeKeys),
      value: fc.oneof(fc.string({ unit: "binary", maxLength: 5 }), fc.uint8Array({ maxLength: 5 })),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 40 }), async (script) => {
        const made = tenantNamespaces.map(createApiKey);
        const handler = createKvHandler({
          store: openStore(),
          tenants: made.map(({ entry }) => entry),
          limits: unlimited,
        });
        const clients = made.map(({ apiKey }) => new HttpStore({ url: "http://localhost", apiKey, fetch: handler }));
        const models = tenantNamespaces.map(() => new MemoryStore());
        for (const { index, method, namespace, key, value } of script) {
          const [client, model] = [clients[index]?.namespaced(namespace), models[index]?.namespaced(namespace)];
          if (client === undefined || model === undefined) throw new Error("the index is too large");
          const both = async <Result>(act: (store: MemoryStore | HttpStore) => Promise<Result>) => {
            expect(await act(client)).toEqual(await act(model));
          };
          switch (method) {
            case "set":
              await both((store) => store.set(key, value));
              break;
            case "delete":
              await both((store) => store.delete(key));
              break;
            case "get":
              await both(async (store) => plain(await store.get(key)));
              break;
            case "has":
              await both((store) => store.has(key));
              break;
            case "clear":
              await both((store) => store.clear());
              break;
            case "iterate":
              await both(async (store) => {
                const found: unknown[] = [];
                for await (const [each, stored] of store.iterator()) found.push([each, plain(stored)]);
                return found.sort(byText);
              });
              break;
            case "replace": {
              if (!scannable) break;
              const expected = await model.get(key);
              await both((store) => store.replace(key, expected, String(value)));
              break;
            }
            case "reserve":
              await both((store) => store.reserved().set(key, value));
              break;
            case "scan":
              if (!scannable) break;
              await both(async (store) => {
                const found: unknown[] = [];
                for (let cursor: string | undefined, more = true; more; more = cursor !== undefined) {
                  const page = await store.scan({ limit: 2, ...(cursor === undefined ? {} : { cursor }) });
                  found.push(...page.entries.map((entry) => [entry.namespace, entry.key, plain(entry.value)]));
                  cursor = page.cursor;
                }
                return found.sort(byText);
              });
              break;
          }
        }
      }),
      { numRuns: 60 },
    );
  });

  it("keep two records apart even if their tenants, namespaces and keys are the same text when joined", async () => {
    const made = tenantNamespaces.map(createApiKey);
    const handler = createKvHandler({ store: openStore(), tenants: made.map(({ entry }) => entry), limits: unlimited });
    const views = made.flatMap(({ apiKey }, index) => {
      const client = new HttpStore({ url: "http://localhost", apiKey, fetch: handler });
      return alikeNamespaces.map((namespace) => ({
        name: `${index} ${namespace}`,
        store: client.namespaced(namespace),
      }));
    });
    for (const { name, store } of views) {
      await store.setMany(alikeKeys.map((key) => ({ key, value: `${name} ${key}` })));
    }
    for (const { name, store } of views) {
      expect(await store.getMany(alikeKeys)).toEqual(alikeKeys.map((key) => `${name} ${key}`));
    }
    for (const { store } of views) {
      const found: string[] = [];
      for await (const [key] of store.iterator()) found.push(key);
      expect(found.sort()).toEqual([...alikeKeys].sort());
      await store.clear();
      expect(await store.hasMany(alikeKeys)).toEqual(alikeKeys.map(() => false));
    }
  });

  it("give the same answers whether or not records of other tenants exist", async () => {
    const [mine, theirs] = [createApiKey({ tenant: "mine" }), createApiKey({ tenant: "theirs" })];
    const both = [mine.entry, theirs.entry];
    const [full, empty] = [openStore(), openStore()];
    const onFull = createKvHandler({ store: full, tenants: both });
    const onEmpty = createKvHandler({ store: empty, tenants: both });
    const owner = new HttpStore({ url: "http://localhost", apiKey: theirs.apiKey, fetch: onFull });
    await owner.setMany(Array.from({ length: 300 }, (_, index) => ({ key: `key-${index}`, value: "value" })));
    await owner.reserved().set("key-1", "value");
    const keys = JSON.stringify({ keys: ["key-1"] });
    const requests: Parameters<typeof ask> extends [unknown, unknown, ...infer Rest] ? Rest[] : never = [
      ["GET", "/key-1"],
      ["HEAD", "/key-1"],
      ["GET", "/"],
      ["GET", "/:"],
      ["GET", "/key-1", undefined, { "if-none-match": "*" }],
      ["PUT", "/key-1", "x", { "if-match": "*" }],
      ["DELETE", "/key-1"],
      ["DELETE", "/:"],
      ["POST", "/get", keys],
      ["POST", "/has", keys],
      ["POST", "/delete", keys],
      ["POST", "/clear", "{}"],
      ["POST", "/list", "{}"],
      ["POST", "/scan", "{}"],
      ["POST", "/scan", '{"limit":1}'],
      ["POST", "/scan", '{"space":"reserved"}'],
      ["POST", "/get", JSON.stringify({ keys: ["key-1"], space: "reserved" })],
      ["POST", "/get", JSON.stringify({ keys: ["key-1"], namespace: "theirs//records/" })],
      ["POST", "/replace", JSON.stringify({ changes: [{ key: "key-1", expected: '"x"', text: "x" }] })],
      ["PUT", "/key-1", "x", { "if-none-match": "*" }],
      ["POST", "/set", JSON.stringify({ entries: [{ key: "key-2", text: "x" }] })],
    ];
    // A scan ends after 100 ms, and a busy machine could reach that time on one of the two handlers alone.
    const clock = vi.spyOn(performance, "now").mockReturnValue(performance.now());
    onTestFinished(() => clock.mockRestore());
    for (const request of requests) {
      expect(await ask(onFull, mine.apiKey, ...request), request.join(" ")).toEqual(
        await ask(onEmpty, mine.apiKey, ...request),
      );
    }
    expect(await owner.getMany(["key-1", "key-2", "key-299"])).toEqual(["value", "value", "value"]);
  });
});

it("the cursor of a scan contains no readable part of another tenant's record, and is accepted only from its own tenant", async () => {
  const [mine, theirs] = [createApiKey({ tenant: "a" }), createApiKey({ tenant: "b" })];
  const store = new SqliteStore(":memory:");
  const handler = createKvHandler({ store, tenants: [mine.entry, theirs.entry] });
  const client = (apiKey: string) => new HttpStore({ url: "http://localhost", apiKey, fetch: handler, retries: 0 });
  await client(theirs.apiKey).set("k".repeat(200), "value");
  await client(mine.apiKey).setMany(["1", "2", "3"].map((key) => ({ key, value: "value" })));
  const { cursor = "" } = await client(mine.apiKey).scan({ limit: 1 });
  expect(Buffer.from(cursor, "base64url").toString("latin1")).not.toMatch(/records|key|kkk/);
  await expect(client(theirs.apiKey).scan({ cursor })).rejects.toMatchObject({ code: "VALUE_INVALID" });
  await expect(client(mine.apiKey).reserved().scan({ cursor })).rejects.toMatchObject({ code: "VALUE_INVALID" });
  expect((await client(mine.apiKey).scan({ cursor })).entries.map(({ key }) => key)).toEqual(["2", "3"]);
  const again = createKvHandler({ store, tenants: [mine.entry] });
  const other = new HttpStore({ url: "http://localhost", apiKey: mine.apiKey, fetch: again });
  expect((await other.scan({ cursor })).entries).toHaveLength(2);
});

describe("a page of a scan", () => {
  /** Returns the number of records in each page of "mine", among `others` records of two tenants around each of them. */
  async function pages(store: KeyvStorageAdapter, others: number, limit: number): Promise<number[]> {
    const [theirs, mine, more] = [{ tenant: "a" }, { tenant: "b" }, { tenant: "c" }].map(createApiKey);
    if (theirs === undefined || mine === undefined || more === undefined) throw new Error("three were made");
    const tenants = [theirs.entry, mine.entry, more.entry];
    const handler = createKvHandler({ store, tenants, limits: unlimited });
    const client = ({ apiKey }: typeof mine) => new HttpStore({ url: "http://localhost", apiKey, fetch: handler });
    await client(mine).scan();
    for (const key of ["1", "2", "3", "4", "5", "6"]) {
      for (let other = 0; other < others; other++) {
        await client(theirs).set(`${key}-${other}`, "value");
        await client(more).set(`${key}-${other}`, "value");
      }
      await client(mine).set(key, "value");
    }
    const counts: number[] = [];
    for (let cursor: string | undefined, unfinished = true; unfinished; unfinished = cursor !== undefined) {
      const page = await client(mine).scan({ limit, ...(cursor === undefined ? {} : { cursor }) });
      counts.push(page.entries.length);
      cursor = page.cursor;
    }
    return counts;
  }

  it.each([
    ["a store in memory", () => new MemoryStore()],
    ["SQLite", () => new SqliteStore(":memory:")],
  ])("ends at the same record in %s, whatever other tenants have stored", async (_, openStore) => {
    // With the real clock, the time would end some pages on a busy machine.
    const clock = vi.spyOn(performance, "now").mockReturnValue(performance.now());
    onTestFinished(() => clock.mockRestore());
    for (const others of [0, 1, 5, 40]) {
      expect(await pages(openStore(), others, 1)).toEqual([1, 1, 1, 1, 1, 1]);
      expect(await pages(openStore(), others, 2)).toEqual([2, 2, 2]);
      expect(await pages(openStore(), others, 4)).toEqual([4, 2]);
      expect(await pages(openStore(), others, 6)).toEqual([6]);
    }
  });

  it("skips the records of other tenants in steps, and lets other requests run between these steps", async () => {
    let reads = 0;
    /** A store like SQLite, which reads synchronously. */
    class Synchronous extends MemoryStore {
      override async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
        reads++;
        const until = performance.now() + 2;
        while (performance.now() < until);
        const at = Number(options.cursor ?? 0) + (options.limit ?? 1);
        return {
          entries: [],
          cursor: String(at),
        };
      }
    }
    const { apiKey, entry } = createApiKey({ tenant: "mine" });
    const handler = createKvHandler({ store: new Synchronous(), tenants: [entry], limits: unlimited });
    const client = new HttpStore({ url: "http://localhost", apiKey, fetch: handler });
    await client.has("key");
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    const page = await client.scan({ limit: 1 });
    clearInterval(timer);
    expect(page).toEqual({ cursor: expect.any(String), entries: [] });
    expect(reads).toBeGreaterThan(1);
    expect(turns).toBeGreaterThan(1);
  });
});

it("other requests run while the server lists or deletes all keys with a prefix", async () => {
  const { apiKey, entry } = createApiKey({ tenant: "mine" });
  const inside = new KeyvMemoryAdapter(new Map());
  const handler = createKvHandler({ store: inside, tenants: [entry], limits: unlimited });
  Reflect.set(inside, "iterator", async function* () {
    for (let count = 0; count < 100; count++) {
      const until = performance.now() + 1;
      while (performance.now() < until);
      yield [`of another tenant ${count}`, "value"];
    }
  });
  for (const [method, path] of [
    ["GET", "/"],
    ["DELETE", "/a/:"],
  ] as const) {
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    expect((await ask(handler, apiKey, method, path)).status).toBe(200);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(2);
  }
});

it("the cursor of a scan has the same length for short and long keys of the record in the cursor", async () => {
  /** A store so slow that the time ends every page. */
  class Slow extends SqliteStore {
    override async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
      await sleep(110);
      return await super.scan(options);
    }
  }
  const lengths = new Set<number | undefined>();
  for (const key of ["1", "k", "k".repeat(150)]) {
    const [before, mine, behind] = [{ tenant: "a" }, { tenant: "b" }, { tenant: "c" }].map(createApiKey);
    if (before === undefined || mine === undefined || behind === undefined) throw new Error("three were made");
    const tenants = [before.entry, mine.entry, behind.entry];
    // With this limit, the first read has two records.
    const limits = { maxValueBytes: 8 * 2 ** 20 };
    const handler = createKvHandler({ store: new Slow(":memory:"), tenants, limits });
    const client = ({ apiKey }: typeof mine) => new HttpStore({ url: "http://localhost", apiKey, fetch: handler });
    // The first page of the store ends between the tenant's records, or after a record of another tenant.
    if (key === "1") await client(before).set("key", "value");
    await client(mine).set("1", "value");
    if (key === "1") await client(mine).set("2", "value");
    await client(behind).setMany(["", "1"].map((each) => ({ key: `${key}${each}`, value: "value" })));
    lengths.add((await client(mine).scan({ limit: 2 })).cursor?.length);
  }
  expect([...lengths]).toEqual([expect.any(Number)]);
});

describe("an API key", () => {
  const unauthorized = async (handler: KvHandler, apiKey: string | undefined) =>
    await ask(handler, apiKey, "GET", "/key");

  it("is refused with the same answer if it is unknown, altered, expired, revoked or missing", async () => {
    const good = createApiKey({ tenant: "a" });
    const gone = createApiKey({ tenant: "a", expires: Date.now() - 1 });
    const revoked = createApiKey({ tenant: "a" });
    const tenants = [good.entry, gone.entry, { ...revoked.entry, revoked: Date.now() }];
    const handler = createKvHandler({ store: new MemoryStore(), tenants });
    expect((await unauthorized(handler, good.apiKey)).status).toBe(404);
    const altered = `${good.apiKey.slice(0, -1)}${good.apiKey.endsWith("A") ? "Q" : "A"}`;
    const refusals = await Promise.all(
      [undefined, "x", createApiKey({ tenant: "a" }).apiKey, altered, gone.apiKey, revoked.apiKey].map((apiKey) =>
        unauthorized(handler, apiKey),
      ),
    );
    expect(new Set(refusals.map((refusal) => JSON.stringify(refusal))).size).toBe(1);
    expect(refusals[0]).toMatchObject({ status: 401 });
  });

  it("is refused once its expiry has passed", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "a", expires: Date.now() + 200 });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
    await expect.poll(async () => (await unauthorized(handler, apiKey)).status, { timeout: 5_000 }).toBe(401);
    expect(Date.now()).toBeGreaterThanOrEqual(entry.expires ?? 0);
  });

  it("gives access only to the requests that its scopes allow", async () => {
    const store = new MemoryStore();
    const allowed = {
      read: ["GET /a", "HEAD /a", "POST /get", "POST /has"],
      write: ["PUT /a", "DELETE /a", "DELETE /:", "POST /set", "POST /delete", "POST /clear"],
      list: ["GET /", "POST /list"],
    };
    const all = [...Object.values(allowed).flat(), "POST /replace", "POST /scan"];
    for (const scope of ["read", "write", "list"] as const) {
      const { apiKey, entry } = createApiKey({ tenant: "a", scopes: [scope] });
      const handler = createKvHandler({ store, tenants: [entry] });
      for (const request of all) {
        const [method = "", path = ""] = request.split(" ");
        const body = method === "POST" ? '{"keys":[],"entries":[],"changes":[]}' : method === "PUT" ? "x" : undefined;
        const { status } = await ask(handler, apiKey, method, path, body);
        expect(status === 403, `${scope}: ${request} is answered with ${status}`).toBe(
          !allowed[scope].includes(request),
        );
      }
    }
  });

  it("reveals nothing about records through conditions or deletions if its only scope is write", async () => {
    const [all, write] = [createApiKey({ tenant: "a" }), createApiKey({ tenant: "a", scopes: ["write"] })];
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [all.entry, write.entry] });
    await ask(handler, all.apiKey, "PUT", "/a", "x");
    const tag = (await ask(handler, all.apiKey, "HEAD", "/a")).headers.find(([name]) => name === "etag")?.[1] ?? "";
    const conditions = [{ "if-match": tag }, { "if-match": '"other"' }, { "if-match": "*" }, { "if-none-match": "*" }];
    for (const headers of conditions) {
      for (const path of ["/a", "/none"]) {
        expect((await ask(handler, write.apiKey, "PUT", path, "y", headers)).status).toBe(403);
      }
    }
    expect((await ask(handler, all.apiKey, "GET", "/a")).body).toBe("x");
    const body = '{"keys":["a","none"]}';
    expect((await ask(handler, write.apiKey, "POST", "/delete", body)).body).toBe('{"deleted":[true,true]}');
    expect((await ask(handler, all.apiKey, "POST", "/delete", body)).body).toBe('{"deleted":[false,false]}');
  });

  it("has 256 random bits, and its entry contains a hash instead of the API key", () => {
    const { apiKey, entry } = createApiKey({ tenant: "a" });
    expect(JSON.stringify(entry)).not.toContain(apiKey.slice(16));
    expect(Buffer.from(apiKey.split("_").slice(2).join("_"), "base64url")).toHaveLength(32);
  });

  it.each([{ tenant: "a/b" }, { tenant: "" }, { tenant: "a", namespace: "x/y" }, { tenant: "a", scopes: [] }])(
    "is not made if the options are invalid, as in %j",
    (options) => expect(() => createApiKey(options)).toThrow("entry"),
  );
});

describe("a file of API keys", () => {
  function file(): string {
    const folder = temporaryFolder();
    onTestFinished(() => folder.remove());
    return join(folder.path, "tenants.json");
  }

  const empty = JSON.stringify({ "keyward-kv": 1, keys: [] });
  const add = (path: string, entry: ApiKeyEntry) => changeTenants(path, (entries) => [...entries, entry]);

  it("makes revoke() reject an unknown id with an error that does not contain the id, which may be a whole API key", async () => {
    const tenants = fileTenants(file());
    const { apiKey } = await tenants.add({ tenant: "a" });
    for (const text of [apiKey, apiKey.slice(3), ` ${apiKey}`]) {
      const error: unknown = await tenants.revoke(text).catch((refused: unknown) => refused);
      expect(error).toMatchObject({
        code: "VALUE_INVALID",
        hint: expect.stringContaining("Pass the id of the API key"),
      });
      expect(inspect(error)).not.toContain(apiKey.slice(16));
    }
    expect((await tenants.list())[0]?.revoked).toBeUndefined();
  });

  it("takes effect at once when an API key is added or revoked", async () => {
    const path = file();
    const handler = createKvHandler({ store: new MemoryStore(), tenants: fileTenants(path), limits: unlimited });
    for (let round = 0; round < 20; round++) {
      const { apiKey, entry } = createApiKey({ tenant: "a" });
      expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(401);
      await add(path, entry);
      expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(404);
      await changeTenants(path, (entries) => entries.map((each) => ({ ...each, revoked: Date.now() })));
      expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(401);
    }
  });

  it("makes the server refuse every API key while the file is invalid, and is not quoted in the log", async () => {
    const path = file();
    const { apiKey, entry } = createApiKey({ tenant: "a" });
    await add(path, entry);
    const whole = readFileSync(path, "utf8");
    const log: unknown[] = [];
    const handler = createKvHandler({
      store: new MemoryStore(),
      tenants: fileTenants(path),
      log: (each) => log.push(each),
    });
    expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(404);
    for (const broken of [whole.slice(0, -20), "{}", whole.replace('"tenant": "a"', '"tenant": "../a"')]) {
      writeFileSync(path, broken);
      expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(500);
    }
    expect(JSON.stringify(log)).not.toContain(entry.hash);
    writeFileSync(path, whole);
    expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(404);
  });

  it("is changed if the given path is a symbolic link to the file, and the link stays a link", async () => {
    const path = file();
    const link = `${path}.link`;
    const { apiKey, entry } = createApiKey({ tenant: "a" });
    await add(path, entry);
    symlinkSync(path, link);
    const handler = createKvHandler({ store: new MemoryStore(), tenants: fileTenants(path), limits: unlimited });
    expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(404);
    await changeTenants(link, (entries) => entries.map((each) => ({ ...each, revoked: Date.now() })));
    expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(401);
    expect(lstatSync(link).isSymbolicLink()).toBe(true);
  });

  it("keeps its mode and its owner when it is changed", async () => {
    const path = file();
    await add(path, createApiKey({ tenant: "a" }).entry);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    chmodSync(path, 0o640);
    // Only root may give a file away.
    const owner = process.getuid?.() === 0 ? 65_534 : (process.getuid?.() ?? 0);
    chownSync(path, owner, owner);
    await add(path, createApiKey({ tenant: "b" }).entry);
    const { mode, uid, gid } = statSync(path);
    expect([mode & 0o777, uid, gid]).toEqual([0o640, owner, owner]);
    expect(await readTenants(path)).toHaveLength(2);
  });

  it.each([
    ["a link to nothing", (path: string) => symlinkSync(`${path}.gone`, path), "symbolic link"],
    [
      "a file with two names",
      (path: string) => {
        writeFileSync(path, empty);
        linkSync(path, `${path}.other`);
      },
      "hard links",
    ],
  ])("is not changed if the path is %s, because a server could then read another file", async (_, make, problem) => {
    const path = file();
    make(path);
    const change = add(path, createApiKey({ tenant: "a" }).entry);
    await expect(change).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: expect.stringContaining(problem),
    });
    expect(readdirSync(dirname(path)).filter((name) => /\.(?:lock|new)$/.test(name))).toEqual([]);
  });

  it("gets no lock file if the change is refused", async () => {
    const path = file();
    const refused = changeTenants(path, () => {
      throw new KeywardError("VALUE_INVALID", "no such key", { hint: "List the keys." });
    });
    await expect(refused).rejects.toMatchObject({ code: "VALUE_INVALID" });
    expect(readdirSync(dirname(path))).toEqual([]);
  });

  it("can be changed even if a killed process left a lock file", async () => {
    const path = file();
    writeFileSync(`${path}.lock`, "", { mode: 0o600 });
    await add(path, createApiKey({ tenant: "a" }).entry);
    expect(await readTenants(path)).toHaveLength(1);
  });

  it("is not changed if the file at the path of the lock file is not empty", async () => {
    const path = file();
    writeFileSync(`${path}.lock`, "not empty");
    await expect(add(path, createApiKey({ tenant: "a" }).entry)).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      hint: expect.stringContaining(".lock file"),
    });
    expect(await readTenants(path)).toEqual([]);
  });

  it("is read again at the next request if reading the file has failed", async () => {
    const path = file();
    const { apiKey, entry } = createApiKey({ tenant: "a" });
    await add(path, entry);
    const handler = createKvHandler({ store: new MemoryStore(), tenants: fileTenants(path), limits: unlimited });
    const opened: number[] = [];
    try {
      for (;;) opened.push(openSync("/dev/null", "r"));
    } catch {
      // There are no more file descriptors.
    }
    const without = ask(handler, apiKey, "GET", "/key");
    const { status } = await without.finally(() => {
      for (const descriptor of opened) closeSync(descriptor);
    });
    expect(status).toBe(503);
    expect((await ask(handler, apiKey, "GET", "/key")).status).toBe(404);
  });

  it("loses no change when many changes are made at the same time", async () => {
    const path = file();
    const made = Array.from({ length: 30 }, () => createApiKey({ tenant: "a" }).entry);
    await Promise.all(made.map((entry) => add(path, entry)));
    const source = fileTenants(path);
    for (const { id } of made) expect(await source.find(id)).toBeDefined();
  });
});

function plain(value: unknown): unknown {
  return value instanceof Uint8Array ? `bytes ${Buffer.from(value).toString("hex")}` : value;
}

function byText(one: unknown, other: unknown): number {
  return JSON.stringify(one) < JSON.stringify(other) ? -1 : 1;
}
