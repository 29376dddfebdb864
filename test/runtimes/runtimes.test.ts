import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createApiKey, HttpStore } from "@keyward/http-kv";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readPage } from "../markdown.ts";
import { repository } from "../workspace.ts";
import { type RunningServer, type Runtime, runtimes, start, writeModule } from "./runtimes.ts";

const file = "packages/http-kv/README.md";
const page = readPage(file, readFileSync(join(repository, file), "utf8"));

/** Returns the example of the README, so that the tests run exactly this code on every runtime. */
function example(name: "server.ts" | "hono.ts"): string {
  const found = page.blocks.filter(({ code }) => code.startsWith(`// ${name}\n`)).map(({ code }) => code);
  if (found[0] === undefined || found.length > 1) throw new Error(`${file} does not have exactly one example ${name}`);
  return found[0];
}

function suite(runtime: Runtime, module: "server.ts" | "hono.ts"): void {
  const made = ["acme", "other"].map((tenant) => createApiKey({ tenant }));
  const apiKeys = made.map(({ apiKey }) => apiKey);
  const [apiKey = "", otherApiKey = ""] = apiKeys;
  let server: RunningServer;
  let remove: () => void;
  let url: string;

  beforeAll(async () => {
    const written = writeModule(module, example(module));
    remove = written.remove;
    server = await start(runtime, written.path, { KV_API_KEYS: JSON.stringify(made.map(({ entry }) => entry)) });
    url = `${server.url}/kv`;
  });
  afterAll(async () => {
    await server?.stop();
    remove();
  });

  const client = (as = apiKey) => new HttpStore({ url, apiKey: as, retries: 0 });
  const ask = (path: string, init: RequestInit = {}) =>
    fetch(`${url}${path}`, { ...init, headers: { authorization: `Bearer ${apiKey}`, ...init.headers } });

  it("the HTTP KV handler stores text and bytes of various sizes up to 2 MiB", async () => {
    const store = client().namespaced("values");
    const values = {
      empty: "",
      text: "\ufefftäxt \0 😀",
      bytes: Uint8Array.from({ length: 256 }, (_, index) => index),
      large: randomBytes(2 * 2 ** 20),
      "large text": "ö".repeat(1_000_000),
    };
    for (const [key, value] of Object.entries(values)) expect(await store.set(key, value)).toBe(true);
    for (const [key, value] of Object.entries(values)) {
      const found = await store.get(key);
      expect(typeof found).toBe(typeof value);
      expect(Buffer.from(found ?? "").equals(Buffer.from(value)), key).toBe(true);
    }
    expect(await store.getMany([...Object.keys(values), "none"])).toHaveLength(6);
    expect(await store.delete("large")).toBe(true);
    expect(await store.has("large")).toBe(false);
  });

  it("the HTTP KV handler returns no record whose time to live has ended", async () => {
    const store = client().namespaced("expiry");
    await store.set("short", "value", Date.now() + 200);
    await store.set("long", "value", Date.now() + 100_000);
    await expect.poll(() => store.has("short"), { timeout: 10_000 }).toBe(false);
    expect(await store.get("long")).toBe("value");
  });

  it("the HTTP KV handler lets exactly one of many concurrent callers replace a value", async () => {
    const store = client().namespaced("replacing");
    expect(await store.replace("key", undefined, "0")).toBe(true);
    const replaced = await Promise.all(
      Array.from({ length: 20 }, (_, index) => store.replace("key", "0", `${index}!`)),
    );
    expect(replaced.filter(Boolean)).toHaveLength(1);
    expect(await store.get("key")).toBe(`${replaced.indexOf(true)}!`);
  });

  it("the HTTP KV handler carries out a write only once if the same request arrives twice at the same time", async () => {
    const headers = { "idempotency-key": "0123456789abcdef" };
    const body = JSON.stringify({ changes: [{ key: "once", expected: null, text: "x".repeat(100_000) }] });
    const answers = await Promise.all([1, 2].map(() => ask("/replace", { method: "POST", headers, body })));
    for (const answer of answers) expect(await answer.json()).toEqual({ replaced: [true] });
  });

  it("the HTTP KV handler returns every record in a scan, and every key in a listing of a namespace", async () => {
    const store = client(otherApiKey);
    const keys = Array.from({ length: 250 }, (_, index) => `key-${index}`);
    for (const namespace of ["", "a"]) {
      await store.namespaced(namespace).setMany(keys.map((key) => ({ key, value: `${namespace}${key}` })));
    }
    const scanned: string[] = [];
    for (let cursor: string | undefined, goesOn = true; goesOn; goesOn = cursor !== undefined) {
      const found = await store.scan({ limit: 99, ...(cursor === undefined ? {} : { cursor }) });
      scanned.push(...found.entries.map(({ namespace, key }) => `${namespace}/${key}`));
      cursor = found.cursor;
    }
    expect(scanned.sort()).toEqual(["", "a"].flatMap((namespace) => keys.map((key) => `${namespace}/${key}`)).sort());
    const listed: string[] = [];
    for await (const [key] of store.namespaced("a").iterator()) listed.push(key);
    expect(listed.sort()).toEqual([...keys].sort());
    await store.clear();
    expect(await store.has("key-1")).toBe(false);
    expect(await store.namespaced("a").has("key-1")).toBe(true);
  });

  it("the HTTP KV handler accepts any key of a record in a URL, and answers conditional requests", async () => {
    const keys = [
      "a/b",
      "a//b",
      "a:b",
      "a:",
      "a/",
      "%",
      "%2F",
      "%2e%2e",
      " ",
      "é😀",
      "\\",
      "a?b#c",
      "+",
      "é".repeat(512),
    ];
    for (const key of keys) {
      const path = `/${encodeURIComponent(key)}?namespace=urls`;
      const headers = { "if-none-match": "*" };
      expect((await ask(path, { method: "PUT", body: key, headers })).status, key).toBe(200);
      expect((await ask(path, { method: "PUT", body: key, headers })).status, key).toBe(412);
      const got = await ask(path);
      expect(await got.text()).toBe(key);
      expect((await ask(path, { headers: { "if-none-match": got.headers.get("etag") ?? "" } })).status).toBe(304);
      expect((await ask(path, { method: "HEAD" })).headers.get("etag")).toBe(got.headers.get("etag"));
    }
    const listed: unknown = await (await ask("/?namespace=urls")).json();
    expect(listed).toEqual(expect.arrayContaining(keys));
    expect(listed).toHaveLength(keys.length);
  });

  it("the HTTP KV handler rejects a request with an invalid API key or with a body that is too large", async () => {
    for (const authorization of ["", "Bearer x", `Bearer ${createApiKey({ tenant: "acme" }).apiKey}`]) {
      expect((await fetch(`${url}/key`, { headers: { authorization } })).status).toBe(401);
    }
    await expect(client(createApiKey({ tenant: "acme" }).apiKey).get("key")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
    });
    await expect(client().set("key", randomBytes(9_000_000))).rejects.toMatchObject({ code: "VALUE_INVALID" });
    expect(await client().get("key")).toBeUndefined();
  });

  it("the HTTP KV handler keeps the records of two tenants separate, even if the records have equal keys", async () => {
    const [mine, theirs] = [client().namespaced("apart"), client(otherApiKey).namespaced("apart")];
    await mine.set("key", "mine");
    expect([await theirs.get("key"), await theirs.has("key"), await theirs.delete("key")]).toEqual([
      undefined,
      false,
      false,
    ]);
    expect((await theirs.scan()).entries.filter(({ namespace }) => namespace === "apart")).toEqual([]);
    await theirs.set("key", "theirs");
    await theirs.clear();
    expect(await mine.get("key")).toBe("mine");
  });
}

for (const runtime of runtimes) {
  const module = runtime.name.includes("hono") ? "hono.ts" : "server.ts";
  const name = `the HTTP KV handler on ${runtime.name}`;
  if (runtime.missing === undefined) {
    describe(name, () => suite(runtime, module));
  } else if (process.env["CI"] === "true") {
    describe(name, () => {
      it("finds its runtime on this machine", () => {
        throw new Error(runtime.missing);
      });
    });
  } else {
    describe.skip(`${name} (skipped: ${runtime.missing})`, () => suite(runtime, module));
  }
}
