import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { Socket } from "node:net";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { createApiKey, createKvHandler, HttpStore, type KvHandlerOptions } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import fc from "fast-check";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { serveWithHeap } from "../../../test/servers/keyward-kv.ts";
import { turnBytes } from "../src/exchange.ts";
import { JsonReader, JsonRefusal } from "../src/json-reader.ts";
import { field } from "../src/protocol.ts";
import { changeTenants } from "../src/tenants-file.ts";
import { openSocket, startServer, temporaryFolder } from "./servers.ts";

const mebibyte = 2 ** 20;

describe("a hostile client with an API key", () => {
  const count = 16 * mebibyte - 1_024;
  const shapes = {
    "lists in lists": `{"keys":${"[".repeat(count / 2)}${"]".repeat(count / 2)}}`,
    "many objects": `{"entries":[${"{},".repeat(count / 3)}{}]}`,
    "many numbers": `{"keys":[${"0,".repeat(count / 2)}0]}`,
    "many fields": `{${'"":0,'.repeat(count / 5)}"":0}`,
    "white space": `{"keys":[${" ".repeat(count)}]}`,
    "long field names": `{"${"x".repeat(count)}":0}`,
  };

  it("cannot crash a server with a small heap", async () => {
    const folder = temporaryFolder();
    const tenants = join(folder.path, "tenants.json");
    const listOnly = createApiKey({ tenant: "hostile", scopes: ["list"] });
    const all = createApiKey({ tenant: "hostile" });
    const other = createApiKey({ tenant: "other" });
    await changeTenants(tenants, () => [listOnly.entry, all.entry, other.entry]);
    const server = await serveWithHeap(256, "--tenants", tenants, "--store", "memory:", "--drain-ms", "1");
    onTestFinished(async () => {
      await server.stop();
      folder.remove();
    });
    const neighbour = new HttpStore({ url: server.url, apiKey: other.apiKey, retries: 0 });
    for (const [shape, body] of Object.entries(shapes)) {
      const sent = ["list", "get", "set", "replace"].map(async (operation) => {
        const { socket, received } = await openSocket(server.url);
        const { apiKey } = operation === "list" ? listOnly : all;
        const head = `POST /${operation} HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}`;
        socket.write(`${head}\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n`);
        socket.write(body);
        await vi.waitFor(() => expect(received(), shape).toMatch(/^HTTP\/1\.1 (?:400|413|503) /), 20_000);
        socket.destroy();
      });
      await Promise.all(sent);
      expect(server.process.exitCode, shape).toBeNull();
      expect(await neighbour.set("key", shape)).toBe(true);
      expect(await neighbour.get("key")).toBe(shape);
    }
  });

  it("cannot fill the memory of a server by sending bodies in chunks of one byte", async () => {
    const folder = temporaryFolder();
    const tenants = join(folder.path, "tenants.json");
    const { apiKey, entry } = createApiKey({ tenant: "hostile" });
    await changeTenants(tenants, () => [entry]);
    const server = await serveWithHeap(160, "--tenants", tenants, "--store", "memory:", "--drain-ms", "1");
    onTestFinished(async () => {
      await server.stop();
      folder.remove();
    });
    const value = "x".repeat(600_000);
    const requests = [
      ["PUT /text", "text/plain", value],
      ["PUT /bytes", "application/octet-stream", value],
      ["POST /get", "application/json", JSON.stringify({ keys: ["key"] }).padEnd(value.length)],
    ] as const;
    for (const [target, type, body] of requests) {
      const { socket, received } = await openSocket(server.url);
      const head = `${target} HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\ncontent-type: ${type}`;
      socket.write(`${head}\r\ntransfer-encoding: chunked\r\n\r\n`);
      socket.write(`${[...body].map((character) => `1\r\n${character}\r\n`).join("")}0\r\n\r\n`);
      // On a busy machine the time for a body may end first.
      await vi.waitFor(() => expect(received(), target).toMatch(/^HTTP\/1\.1 (?:200|408) /), 50_000);
      socket.destroy();
    }
    expect(server.process.exitCode).toBeNull();
  }, 160_000);

  it("gets one answer, and is disconnected soon, if it continues to send a body that the server refused", async () => {
    const server = await startServer({ requestTimeoutMs: 300 });
    onTestFinished(() => server.close());
    const piece = Buffer.alloc(2 ** 16, "x");
    for (const [head, status] of [
      ["PUT /key HTTP/1.1\r\ncontent-length: 1000000000000\r\n", 401],
      [`PUT /key HTTP/1.1\r\nauthorization: Bearer ${server.apiKey}\r\ncontent-length: 1000000000000\r\n`, 413],
      [`POST /none HTTP/1.1\r\nauthorization: Bearer ${server.apiKey}\r\ncontent-length: 1000000000000\r\n`, 404],
    ] as const) {
      const { socket, received } = await openSocket(server.url);
      let sent = 0;
      const closed = new Promise((resolve) => socket.once("close", resolve));
      const flood = () => {
        while (!socket.destroyed) {
          sent += piece.length;
          if (!socket.write(piece)) return;
        }
      };
      socket.on("drain", flood);
      socket.write(`${head}host: kv\r\n\r\n`);
      flood();
      await closed;
      expect(received().match(/HTTP\/1\.1 \d+/g)).toEqual([`HTTP/1.1 ${status}`]);
      // The server reads 16 MiB, and the buffers of the system have some more.
      expect(sent).toBeLessThan(64 * mebibyte);
    }
  });

  it("gets one answer, and is disconnected, if it stops sending a body that the server refused", async () => {
    const server = await startServer({ requestTimeoutMs: 300 });
    onTestFinished(() => server.close());
    const { socket, received } = await openSocket(server.url);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    socket.write("PUT /key HTTP/1.1\r\nhost: kv\r\ncontent-length: 100\r\n\r\nx");
    await closed;
    expect(received().match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 401"]);
  });

  it("cannot make the server do a request that follows a refused body on the same connection", async () => {
    const server = await startServer();
    onTestFinished(() => server.close());
    const { socket, received } = await openSocket(server.url);
    const closed = new Promise((resolve) => socket.once("close", resolve));
    const head = (request: string, length: number) =>
      `${request} HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${server.apiKey}\r\ncontent-length: ${length}\r\n\r\n`;
    const length = 300_000;
    socket.write(`${head("POST /list", length)}${" ".repeat(length)}${head("PUT /behind", 1)}x`);
    await closed;
    expect(received().match(/HTTP\/1\.1 \d+/g)).toEqual(["HTTP/1.1 413"]);
    expect(await server.client().has("behind")).toBe(false);
  });

  it("cannot exceed the memory limit with answers that it does not read", async () => {
    const bytes = 2 ** 16;
    const size = { maxBodyBytes: bytes, maxValueBytes: bytes, maxAnswerBytes: bytes, maxBytesInMemory: 4 * bytes };
    const server = await startServer({ limits: { ...size, requestsPerSecond: Number.POSITIVE_INFINITY } });
    onTestFinished(() => server.close());
    expect(await server.client().set("key", "x".repeat(bytes / 4))).toBe(true);
    const count = 60;
    for (const request of ["GET /key", "GET /"]) {
      const { socket, received } = await openSocket(server.url);
      const line = `${request} HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${server.apiKey}\r\n`;
      socket.write(`${`${line}\r\n`.repeat(count - 1)}${line}connection: close\r\n\r\n`);
      await once(socket, "close");
      const statuses = received().match(/HTTP\/1\.1 \d+/g) ?? [];
      expect(statuses.filter((status) => status === "HTTP/1.1 503").length, request).toBeGreaterThan(count / 2);
      expect(statuses[0]).toBe("HTTP/1.1 200");
      expect(statuses).toHaveLength(count);
    }
    expect(await server.client().get("key")).toHaveLength(bytes / 4);
  });

  it("leaves no listing of keys running on the server if it disconnects before the answer", async () => {
    let resume = () => {};
    const paused = new Promise<void>((resolve) => {
      resume = resolve;
    });
    let asked = () => {};
    const isAsked = new Promise<void>((resolve) => {
      asked = resolve;
    });
    let ended = false;
    async function* keys(): AsyncGenerator<[string, string], void> {
      try {
        yield ["first", ""];
        asked();
        await paused;
        for (;;) yield ["x".repeat(2 ** 16), ""];
      } finally {
        ended = true;
      }
    }
    class Slow extends MemoryStore {
      override iterator() {
        return keys();
      }
      override namespaced() {
        return new Slow(this);
      }
    }
    const server = await startServer({ store: new Slow() });
    onTestFinished(() => server.close());
    const accepted = new Promise<Socket>((resolve) => {
      const found = (message: unknown) => {
        const socket = field(message, "socket");
        if (socket instanceof Socket && server.url.endsWith(`:${socket.localPort}`)) resolve(socket);
      };
      subscribe("net.server.socket", found);
      onTestFinished(() => {
        unsubscribe("net.server.socket", found);
      });
    });
    const { socket } = await openSocket(server.url);
    socket.write(`GET / HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${server.apiKey}\r\n\r\n`);
    const other = await accepted;
    await isAsked;
    const gone = once(other, "close");
    socket.destroy();
    await gone;
    resume();
    await expect.poll(() => ended).toBe(true);
  });
});

/** Returns a function that sends a request of the tenant "acme" to a new handler. */
function ready(options: Partial<KvHandlerOptions> = {}) {
  const { apiKey, entry } = createApiKey({ tenant: "acme" });
  const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], ...options });
  return async (method: string, path: string, body?: string | Uint8Array<ArrayBuffer>, headers = {}) =>
    await handler(
      new Request(`http://kv.test${path}`, {
        method,
        ...(body === undefined ? {} : { body }),
        headers: { authorization: `Bearer ${apiKey}`, ...headers },
      }),
    );
}

