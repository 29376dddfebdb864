import { execFile } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { inspect, promisify } from "node:util";
import { KeywardError } from "@keyward/core";
import { createApiKey, createKvHandler, HttpStore, type KvHandler } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";
import { type Fault, startProxy } from "./faulty-proxy.ts";
import { startServer } from "./servers.ts";

/**
 * The answer to a delete of these keys has 500 times "false,". This many answers are more than the 8 MiB that a server
 * keeps.
 */
const manyKeys = Array.from({ length: 500 }, (_, index) => `${index}`);
const writesToForget = 2_800;

const hostile = fileURLToPath(new URL("hostile-answers.ts", import.meta.url));

async function startFaulty(next: () => Fault) {
  const server = await startServer();
  const proxy = await startProxy(server.url, next);
  onTestFinished(async () => {
    await proxy.close();
    await server.close();
  });
  return { server, url: proxy.url };
}

const faults = ["cut request", "lose answer", "cut answer", "swallow answer"] as const satisfies Fault[];

describe.each(faults)("HttpStore, if every second connection has the fault %j,", (fault) => {
  it("completes every call, and does each write once", async () => {
    let hit = false;
    const { server, url } = await startFaulty(() => {
      hit = !hit;
      return hit ? fault : "none";
    });
    const direct = server.client();
    const store = server.client({ url, timeoutMs: 200 });
    expect(await store.set("key", "old")).toBe(true);
    expect(await store.get("key")).toBe("old");
    expect(await store.replace("key", "old", "new")).toBe(true);
    expect(await store.replace("key", "old", "newer")).toBe(false);
    expect(await store.has("key")).toBe(true);
    // A second replacement would find no record, and be refused.
    await store.set("removed", "old");
    expect(await store.replace("removed", "old", "new", Date.now() - 1)).toBe(true);
    expect(await direct.has("removed")).toBe(false);
    expect((await store.scan()).entries).toHaveLength(1);
    expect(await store.delete("key")).toBe(true);
    expect(await direct.has("key")).toBe(false);
    await store.clear();
  });
});

it("HttpStore.replace returns whether the replacement was done, even if connections break", async () => {
  const seeds = fc.sample(fc.integer(), { numRuns: 1 });
  const random = mulberry(seeds[0] ?? 1);
  const { server, url } = await startFaulty(() => {
    const drawn = random();
    return drawn < 0.15 ? "lose answer" : drawn < 0.25 ? "cut answer" : drawn < 0.35 ? "cut request" : "none";
  });
  await server.client().set("counter", "0");
  let won = 0;
  await Promise.all(
    Array.from({ length: 4 }, async () => {
      const store = server.client({ url, retries: 20 });
      await store.get("counter");
      for (let step = 0; step < 25; ) {
        const read = String(await store.get("counter"));
        if (!(await store.replace("counter", read, String(Number(read) + 1)))) continue;
        won++;
        step++;
      }
    }),
  );
  expect(await server.client().get("counter"), `seed ${seeds[0]}`).toBe(String(won));
});

