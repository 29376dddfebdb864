import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { createApiKey, createKvHandler, HttpStore } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import fc from "fast-check";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { run, serve } from "../../../test/servers/keyward-kv.ts";
import { MemoryBudget } from "../src/memory-budget.ts";
import { field } from "../src/protocol.ts";
import { openSocket, temporaryFolder } from "./servers.ts";

const mebibyte = 2 ** 20;
/** With these limits, the least that maxBytesInMemory may be is twice 4 MiB. */
const limits = {
  maxBodyBytes: 2 * mebibyte,
  maxAnswerBytes: 2 * mebibyte,
  maxValueBytes: mebibyte,
  maxBytesInMemory: 8 * mebibyte,
  requestsPerSecond: Number.POSITIVE_INFINITY,
};

describe("keyward-kv", () => {
  const [bodies, bodyBytes, maxBytes] = [60, 8 * mebibyte, 64 * mebibyte];

  async function start() {
    const folder = temporaryFolder();
    const tenants = join(folder.path, "tenants.json");
    const [greedy, other] = ["greedy", "other"].map((tenant) =>
      run("tenants", "add", "--tenants", tenants, "--tenant", tenant),
    );
    if (greedy === undefined || other === undefined) throw new Error("two were made");
    const timeouts = ["--body-timeout-ms", "60000", "--idle-timeout-ms", "60000", "--drain-ms", "1"];
    const sizes = ["--max-value-bytes", String(bodyBytes), "--max-bytes-in-memory", String(maxBytes)];
    const server = await serve("--tenants", tenants, "--store", "memory:", ...sizes, ...timeouts);
    onTestFinished(async () => {
      await server.stop();
      folder.remove();
    });
    return { server, greedy, other };
  }

  /** Sends a body except its last byte, and collects the answer. */
  async function sendSlowly(
    url: string,
    apiKey: string,
    body: Buffer,
  ): Promise<{ socket: Socket; received(): string }> {
    const { socket, received } = await openSocket(url);
    const head = `PUT /slow HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\ncontent-length: ${body.length}`;
    socket.write(`${head}\r\ncontent-type: application/octet-stream\r\n\r\n`);
    socket.write(body.subarray(1));
    return { socket, received };
  }

  it("continues to serve other tenants while it refuses large bodies that exceed the memory limit", async () => {
    const { server, greedy, other } = await start();
    const store = new HttpStore({ url: server.url, apiKey: greedy });
    await store.set("key", "value");
    const before = residentBytes(server.process.pid);
    const body = randomBytes(bodyBytes);
    const slow = await Promise.all(Array.from({ length: bodies }, () => sendSlowly(server.url, greedy, body)));
    const refused = () => slow.filter(({ received }) => received() !== "");
    // One tenant gets half of 64 MiB, which is enough for fewer than five bodies of 8 MiB. All others are refused.
    await vi.waitFor(() => expect(refused().length).toBeGreaterThanOrEqual(bodies - 4), 20_000);
    for (const { received } of refused()) expect(received()).toMatch(/^HTTP\/1\.1 503 .*retry-after: 1\b.*OVERLOADED/s);
    const grown = residentBytes(server.process.pid) - before;
    expect(grown, `grown by ${grown / mebibyte} MiB`).toBeLessThan(4 * maxBytes);
    expect(refused().length).toBeLessThan(bodies);

    const neighbour = new HttpStore({ url: server.url, apiKey: other, retries: 0 });
    const value = randomBytes(mebibyte);
    expect(await neighbour.set("key", value)).toBe(true);
    expect(Buffer.from((await neighbour.get("key")) ?? "").equals(value)).toBe(true);

    const late = store.setMany(["a", "b", "c"].map((key) => ({ key, value: randomBytes(5 * mebibyte) })));
    const answered = () => server.output().split('"target":"set","status":503').length - 1;
    await vi.waitFor(() => expect(answered()).toBeGreaterThan(0), 20_000);
    for (const { socket } of slow) socket.destroy();
    expect(await late).toEqual([true, true, true]);
  });
});

type Ask = (method: string, path: string, body?: string, headers?: Record<string, string>) => Promise<Response>;