describe("a large request", () => {
  const bytes = 8 * mebibyte;
  const entry = (value: string) => `{"entries":[{"key":"set",${value}}]}`;
  type Ask = ReturnType<typeof ready>;

  it.each([
    ["sets text", (ask: Ask) => ask("POST", "/set", entry(`"text":"${"x".repeat(bytes)}"`)), 200],
    [
      "sets text with escapes",
      (ask: Ask) => ask("POST", "/set", entry(`"text":"${"\\u00e9\\n".repeat(bytes / 8)}"`)),
      200,
    ],
    [
      "sets bytes",
      (ask: Ask) => ask("POST", "/set", entry(`"bytes":"${Buffer.alloc(bytes, 7).toString("base64")}"`)),
      200,
    ],
    ["puts text", (ask: Ask) => ask("PUT", "/put", "ä".repeat(bytes / 2)), 200],
    ["gets a key", (ask: Ask) => ask("GET", "/text"), 200],
    ["gets a batch", (ask: Ask) => ask("POST", "/get", '{"keys":["text"]}'), 200],
    ["scans", (ask: Ask) => ask("POST", "/scan", "{}"), 200],
    ["compares an entity tag", (ask: Ask) => ask("PUT", "/text", "x", { "if-match": '"other"' }), 412],
    [
      "replaces a value",
      (ask: Ask) => ask("POST", "/replace", '{"changes":[{"key":"text","expected":"\\"x\\"","text":"x"}]}'),
      200,
    ],
  ])("lets other requests run between the pieces of its data when it %s", async (_, act, status) => {
    const ask = ready({ limits: { maxValueBytes: bytes } });
    expect((await ask("PUT", "/text", "x".repeat(bytes))).status).toBe(200);
    let turns = 0;
    let running = true;
    const counting = (async () => {
      while (running) {
        await setImmediate();
        turns++;
      }
    })();
    const answer = await act(ask);
    await answer.arrayBuffer();
    running = false;
    await counting;
    expect(answer.status).toBe(status);
    expect(turns).toBeGreaterThanOrEqual(bytes / turnBytes / 2);
  });

  it("is passed to the store in small batches if it has many records, so that other requests run between the batches", async () => {
    const batches: number[] = [];
    class Counting extends MemoryStore {
      override async setMany(entries: Parameters<MemoryStore["setMany"]>[0]): Promise<boolean[]> {
        batches.push(entries.reduce((sum, { value }) => sum + String(value).length, 0));
        return await super.setMany(entries);
      }
      override namespaced(namespace: string): Counting {
        const view = new Counting(this);
        view.namespace = namespace;
        return view;
      }
    }
    const entries = Array.from({ length: 1_000 }, (_, index) => ({ key: `${index}`, text: "x".repeat(10_000) }));
    const answer = await ready({ store: new Counting() })("POST", "/set", JSON.stringify({ entries }));
    expect(await answer.json()).toEqual({ stored: entries.map(() => true) });
    expect(Math.max(...batches)).toBeLessThanOrEqual(turnBytes + 10_100);
  });
});