describe("a server process that does not remember an earlier request", () => {
  it.each(["a client that has used another process", "a new client"])(
    "makes replace() of %s reject instead of returning false if another process has done the replacement",
    async (kind) => {
      const { apiKey, entry } = createApiKey({ tenant: "acme" });
      const store = new MemoryStore();
      const first = createKvHandler({ store, tenants: [entry] });
      const second = createKvHandler({ store, tenants: [entry] });
      let handler: KvHandler = async (request) => {
        if (!request.url.endsWith("/replace")) return await first(request);
        await first(request);
        handler = second;
        throw Object.assign(new TypeError("fetch failed"), { cause: { code: "ECONNRESET" } });
      };
      const client = new HttpStore({ url: "http://localhost", apiKey, fetch: (request) => handler(request) });
      if (kind !== "a new client") await client.has("key");
      await expect(client.replace("key", undefined, "new")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
      expect(await client.get("key")).toBe("new");
      // No earlier attempt can have done this replacement, so it is refused normally.
      expect(await client.replace("key", undefined, "newer")).toBe(false);
    },
  );

  it("makes a repeated replacement reject with an unknown outcome if the process refuses the replacement as invalid", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const store = new MemoryStore();
    const first = createKvHandler({ store, tenants: [entry] });
    const second = createKvHandler({ store, tenants: [entry], limits: { maxValueBytes: 1 } });
    let handler: KvHandler = async (request) => {
      await first(request);
      handler = second;
      throw Object.assign(new TypeError("fetch failed"), { cause: { code: "ECONNRESET" } });
    };
    const client = new HttpStore({ url: "http://localhost", apiKey, fetch: (request) => handler(request) });
    await expect(client.replace("key", undefined, "new")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: expect.stringContaining("An earlier attempt of this write may have succeeded"),
    });
    expect(await client.get("key")).toBe("new");
    await expect(client.replace("key", "new", "newer")).rejects.toMatchObject({ code: "VALUE_INVALID" });
  });

  it("accepts a write of a client that has used another process", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const store = new MemoryStore();
    let handler = createKvHandler({ store, tenants: [entry] });
    const client = new HttpStore({ url: "http://localhost", apiKey, fetch: (request) => handler(request), retries: 0 });
    for (let round = 0; round < 3; round++) {
      expect(await client.set("key", `${round}`)).toBe(true);
      expect(await client.replace("key", "other", "new")).toBe(false);
      handler = createKvHandler({ store, tenants: [entry] });
    }
  });

  it("accepts a write even if a load balancer sends each attempt of the write to another process", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const store = new MemoryStore();
    const handlers = [1, 2, 3].map(() => createKvHandler({ store, tenants: [entry] }));
    let turn = 0;
    const fetch = async (request: Request) => (await handlers[turn++ % 3]?.(request)) ?? Response.error();
    const client = new HttpStore({ url: "http://localhost", apiKey, fetch, retries: 0 });
    for (let round = 0; round < 5; round++) expect(await client.set("key", `${round}`)).toBe(true);
    expect(await client.get("key")).toBe("4");
  });

  it("makes a repeated replacement reject if it may have done the replacement and then forgotten it", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const server = createKvHandler({
      store: new MemoryStore(),
      tenants: [entry],
      limits: { requestsPerSecond: Number.POSITIVE_INFINITY },
    });
    const other = new HttpStore({ url: "http://localhost", apiKey, fetch: server });
    let lost = false;
    const client = new HttpStore({
      url: "http://localhost",
      apiKey,
      async fetch(request) {
        const answer = await server(request);
        if (lost || !request.url.endsWith("/replace")) return answer;
        lost = true;
        // More writes than the server remembers.
        for (let write = 0; write < writesToForget; write++) await other.deleteMany(manyKeys);
        throw Object.assign(new TypeError("fetch failed"), { cause: { code: "ECONNRESET" } });
      },
    });
    await client.set("key", "old");
    await expect(client.replace("key", "old", "new")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(await client.get("key")).toBe("new");
  });

  it("does a repeated replacement if the first attempt never arrived", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const server = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
    let attempts = 0;
    const client = new HttpStore({
      url: "http://localhost",
      apiKey,
      async fetch(request) {
        if (attempts++ === 0) throw Object.assign(new TypeError("fetch failed"), { cause: { code: "ECONNRESET" } });
        return await server(request);
      },
    });
    expect(await client.replace("key", undefined, "new")).toBe(true);
  });

  it("does a repeated write if the first attempt was refused as OVERLOADED", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const store = new MemoryStore();
    const [first, second] = [1, 2].map(() => createKvHandler({ store, tenants: [entry] }));
    let attempts = 0;
    const client = new HttpStore({
      url: "http://localhost",
      apiKey,
      async fetch(request) {
        if (request.url.endsWith("/has")) return (await first?.(request)) ?? Response.error();
        if (attempts++ > 0) return (await second?.(request)) ?? Response.error();
        return Response.json({ code: "OVERLOADED", message: "Too much" }, { status: 503 });
      },
    });
    await client.has("key");
    expect(await client.replace("key", undefined, "new")).toBe(true);
    expect(attempts).toBe(3);
  });

  it("returns the stored record to a client that has used another process on the same port", async () => {
    const store = new MemoryStore();
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const first = await startServer({ store, tenants: [entry], apiKey });
    const client = first.client({ retries: 20 });
    await client.set("key", "value");
    await first.close();
    const read = client.get("key");
    const second = await startServer({ store, tenants: [entry], apiKey, port: Number(new URL(first.url).port) });
    onTestFinished(() => second.close());
    expect(await read).toBe("value");
  });
});