describe("the memory of an answer", () => {
  /**
   * Starts a server where each of two tenants has a record of 1 MiB. `ask` sends a request of the first tenant and keeps
   * the answer in `answers`. So no garbage collection can release the memory of an answer before the test empties that.
   */
  async function start() {
    const made = [createApiKey({ tenant: "acme" }), createApiKey({ tenant: "other" })] as const;
    const handler = createKvHandler({ store: new MemoryStore(), tenants: made.map(({ entry }) => entry), limits });
    const clients = made.map(
      ({ apiKey }) => new HttpStore({ url: "http://localhost", apiKey, fetch: handler, retries: 0 }),
    );
    const value = randomBytes(mebibyte);
    for (const client of clients) await client.set("key", value);
    const [{ apiKey }] = made;
    const answers: Response[] = [];
    const ask: Ask = async (method, path, body, headers) => {
      const answer = await handler(
        new Request(`http://localhost${path}`, {
          method,
          headers: { authorization: `Bearer ${apiKey}`, ...headers },
          ...(body === undefined ? {} : { body }),
        }),
      );
      answers.push(answer);
      return answer;
    };
    return { clients, value, ask, answers };
  }

  it("counts towards the memory limit until the client has read or cancelled the answer", async () => {
    const { ask, value, clients } = await start();
    // One tenant gets half of 8 MiB.
    const unread = [
      await ask("GET", "/key"),
      await ask("GET", "/key"),
      await ask("GET", "/key"),
      await ask("GET", "/key"),
    ];
    expect(unread.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
    const refused = await ask("GET", "/key");
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"]);
    expect(await clients[1]?.get("key")).toEqual(value);
    const [first, second] = unread;
    expect(Buffer.from(await new Response(first?.body ?? null).arrayBuffer()).equals(value)).toBe(true);
    const third = await ask("GET", "/key");
    expect(third.status).toBe(200);
    expect((await ask("GET", "/key")).status).toBe(503);
    await second?.body?.cancel();
    expect((await ask("GET", "/key")).status).toBe(200);
  });

  it("is released when an unread answer is garbage-collected", async () => {
    const { ask, answers } = await start();
    for (let count = 0; count < 4; count++) expect((await ask("GET", "/key")).status).toBe(200);
    collectGarbage();
    // A task of its own lets the runtime report what it collected.
    await new Promise((resolve) => setImmediate(resolve));
    expect((await ask("GET", "/key")).status).toBe(503);
    answers.length = 0;
    await vi.waitFor(async () => {
      collectGarbage();
      expect((await ask("GET", "/key")).status).toBe(200);
    }, 10_000);
  });

  it.each([
    ["refuses a value that is too large", (ask: Ask) => ask("PUT", "/key", "x".repeat(mebibyte + 1)), 413],
    ["refuses an invalid request", (ask: Ask) => ask("POST", "/set", "x".repeat(mebibyte)), 400],
    [
      "refuses a write whose condition is not met",
      (ask: Ask) => ask("PUT", "/key", "x".repeat(mebibyte), { "if-match": '"other"' }),
      412,
    ],
    ["confirms a write", (ask: Ask) => ask("PUT", "/other", "x".repeat(mebibyte)), 200],
    ["has no body", (ask: Ask) => ask("HEAD", "/key"), 200],
    ["reports an unchanged value", (ask: Ask) => ask("GET", "/key", undefined, { "if-none-match": "*" }), 304],
  ])("is released after an answer that %s", async (_, act, status) => {
    const { ask } = await start();
    for (let count = 0; count < 20; count++) expect((await act(ask)).status).toBe(status);
  });
});

describe("the memory limit", () => {
  it("allows every request that runs alone, even a request that reads many values of the largest size", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], limits });
    const store = new HttpStore({ url: "http://localhost", apiKey, fetch: handler, retries: 0 });
    const keys = Array.from({ length: 100 }, (_, index) => `key-${index}`);
    // While values are small, the server reads more at once. The last 30 values all have the largest size.
    for (const [index, key] of keys.entries()) {
      await store.set(key, index < 70 ? "small" : Buffer.alloc(mebibyte, key));
    }
    expect((await store.getMany(keys)).map((value) => value?.length)).toEqual(
      keys.map((_, index) => (index < 70 ? 5 : mebibyte)),
    );
    const found: string[] = [];
    for (let cursor: string | undefined, more = true; more; more = cursor !== undefined) {
      const page = await store.scan(cursor === undefined ? {} : { cursor });
      found.push(...page.entries.map(({ key }) => key));
      cursor = page.cursor;
    }
    expect(found).toEqual(keys);
  });

  it("shortens the answer to a batch or a scan if the free part of the memory limit is too small for all values", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], limits });
    const ask = async (operation: string, body: unknown) => {
      const headers = { authorization: `Bearer ${apiKey}` };
      const request = { method: "POST", headers, body: JSON.stringify(body) };
      return await handler(new Request(`http://localhost/${operation}`, request));
    };
    const keys = Array.from({ length: 10 }, (_, index) => `key-${index}`);
    const store = new HttpStore({ url: "http://localhost", apiKey, fetch: handler, retries: 0 });
    for (const [index, key] of keys.entries()) await store.set(key, Buffer.alloc(index < 6 ? 1_000 : mebibyte, key));
    // The tenant may have 4 MiB. These answers leave little more than 1 MiB.
    const unread = [await ask("get", { keys: ["key-8"] }), await ask("get", { keys: ["key-8", "key-9"] })];
    const batch: unknown = await (await ask("get", { keys })).json();
    const page: unknown = await (await ask("scan", {})).json();
    expect(batch).toMatchObject({ values: Array.from({ length: 6 }, () => ({})) });
    expect(page).toMatchObject({ cursor: expect.any(String), entries: keys.slice(0, 6).map((key) => ({ key })) });
    expect((await ask("get", { keys: keys.slice(6) })).status).toBe(503);
    for (const answer of unread) await answer.body?.cancel();
    expect(await store.getMany(keys)).toHaveLength(10);
    expect(await (await ask("scan", { cursor: field(page, "cursor") })).json()).toMatchObject({
      entries: [{ key: "key-6" }, { key: "key-7" }],
    });
  });

  it("cannot be set so low that a single request could exceed it", () => {
    const { entry } = createApiKey({ tenant: "acme" });
    const make = (maxBytesInMemory: number) =>
      createKvHandler({ store: new MemoryStore(), tenants: [entry], limits: { ...limits, maxBytesInMemory } });
    expect(make(limits.maxBytesInMemory)).toBeTypeOf("function");
    expect(() => make(limits.maxBytesInMemory - 1)).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
    expect(() =>
      createKvHandler({ store: new MemoryStore(), tenants: [entry], limits: { maxBytesInMemory: 1 } }),
    ).toThrow("maxBytesInMemory");
  });

  it("leaves each new tenant as much memory as any other tenant has reserved", () => {
    const taking = fc.record({
      tenant: fc.nat({ max: 5 }),
      bytes: fc.integer({ min: 1, max: 400 }),
      ends: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(taking, { maxLength: 60 }), (script) => {
        const maxBytes = 1_000;
        const budget = new MemoryBudget(maxBytes);
        const open: { tenant: number; memory: ReturnType<MemoryBudget["open"]> }[] = [];
        const sum = (tenant?: number) =>
          open
            .filter((each) => tenant === undefined || each.tenant === tenant)
            .reduce((all, { memory }) => all + memory.bytes, 0);
        for (const { tenant, bytes, ends } of script) {
          const memory = budget.open(String(tenant));
          const fits = sum(tenant) + bytes <= maxBytes - sum() - bytes;
          expect(memory.tryReserve(bytes)).toBe(fits);
          open.push({ tenant, memory });
          expect(sum()).toBeLessThanOrEqual(maxBytes);
          const newcomer = budget.open("newcomer");
          const largest = Math.max(...open.map((each) => sum(each.tenant)));
          // No tenant has more than was left free when it reserved its memory, so a new one finds as much.
          expect(newcomer.tryReserve(Math.floor((maxBytes - sum()) / 2))).toBe(true);
          newcomer.release();
          expect(largest).toBeLessThanOrEqual(maxBytes / 2);
          if (ends) open.shift()?.memory.release();
        }
        for (const { memory } of open) {
          memory.release();
          memory.release();
          expect(memory.tryReserve(1)).toBe(false);
        }
        expect(budget.open("another").tryReserve(maxBytes / 2)).toBe(true);
      }),
    );
  });
});

/** Returns the resident memory of a process. */
function residentBytes(pid: number | undefined): number {
  const status = `/proc/${pid}/status`;
  const kibibytes = existsSync(status)
    ? /^VmRSS:\s*(\d+)/m.exec(readFileSync(status, "utf8"))?.[1]
    : execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" });
  return Number(kibibytes) * 1024;
}

function collectGarbage(): void {
  setFlagsFromString("--expose-gc");
  const collect: unknown = runInNewContext("gc");
  if (typeof collect === "function") collect();
}