describe("the memory of a request", () => {
  const limits = {
    maxBodyBytes: 2 * mebibyte,
    maxAnswerBytes: 2 * mebibyte,
    maxValueBytes: mebibyte,
    maxBytesInMemory: 8 * mebibyte,
  };

  it("is counted as two bytes for each character of a text if any character is beyond ASCII", async () => {
    const ask = ready({ limits });
    await ask("PUT", "/key", "x".repeat(mebibyte));
    // The tenant may have 4 MiB. These answers have 2.5 MiB of them.
    await ask("PUT", "/half", "x".repeat(mebibyte / 2));
    const unread = [await ask("GET", "/key"), await ask("GET", "/key"), await ask("GET", "/half")];
    const narrow = "x".repeat(0.9 * mebibyte);
    expect((await ask("PUT", "/new", narrow)).status).toBe(200);
    expect((await ask("PUT", "/new", `${narrow}中`)).status).toBe(503);
    const entries = (text: string) => JSON.stringify({ entries: [{ key: "new", text }] });
    expect((await ask("POST", "/set", entries(narrow))).status).toBe(200);
    expect((await ask("POST", "/set", entries(`${narrow}中`))).status).toBe(503);
    for (const answer of unread) await answer.body?.cancel();
    expect((await ask("POST", "/set", entries(`${narrow}中`))).status).toBe(200);
  });

  it("limits how many values the server reads at once, because the server assumes the largest size for each value", async () => {
    const reads: number[] = [];
    class Counting extends MemoryStore {
      override getMany(keys: readonly string[]): ReturnType<MemoryStore["getMany"]> {
        reads.push(keys.length);
        return super.getMany(keys);
      }
      override namespaced(namespace: string): Counting {
        const view = new Counting(this);
        view.namespace = namespace;
        return view;
      }
    }
    const ask = ready({ limits, store: new Counting() });
    const keys = Array.from({ length: 100 }, (_, index) => `${index}`);
    const entries = keys.map((key) => ({ key, text: "small" }));
    expect((await ask("POST", "/set", JSON.stringify({ entries }))).status).toBe(200);
    const answer: unknown = await (await ask("POST", "/get", JSON.stringify({ keys }))).json();
    expect(answer).toEqual({ values: keys.map(() => ({ text: "small" })) });
    const changes = keys.map((key) => ({ key, expected: '"other"', text: "x" }));
    expect(await (await ask("POST", "/replace", JSON.stringify({ changes }))).json()).toEqual({
      replaced: keys.map(() => false),
    });
    expect(Math.max(...reads)).toBeLessThanOrEqual(4);
  });

  it("limits how many large values one request replaces, so that HttpStore sends the other replacements again", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], limits });
    const answered: number[] = [];
    const store = new HttpStore({
      url: "http://localhost",
      apiKey,
      async fetch(request) {
        const answer = await handler(request);
        if (!request.url.endsWith("/replace")) return answer;
        const body: { replaced: boolean[] } = JSON.parse(await answer.text());
        answered.push(body.replaced.length);
        return Response.json(body, { headers: answer.headers });
      },
    });
    const keys = Array.from({ length: 6 }, (_, index) => `${index}`);
    for (const key of keys) await store.set(key, Buffer.alloc(mebibyte, key));
    const changes = keys.map((key, index) => ({
      key,
      expected: Buffer.alloc(mebibyte, index % 2 === 0 ? key : "other"),
      next: `new ${key}`,
    }));
    expect(await store.replaceMany(changes)).toEqual([true, false, true, false, true, false]);
    expect(answered).toEqual([2, 2, 2]);
    expect(await store.get("4")).toBe("new 4");
  });
});