it("a delayed attempt of a write does not undo a later write", async () => {
  const { apiKey, entry } = createApiKey({ tenant: "acme" });
  const server = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
  const late: Request[] = [];
  const client = new HttpStore({
    url: "http://localhost",
    apiKey,
    timeoutMs: 1_000,
    async fetch(request) {
      if (late.length > 0) return await server(request);
      late.push(new Request(request.clone(), { signal: null }));
      return await new Promise<Response>(() => undefined);
    },
  });
  await client.set("key", "first");
  await client.set("key", "second");
  for (const request of late) expect((await server(request)).status).toBe(200);
  expect(await client.get("key")).toBe("second");
});

it("a delayed attempt does not undo a later write, even if the server has forgotten the attempt", async () => {
  const { apiKey, entry } = createApiKey({ tenant: "acme" });
  const limits = { requestsPerSecond: Number.POSITIVE_INFINITY };
  const server = createKvHandler({ store: new MemoryStore(), tenants: [entry], limits });
  const late: Request[] = [];
  const client = new HttpStore({
    url: "http://localhost",
    apiKey,
    async fetch(request) {
      if (request.url.endsWith("/set")) late.push(request.clone());
      return await server(request);
    },
  });
  await client.has("key");
  await client.set("key", "first");
  const [first] = late;
  if (first === undefined) throw new Error("one was sent");
  const other = new HttpStore({ url: "http://localhost", apiKey, fetch: server });
  // More writes than the server remembers.
  for (let write = 0; write < writesToForget; write++) await other.deleteMany(manyKeys);
  await other.set("key", "second");
  expect((await server(first)).status).toBe(421);
  expect(await client.get("key")).toBe("second");
  // A new write with an old token is refused once, and then sent with a new token.
  expect(await client.set("key", "third")).toBe(true);
});

it.each(["set", "delete"] as const)(
  "the repetition of a %s changes nothing if another process may have done the first attempt",
  async (method) => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const store = new MemoryStore();
    const first = createKvHandler({ store, tenants: [entry] });
    const second = createKvHandler({ store, tenants: [entry] });
    let handler: KvHandler = async (request) => {
      if (!request.url.endsWith(`/${method}`)) return await first(request);
      await first(request);
      await new HttpStore({ url: "http://localhost", apiKey, fetch: second }).set("key", "later");
      handler = second;
      throw Object.assign(new TypeError("fetch failed"), { cause: { code: "ECONNRESET" } });
    };
    const client = new HttpStore({ url: "http://localhost", apiKey, fetch: (request) => handler(request) });
    await client.has("key");
    const call = method === "set" ? client.set("key", "earlier") : client.delete("key");
    await expect(call).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(await client.get("key")).toBe("later");
  },
);

it("HttpStore repeats a call that the server refuses because of the rate limit, until the call succeeds", async () => {
  const server = await startServer({ limits: { requestsPerSecond: 2 } });
  onTestFinished(() => server.close());
  const store = server.client();
  const keys = Array.from({ length: 4 }, (_, index) => `key-${index}`);
  expect(await Promise.all(keys.map((key) => store.set(key, "value")))).toEqual(keys.map(() => true));
  expect(server.log.some(({ status }) => status === 429)).toBe(true);
});

describe("HttpStore", () => {
  async function startBusy(status: number, retryAfter: string | undefined) {
    const at: number[] = [];
    const server = createServer((_, response) => {
      at.push(performance.now());
      if (at.length > 1) {
        response.setHeader("content-type", "application/json");
        response.end('{"found":[true]}');
        return;
      }
      response.writeHead(status, retryAfter === undefined ? {} : { "retry-after": retryAfter }).end("busy");
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    const address = server.address();
    const url = `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
    return { at, store: new HttpStore({ url, apiKey: createApiKey({ tenant: "a" }).apiKey }) };
  }

  it.each([429, 503])(
    "waits for the seconds in Retry-After before it repeats a call that was answered with status %i",
    async (status) => {
      const { at, store } = await startBusy(status, "1");
      expect(await store.has("key")).toBe(true);
      expect((at[1] ?? 0) - (at[0] ?? 0)).toBeGreaterThanOrEqual(1_000);
    },
  );

  it("waits until the date in Retry-After before it repeats a call", async () => {
    const date = new Date(Math.ceil(Date.now() / 1000) * 1000 + 1_000);
    const { store } = await startBusy(503, date.toUTCString());
    expect(await store.has("key")).toBe(true);
    expect(Date.now()).toBeGreaterThanOrEqual(date.getTime());
  });

  it("does not repeat a call if Retry-After asks for a pause of more than 30 seconds", async () => {
    const { at, store } = await startBusy(503, "3600");
    await expect(store.has("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(at).toHaveLength(1);
  });

  it.each([500, 404, 200])(
    "does not repeat a call after an answer of status %i that does not follow the protocol",
    async (status) => {
      const { at, store } = await startBusy(status, undefined);
      await expect(store.has("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
      expect(at).toHaveLength(1);
    },
  );
});

it("HttpStore waits for a random pause between two attempts, and the pauses become longer", async () => {
  const fetch = async () => {
    throw Object.assign(new TypeError("fetch failed"), { cause: { code: "ECONNREFUSED" } });
  };
  const { apiKey } = createApiKey({ tenant: "acme" });
  const pauses = await Promise.all(
    Array.from({ length: 40 }, async () => {
      const at: number[] = [];
      const timed = () => {
        at.push(performance.now());
        return fetch();
      };
      const store = new HttpStore({ url: "http://localhost", apiKey, retries: 2, fetch: timed });
      await expect(store.get("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
      const [first = 0, second = 0, third = 0] = at;
      return { early: second - first, late: third - second };
    }),
  );
  // A timer may fire a little early.
  for (const { early, late } of pauses) expect(early >= 24 && late >= 49, `${early} ms, then ${late} ms`).toBe(true);
  const spread = (times: readonly number[]) => Math.max(...times) - Math.min(...times);
  // That 40 random pauses within a range of 50 ms differ by at most 15 ms has a chance of 1 in 10^18.
  expect(spread(pauses.map(({ early }) => early))).toBeGreaterThan(15);
});

describe("a write through HttpStore", () => {
  const { apiKey } = createApiKey({ tenant: "acme" });

  it("rejects at once if Retry-After asks for a longer pause than the time limit allows", async () => {
    let asked = 0;
    const fetch = async () => {
      asked++;
      return new Response("busy", { status: 503, headers: { "retry-after": "1" } });
    };
    const store = new HttpStore({ url: "http://localhost", apiKey, timeoutMs: 80, retries: 1, fetch });
    expect(store.longestCallMs).toBe(800);
    await expect(store.set("key", "value")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(asked).toBe(1);
    await expect(store.get("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(asked).toBe(3);
  });

  it("has one time limit for all its requests and attempts", async () => {
    let sent = 0;
    const store = new HttpStore({
      url: "http://localhost",
      apiKey,
      timeoutMs: 30,
      retries: 1_000,
      async fetch(request) {
        sent++;
        await sleep(20, undefined, { signal: request.signal });
        return Response.json({ stored: Array.from({ length: 500 }, () => true) });
      },
    });
    const entries = Array.from({ length: 500 * 40 }, (_, index) => ({ key: `key-${index}`, value: "value" }));
    const error = await store.setMany(entries).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "STORE_UNAVAILABLE" });
    // If each request had a limit of its own, all 40 would be answered.
    expect(sent).toBeGreaterThan(1);
    expect(sent).toBeLessThan(40);
    const before = sent;
    await sleep(50);
    expect(sent).toBe(before);
  });
});

describe("an error of HttpStore", () => {
  it("contains neither the API key nor the record if the server does not answer in time", async () => {
    const { url } = await startFaulty(() => "swallow answer");
    const { apiKey } = createApiKey({ tenant: "acme" });
    const store = new HttpStore({ url, apiKey, timeoutMs: 50, retries: 1 });
    const secret = "a secret value";
    const errors: unknown[] = [];
    for (const call of [() => store.set("session-id", secret), () => store.get("session-id")]) {
      errors.push(await call().catch((error: unknown) => error));
    }
    for (const error of errors) {
      expect(error).toBeInstanceOf(KeywardError);
      expect(error).toMatchObject({ code: "STORE_UNAVAILABLE" });
      expect(inspect(error, { depth: 10 })).not.toMatch(/session-id|a secret value|kv_/);
    }
    expect(inspect(store, { depth: 10, showHidden: true })).not.toContain(apiKey);
    expect(JSON.stringify(store)).not.toContain(apiKey);
  });

  it("contains the error code of the operating system if the connection was refused", async () => {
    const server = await startServer();
    await server.close();
    await expect(server.client({ retries: 0 }).get("key")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: expect.stringContaining("ECONNREFUSED"),
    });
  });

  it("has the code VALUE_INVALID if a value or key exceeds a limit of the server", async () => {
    const server = await startServer({ limits: { maxValueBytes: 100, maxBodyBytes: 10_000 } });
    onTestFinished(() => server.close());
    const store = server.client();
    await expect(store.set("key", "x".repeat(101))).rejects.toMatchObject({ code: "VALUE_INVALID" });
    await expect(store.set("key", "x".repeat(3_000_000))).rejects.toMatchObject({ code: "VALUE_INVALID" });
    await expect(store.set("k".repeat(3_000), "x")).rejects.toMatchObject({ code: "VALUE_INVALID" });
  });

  it("is thrown before a request is sent if an argument is invalid", async () => {
    const { apiKey } = createApiKey({ tenant: "acme" });
    const store = new HttpStore({ url: "http://localhost", apiKey, fetch: () => expect.unreachable("it was sent") });
    for (const limit of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      await expect(store.scan({ limit })).rejects.toMatchObject({ code: "VALUE_INVALID" });
    }
    await expect(store.set("key", "value", Number.NaN)).rejects.toMatchObject({ code: "VALUE_INVALID" });
    await expect(store.set("\ud800", "value")).rejects.toMatchObject({ code: "VALUE_INVALID" });
  });

  it("is thrown if the API key is unknown, so that the record does not seem to be missing", async () => {
    const server = await startServer();
    onTestFinished(() => server.close());
    const store = server.client({ apiKey: createApiKey({ tenant: "acme" }).apiKey });
    await expect(store.get("key")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      hint: expect.stringContaining("revoked"),
    });
  });
});

describe("the constructor of HttpStore", () => {
  const { apiKey } = createApiKey({ tenant: "acme" });

  it.each(["http://kv.example.com", "http://localhost.example.com", "http://127.0.0.1.example.com", "http://10.0.0.1"])(
    "refuses %s, which is plain HTTP to another machine, if allowPlainHttp is not set",
    (url) => {
      expect(() => new HttpStore({ url, apiKey })).toThrow("plain HTTP");
      expect(new HttpStore({ url, apiKey, allowPlainHttp: true })).toBeInstanceOf(HttpStore);
    },
  );

  it.each([
    "https://kv.example.com",
    "http://localhost:1",
    "http://127.0.0.1",
    "http://127.9.9.9/kv",
    "http://[::1]:1",
  ])("accepts the URL %s", (url) => expect(new HttpStore({ url, apiKey })).toBeInstanceOf(HttpStore));

  it.each([
    [{ timeout: 1 }, "timeout"],
    [{ timeoutMs: Number.POSITIVE_INFINITY }, "timeoutMs"],
    [{ timeoutMs: 2 ** 28 }, "timeoutMs"],
    [{ timeoutMs: 0 }, "timeoutMs"],
    [{ retries: 1.5 }, "retries"],
    [{ retries: -1 }, "retries"],
  ])("refuses the option %j, with an error that names the option", (options: object, name) => {
    const error = refusal(() => new HttpStore({ url: "https://kv.example.com", apiKey, ...options }));
    expect(error).toMatchObject({ code: "VALUE_INVALID", message: expect.stringContaining(name) });
  });

  it.each([
    "kv.example.com",
    "ftp://kv.example.com",
    "https://user:word@kv.example.com",
    "https://kv.example.com/?a=b",
  ])("refuses the URL %s, with an error that quotes no password", (url) => {
    const error = refusal(() => new HttpStore({ url, apiKey }));
    expect(error).toMatchObject({ code: "STORE_INVALID" });
    expect(inspect(error)).not.toContain("word@");
  });

  it("refuses a malformed API key, with an error that does not quote the API key", () => {
    const error = refusal(() => new HttpStore({ url: "https://kv.example.com", apiKey: `${apiKey}\n` }));
    expect(error).toMatchObject({ code: "STORE_INVALID" });
    expect(inspect(error)).not.toContain(apiKey);
  });
});

describe("a call of HttpStore", () => {
  const { apiKey } = createApiKey({ tenant: "acme" });

  it("follows no redirect, because a redirect could pass the API key to another server", async () => {
    let seen = 0;
    const server = createServer((request, response) => {
      if (request.url === "/elsewhere") seen++;
      response.writeHead(307, { location: "/elsewhere" }).end();
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    onTestFinished(() => {
      server.closeAllConnections();
      server.close();
    });
    const address = server.address();
    const url = `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}`;
    await expect(new HttpStore({ url, apiKey, retries: 0 }).get("key")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
    });
    expect(seen).toBe(0);
  });
});

describe("an endless answer", () => {
  const { apiKey } = createApiKey({ tenant: "acme" });
  const answering = (body: ReadableStream) => async () => new Response(body);

  it("makes the call of HttpStore reject after the time limit if the answer arrives slowly", async () => {
    const drops = new ReadableStream({
      async pull(controller) {
        await sleep(5);
        controller.enqueue(Buffer.from(" "));
      },
    });
    const store = new HttpStore({
      url: "http://localhost",
      apiKey,
      timeoutMs: 30,
      retries: 0,
      fetch: answering(drops),
    });
    await expect(store.get("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
  });

  it("makes the call of HttpStore reject without another attempt if the answer arrives fast", async () => {
    const water = Buffer.alloc(2 ** 24, " ");
    let asked = 0;
    const fetch = async () => {
      asked++;
      return new Response(new ReadableStream({ pull: (controller) => controller.enqueue(water) }));
    };
    const store = new HttpStore({ url: "http://localhost", apiKey, fetch });
    await expect(store.get("key")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: expect.stringContaining("bytes"),
    });
    expect(asked).toBe(1);
  });
});

describe("an answer of a hostile server", () => {
  it.each([
    ["lists", "get"],
    ["lists", "iterate"],
    ["objects", "get"],
    ["numbers", "has"],
    ["space", "get"],
    ["refusal", "get"],
  ])(
    "does not crash a client with a small heap if the answer contains endless %s and the client calls %s",
    async (shape, call) => {
      const { stdout } = await promisify(execFile)(process.execPath, ["--max-old-space-size=64", hostile, shape, call]);
      expect(stdout.trim()).toMatch(/^(?:STORE_UNAVAILABLE|VALUE_INVALID)$/);
    },
  );

  it("is not quoted in an error if the answer contains the API key or is not one line of text", async () => {
    const { apiKey } = createApiKey({ tenant: "acme" });
    for (const message of [`a ${apiKey} b`, "a\u001b[2Jb", "x".repeat(5_000)]) {
      const body = { code: "INTERNAL", message, id: message };
      const fetch = async () => Response.json(body, { status: 500 });
      const store = new HttpStore({ url: "http://localhost", apiKey, retries: 0, fetch });
      const error = await store.get("key").catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({
        code: "STORE_UNAVAILABLE",
        message: "The HTTP KV server http://localhost answered 500",
      });
      expect(inspect(error, { depth: 10 })).not.toContain(apiKey.slice(-20));
    }
  });
});

it.each([
  ["connect", false],
  ["read", true],
])(
  "HttpStore repeats a write that failed with EHOSTUNREACH in the system call %s; the next attempt has X-Repeated: %s",
  async (syscall, repeated) => {
    const sent: boolean[] = [];
    const client = new HttpStore({
      url: "http://localhost",
      apiKey: createApiKey({ tenant: "acme" }).apiKey,
      retries: 1,
      async fetch({ headers }) {
        sent.push(headers.has("x-repeated"));
        throw Object.assign(new TypeError("fetch failed"), { cause: { code: "EHOSTUNREACH", syscall } });
      },
    });
    await expect(client.set("key", "value")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(sent).toEqual([false, repeated]);
  },
);

it("the server logs an error, and the call of HttpStore rejects, if a listing of keys fails midway", async () => {
  class Breaking extends MemoryStore {
    override namespaced(namespace: string): MemoryStore {
      const view = super.namespaced(namespace);
      const records = view.iterator();
      Reflect.set(view, "iterator", async function* () {
        yield* records;
        throw new Error("broken");
      });
      return view;
    }
  }
  const server = await startServer({ store: new Breaking() });
  onTestFinished(() => server.close());
  const store = server.client({ retries: 1 });
  await store.setMany(Array.from({ length: 3_000 }, (_, index) => ({ key: `key-${index}`, value: "value" })));
  await expect(store.iterator().next()).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
  expect(server.log.filter(({ error }) => error !== undefined)).toHaveLength(2);
});

it("the server sends values in several answers if the values together exceed maxAnswerBytes", async () => {
  const server = await startServer({ limits: { maxAnswerBytes: 1_000 } });
  onTestFinished(() => server.close());
  const store = server.client();
  const keys = Array.from({ length: 200 }, (_, index) => `key-${index}`);
  await store.setMany(keys.map((key) => ({ key, value: key.repeat(100) })));
  expect(await store.getMany(keys)).toEqual(keys.map((key) => key.repeat(100)));
  expect(server.log.filter(({ target }) => target === "get").length).toBeGreaterThan(1);
});

it("the size of an answer does not grow with the number of large values that a client requests", async () => {
  const maxValueBytes = 2 ** 20;
  const limits = { maxAnswerBytes: 2 * maxValueBytes, maxValueBytes };
  const server = await startServer({ limits });
  onTestFinished(() => server.close());
  const store = server.client();
  const keys = Array.from({ length: 20 }, (_, index) => `key-${index}`);
  for (const key of keys) await store.set(key, Buffer.alloc(maxValueBytes, key));
  const ask = async (operation: string, body: unknown) => {
    const authorization = `Bearer ${server.apiKey}`;
    const request = { method: "POST", headers: { authorization }, body: JSON.stringify(body) };
    const text = await (await fetch(`${server.url}/${operation}`, request)).text();
    // Base64 of the bytes that an answer may have, and of one value that exceeds them.
    expect(text.length).toBeLessThan(((limits.maxAnswerBytes + maxValueBytes) * 4) / 3 + 10_000);
  };
  await ask("get", { keys });
  await ask("scan", {});
  expect((await store.getMany(keys)).filter((value) => value?.length === maxValueBytes)).toHaveLength(20);
  let found = 0;
  for (let cursor: string | undefined, more = true; more; more = cursor !== undefined) {
    const page = await store.scan(cursor === undefined ? {} : { cursor });
    found += page.entries.length;
    cursor = page.cursor;
  }
  expect(found).toBe(20);
});

function refusal(make: () => unknown): unknown {
  try {
    make();
  } catch (error) {
    return error;
  }
  return undefined;
}

/** Returns a generator of pseudorandom numbers between 0 and 1. The same seed gives the same numbers. */
function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