describe("JsonReader", () => {
  const bounds = { maxBytes: 10 * mebibyte, maxDepth: 4, maxParts: 10_000, weigh: () => undefined };

  /** Reads a document in pieces that end at these positions. */
  function readCut(bytes: Uint8Array, positions: readonly number[]): unknown {
    const reader = new JsonReader(bounds);
    let start = 0;
    for (const position of [...positions].sort((one, other) => one - other)) {
      const end = Math.max(start, Math.min(position, bytes.length));
      reader.write(bytes.subarray(start, end));
      start = end;
    }
    reader.write(bytes.subarray(start));
    return reader.end();
  }

  const text = fc.oneof(
    fc.string({ unit: "binary", maxLength: 20 }),
    fc.string({ unit: "binary", minLength: 250, maxLength: 900 }),
    fc.string({ minLength: 250, maxLength: 900 }),
    fc.string({ unit: fc.constantFrom('"', "\\", "x", "x".repeat(40)), maxLength: 20 }),
  );
  const leaf = fc.oneof(text, fc.integer(), fc.boolean(), fc.constant(null));
  const document = fc.dictionary(text, fc.oneof(leaf, fc.array(fc.oneof(leaf, fc.dictionary(text, leaf)))));
  const places = fc.array(fc.nat({ max: 4_000 }), { maxLength: 12 });

  it("returns the same value as JSON.parse, no matter where the document is divided into pieces", () => {
    fc.assert(
      fc.property(document, places, fc.boolean(), (value, cuts, escaped) => {
        const json = JSON.stringify(value);
        const sent = escaped
          ? json.replace(/[^\x20-\x7e]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
          : json;
        expect(readCut(Buffer.from(sent), cuts)).toEqual(JSON.parse(json));
      }),
      { numRuns: 200 },
    );
  });

  it("refuses a document that JSON.parse refuses", () => {
    const damage = fc.record({ at: fc.nat(), byte: fc.nat({ max: 255 }) });
    fc.assert(
      fc.property(document, places, damage, (value, cuts, { at, byte }) => {
        const bytes = Buffer.from(JSON.stringify(value));
        bytes[at % bytes.length] = byte;
        let expected: unknown;
        try {
          expected = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
        } catch {
          expect(() => readCut(bytes, cuts)).toThrow(JsonRefusal);
          expect(() => JsonReader.readWhole(bytes, bounds)).toThrow(JsonRefusal);
          return;
        }
        expect(readCut(bytes, cuts)).toEqual(expected);
        expect(JsonReader.readWhole(bytes, bounds)).toEqual(expected);
      }),
      { numRuns: 200 },
    );
  });

  it.each([
    ["too deep", "[[[[[]]]]]"],
    ["too large", `[${"1,".repeat(10_001)}1]`],
    ["too large", `"${"x".repeat(10 * mebibyte)}"`],
  ])("refuses a document without parsing it if the document is %s", (reason, json) => {
    const parse = vi.spyOn(JSON, "parse");
    onTestFinished(() => parse.mockRestore());
    expect(() => readCut(Buffer.from(json), [2])).toThrow(reason);
    expect(() => JsonReader.readWhole(Buffer.from(json), bounds)).toThrow(reason);
    expect(parse).not.toHaveBeenCalled();
  });
});
