import { createHash } from "node:crypto";
import { KeywardError, type Replacement } from "@keyward/core";
import {
  createApiKey,
  createKvHandler,
  HttpStore,
  type KvHandlerOptions,
  type KvLimits,
  type KvLogEntry,
} from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import fc from "fast-check";
import { KeyvMemoryAdapter, type KeyvStorageCapability } from "keyv";
import { describe, expect, it } from "vitest";
import { entityTag, keyPath } from "../src/protocol.ts";

/** Returns a function that sends a request of the tenant "acme" to a new handler. */
function ready(options: Partial<KvHandlerOptions> = {}) {
  const { apiKey, entry } = createApiKey({ tenant: "acme" });
  const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], ...options });
  return async (
    method: string,
    path: string,
    init: { body?: string | Uint8Array<ArrayBuffer>; headers?: Record<string, string> } = {},
  ) =>
    await handler(
      new Request(`http://kv.test${path}`, {
        method,
        ...(init.body === undefined ? {} : { body: init.body }),
        headers: { authorization: `Bearer ${apiKey}`, ...init.headers },
      }),
    );
}

const bytesType = { "content-type": "application/octet-stream" };

describe("the key of a record in a URL", () => {
  const odd = [
    "/",
    "//",
    "a/b",
    "a//b",
    "a:b",
    "a:",
    "a/",
    "%",
    "%2F",
    "a%2Fb",
    "%2e%2e",
    " ",
    ".",
    "..",
    "",
    "a/../b",
  ];
  const more = [
    "\\",
    "a\\b",
    "?",
    "#",
    "a?b",
    "+",
    "\0",
    "\n",
    "é",
    "e\u0301",
    "😀",
    "é".repeat(512),
    "get",
    "key=a",
    ":",
  ];

  it("reaches the server unchanged, no matter which characters the key contains", async () => {
    const ask = ready();
    const keys = [...odd, ...more];
    for (const key of keys) expect((await ask("PUT", keyPath(key), { body: key })).status).toBe(200);
    for (const key of keys) expect(await (await ask("GET", keyPath(key))).text()).toBe(key);
    const listed: string[] = JSON.parse(await (await ask("GET", "/")).text());
    expect(new Set(listed)).toEqual(new Set(keys));
    for (const [index, key] of keys.entries()) {
      expect((await ask("DELETE", keyPath(key))).status).toBe(200);
      expect(await (await ask("GET", "/")).json()).toHaveLength(keys.length - index - 1);
    }
  });

  it("has another URL than every other key, even after a URL parser has normalized the URLs", () => {
    const text = fc.string({ unit: "binary", maxLength: 30 }).filter((key) => key.isWellFormed());
    fc.assert(
      fc.property(text, text, (one, other) => {
        const at = (key: string) => new URL(`http://kv.test/base${keyPath(key)}`).href;
        expect(at(one) === at(other)).toBe(one === other);
        expect(at(one).startsWith("http://kv.test/base/")).toBe(true);
      }),
    );
  });

  it("can be combined with a namespace in the query", async () => {
    const ask = ready();
    await ask("PUT", keyPath("key", "a b&c"), { body: "there" });
    await ask("PUT", keyPath("", "a b&c"), { body: "empty" });
    expect((await ask("GET", keyPath("key"))).status).toBe(404);
    expect(await (await ask("GET", keyPath("key", "a b&c"))).text()).toBe("there");
    expect(await (await ask("GET", "/?namespace=a%20b%26c")).json()).toEqual(["key", ""]);
  });

  it.each(["/%ff", "/%", "/a?other=1", "/a?key=b", "/?key=a&key=b", "/?key"])(
    "is refused in the form %s",
    async (path) => {
      expect((await ready()("GET", path)).status).toBe(400);
    },
  );

  it("does not make a DELETE remove all records if the path with the key is truncated", async () => {
    const ask = ready();
    await ask("PUT", "/a", { body: "1" });
    expect((await ask("DELETE", "/")).status).toBe(400);
    expect((await ask("DELETE", "/..")).status).toBe(400);
    expect((await ask("DELETE", "/a/")).status).toBe(400);
    expect((await ask("PUT", "/", { body: "1" })).status).toBe(400);
    expect((await ask("GET", "/a")).status).toBe(200);
    expect((await ask("DELETE", "/:")).status).toBe(200);
    expect((await ask("GET", "/a")).status).toBe(404);
  });
});

describe("a value", () => {
  it("keeps its type and every byte", async () => {
    const ask = ready();
    const bytes = Uint8Array.from({ length: 256 }, (_, index) => index);
    await ask("PUT", "/bytes", { body: bytes, headers: bytesType });
    await ask("PUT", "/text", { body: "\ufefftäxt" });
    const [gotBytes, gotText] = [await ask("GET", "/bytes"), await ask("GET", "/text")];
    expect(gotBytes.headers.get("content-type")).toBe("application/octet-stream");
    expect(Buffer.from(await gotBytes.arrayBuffer()).equals(bytes)).toBe(true);
    expect(gotText.headers.get("content-type")).toBe("text/plain;charset=UTF-8");
    expect(Buffer.from(await gotText.arrayBuffer()).toString()).toBe("\ufefftäxt");
  });

  it("is refused if its type is text and its bytes are not UTF-8", async () => {
    const ask = ready();
    expect((await ask("PUT", "/key", { body: Uint8Array.of(0xff) })).status).toBe(400);
    expect((await ask("GET", "/key")).status).toBe(404);
  });

  it.each(["text", "bytes"] as const)(
    "has an entity tag with the SHA-256 of its type and content if the type is %s",
    async (type) => {
      const ask = ready();
      const put = await ask("PUT", "/key", { body: Buffer.from("same"), headers: type === "bytes" ? bytesType : {} });
      const tag = `"${createHash("sha256").update(`${type}\0same`).digest("base64url")}"`;
      const got = await ask("GET", "/key");
      const head = await ask("HEAD", "/key");
      expect([put, got, head].map(({ headers }) => headers.get("etag"))).toEqual([tag, tag, tag]);
      expect(await head.text()).toBe("");
      expect(head.headers.get("content-length")).toBe("4");
      expect((await ask("GET", "/key", { headers: { "if-none-match": tag } })).status).toBe(304);
      expect((await ask("GET", "/key", { headers: { "if-none-match": '"other"' } })).status).toBe(200);
    },
  );

  it("expires after the seconds in X-TTL, or at the time in X-Expires", async () => {
    const ask = ready();
    await ask("PUT", "/a", { body: "1", headers: { "x-ttl": "100" } });
    await ask("PUT", "/b", { body: "1", headers: { "x-expires": String(Date.now() + 100_000) } });
    await ask("PUT", "/c", { body: "1", headers: { "x-expires": String(Date.now() - 1) } });
    expect(await (await ask("GET", "/")).json()).toEqual(["a", "b"]);
    for (const headers of [
      { "x-ttl": "soon" },
      { "x-ttl": "0" },
      { "x-expires": "1.5" },
      { "x-ttl": "1", "x-expires": "1" },
    ]) {
      expect((await ask("PUT", "/a", { body: "2", headers: { ...headers } })).status).toBe(400);
    }
    expect(await (await ask("GET", "/a")).text()).toBe("1");
    // A small number is a time in the past, and not a duration.
    await ask("PUT", "/a", { body: "1", headers: { "x-expires": "60000" } });
    expect((await ask("GET", "/a")).status).toBe(404);
    const entries = [{ key: "a", text: "1", expires: 60_000 }];
    expect((await ask("POST", "/set", { body: JSON.stringify({ entries }) })).status).toBe(200);
    expect((await ask("GET", "/a")).status).toBe(404);
    await ask("PUT", "/a", { body: "1" });
    const before = Date.now();
    await ask("PUT", "/d", { body: "1", headers: { "x-ttl": "0.5" } });
    await expect.poll(async () => (await ask("GET", "/d")).status, { timeout: 5_000 }).toBe(404);
    expect(Date.now() - before).toBeGreaterThanOrEqual(500);
    expect((await ask("GET", "/a")).status).toBe(200);
  });
});

describe("a conditional write", () => {
  it("is done only if its condition is met, and is otherwise answered with 412", async () => {
    const ask = ready();
    const put = async (body: string, headers: Record<string, string>) =>
      (await ask("PUT", "/key", { body, headers })).status;
    expect(await put("1", { "if-match": "*" })).toBe(412);
    expect(await put("1", { "if-match": '"none"' })).toBe(412);
    expect(await put("1", { "if-none-match": "*" })).toBe(200);
    expect(await put("2", { "if-none-match": "*" })).toBe(412);
    const tag = (await ask("HEAD", "/key")).headers.get("etag") ?? "";
    expect(await put("2", { "if-match": '"other"' })).toBe(412);
    expect(await put("2", { "if-match": `W/${tag}` })).toBe(412);
    expect(await put("2", { "if-none-match": tag })).toBe(412);
    expect(await put("2", { "if-none-match": `W/${tag}` })).toBe(412);
    expect(await put("2", { "if-match": `"other", ${tag}` })).toBe(200);
    expect(await put("3", { "if-match": tag })).toBe(412);
    expect(await put("3", { "if-match": "*" })).toBe(200);
    expect(await put("4", { "if-none-match": tag })).toBe(200);
    expect(await (await ask("GET", "/key")).text()).toBe("4");
  });

  it("succeeds for exactly one of many clients that read the same value", async () => {
    const ask = ready();
    await ask("PUT", "/key", { body: "0" });
    const tag = (await ask("HEAD", "/key")).headers.get("etag") ?? "";
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        ask("PUT", "/key", { body: `racer ${index}`, headers: { "if-match": tag } }),
      ),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([200, ...Array.from({ length: 19 }, () => 412)]);
  });

  it("cannot set an expiry", async () => {
    const ask = ready();
    expect((await ask("PUT", "/key", { body: "1", headers: { "if-none-match": "*", "x-ttl": "1" } })).status).toBe(400);
  });

  it("is refused if the store cannot compare and replace a value in one step", async () => {
    const ask = ready({ store: new KeyvMemoryAdapter(new Map()) });
    expect((await ask("PUT", "/key", { body: "1", headers: { "if-none-match": "*" } })).status).toBe(501);
    expect((await ask("PUT", "/key", { body: "1" })).status).toBe(200);
    const replace = { changes: [{ key: "key", expected: null, text: "2" }] };
    expect((await ask("POST", "/replace", { body: JSON.stringify(replace) })).status).toBe(501);
    expect((await ask("POST", "/scan", { body: "{}" })).status).toBe(501);
    expect((await ready()("DELETE", "/key", { headers: { "if-match": "*" } })).status).toBe(501);
  });
});

describe("a write that the store did before the store reported a failure", () => {
  class Faltering extends MemoryStore {
    static failures = 0;
    override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
      const replaced = await super.replaceMany(changes);
      if (Faltering.failures-- > 0) throw new KeywardError("STORE_UNAVAILABLE", "cut", { hint: "Try again." });
      return replaced;
    }
    override namespaced(namespace: string): Faltering {
      const view = new Faltering(this);
      view.namespace = namespace;
      return view;
    }
  }

  it.each([1, 2])("is not reported as refused when the client repeats the write %i times", async (failures) => {
    const ask = ready({ store: new Faltering() });
    const server = (await ask("PUT", "/key", { body: "old" })).headers.get("x-server") ?? "";
    const headers = (name: string) => ({ "idempotency-key": `${name}-0123456789abcdef`, "x-server": server });
    const again = (name: string) => ({ ...headers(name), "x-repeated": "1" });

    const replace = { changes: [{ key: "key", expected: entityTag("old"), text: "new" }] };
    const body = JSON.stringify(replace);
    Faltering.failures = 1;
    expect((await ask("POST", "/replace", { body, headers: headers("a") })).status).toBe(503);
    for (let attempt = 0; attempt < failures; attempt++) {
      Faltering.failures = failures - 1 - attempt;
      const answer = await ask("POST", "/replace", { body, headers: again("a") });
      if (attempt === failures - 1) expect(await answer.json()).toEqual({ replaced: [null] });
    }

    const condition = { "if-match": entityTag("new") };
    Faltering.failures = 1;
    expect((await ask("PUT", "/key", { body: "newer", headers: { ...headers("b"), ...condition } })).status).toBe(503);
    for (let attempt = 0; attempt < failures; attempt++) {
      expect((await ask("PUT", "/key", { body: "newer", headers: { ...again("b"), ...condition } })).status).toBe(503);
    }
    expect(await (await ask("GET", "/key")).text()).toBe("newer");

    // A write that was refused before anything was done is refused again.
    const other = { ...again("c"), "if-match": '"other"' };
    expect((await ask("PUT", "/key", { body: "x", headers: other })).status).toBe(412);
    expect((await ask("PUT", "/key", { body: "x", headers: other })).status).toBe(412);
  });
});

describe("a replacement over the protocol", () => {
  /** Calls `next` between the read and the write of a replacement. */
  class Interrupted extends MemoryStore {
    static next: ((store: MemoryStore) => Promise<unknown>) | undefined;
    override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
      const { next } = Interrupted;
      Interrupted.next = undefined;
      await next?.(this);
      return await super.replaceMany(changes);
    }
    override namespaced(namespace: string): Interrupted {
      const view = new Interrupted(this);
      view.namespace = namespace;
      return view;
    }
  }
  const replace = async (ask: ReturnType<typeof ready>, changes: readonly object[]) =>
    await (await ask("POST", "/replace", { body: JSON.stringify({ changes }) })).json();

  it("compares with the value that an earlier replacement of the same batch wrote", async () => {
    const ask = ready();
    const [one, two] = ["1".repeat(300_000), "2".repeat(300_000)];
    for (let round = 0; round < 5; round++) {
      await ask("PUT", "/key", { body: "first" });
      const changes = [
        { key: "key", expected: entityTag("first"), text: one },
        { key: "key", expected: entityTag(one), text: two },
        { key: "key", expected: entityTag(two), text: "last" },
      ];
      expect(await replace(ask, changes)).toEqual({ replaced: [true, true, true] });
    }
  });

  it("is done even if another client has just written the expected value again, with another expiry", async () => {
    const ask = ready({ store: new Interrupted() });
    await ask("PUT", "/key", { body: "old" });
    await ask("PUT", "/other", { body: "old" });
    Interrupted.next = async () => await ask("PUT", "/key", { body: "old", headers: { "x-ttl": "60" } });
    const changes = [
      { key: "key", expected: entityTag("old"), text: "new" },
      { key: "other", expected: entityTag("old"), text: "new" },
      { key: "key", expected: entityTag("new"), text: "newer" },
      { key: "key", expected: entityTag("new"), text: "late" },
    ];
    expect(await replace(ask, changes)).toEqual({ replaced: [true, true, true, false] });
    expect((await ask("GET", "/key")).headers.get("x-ttl")).toBe("60");

    Interrupted.next = async () => await ask("PUT", "/key", { body: "theirs" });
    const refused = [
      { key: "key", expected: entityTag("newer"), text: "mine" },
      { key: "key", expected: entityTag("theirs"), text: "mine as well" },
    ];
    expect(await replace(ask, refused)).toEqual({ replaced: [false, true] });
  });
});

describe("the expiry of a replacement over the protocol", () => {
  const replace = async (ask: ReturnType<typeof ready>, changes: readonly object[]) =>
    await (await ask("POST", "/replace", { body: JSON.stringify({ changes }) })).json();
  const hourMs = 3_600_000;
  /** Returns in how many hours the record expires, rounded. */
  const hoursLeft = async (ask: ReturnType<typeof ready>) => {
    const seconds = (await ask("HEAD", "/key")).headers.get("x-ttl");
    return seconds === null ? undefined : Math.round((Number(seconds) * 1_000) / hourMs);
  };

  /** A store that has no `replaceMany`. */
  class Single extends MemoryStore {
    override namespaced(namespace: string): Single {
      const view = new Single(this);
      view.namespace = namespace;
      Reflect.defineProperty(view, "replaceMany", { value: undefined });
      view.replace = async (key, expected, next, expires) => {
        const [replaced = false] = await super.namespaced(namespace).replaceMany([{ key, expected, next, expires }]);
        return replaced;
      };
      return view;
    }
  }

  it.each([
    ["replaceMany", () => new MemoryStore()],
    ["replace, but not replaceMany", () => new Single()],
  ])("can be set, kept and removed if the server's store has the method %s", async (_, open) => {
    const ask = ready({ store: open() });
    const expires = Date.now() + 1_000 * hourMs;
    const change = (from: string | null, to: string, more: object) => ({
      key: "key",
      expected: from === null ? null : entityTag(from),
      text: to,
      ...more,
    });
    expect(await replace(ask, [change(null, "1", { expires: expires + 0.5 })])).toEqual({ replaced: [true] });
    expect(await hoursLeft(ask)).toBe(1_000);
    expect(await replace(ask, [change("1", "2", {})])).toEqual({ replaced: [true] });
    expect(await hoursLeft(ask)).toBe(1_000);
    expect(await replace(ask, [change("2", "3", { expires: null })])).toEqual({ replaced: [true] });
    expect(await hoursLeft(ask)).toBeUndefined();
    expect(await replace(ask, [change("3", "4", {})])).toEqual({ replaced: [true] });
    expect(await hoursLeft(ask)).toBeUndefined();
    const soon = Date.now() + 100;
    const batch = [change("4", "5", { expires }), change("5", "6", {}), change("6", "7", { expires: soon })];
    expect(await replace(ask, batch)).toEqual({ replaced: [true, true, true] });
    await expect.poll(async () => (await ask("GET", "/key")).status, { timeout: 5_000 }).toBe(404);
    expect(Date.now()).toBeGreaterThanOrEqual(soon);
  });

  it.each([-1, 0, 60_000, 1_600_000_000_000])(
    "removes the record if the expiry is %i, so that a later change of the batch can make a new record",
    async (past) => {
      const given: unknown[] = [];
      class Recording extends MemoryStore {
        override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
          given.push(...changes.flatMap(({ expires }) => expires ?? []));
          return await super.replaceMany(changes);
        }
        override namespaced(namespace: string): Recording {
          const view = new Recording(this);
          view.namespace = namespace;
          return view;
        }
      }
      const ask = ready({ store: new Recording() });
      await ask("PUT", "/key", { body: "old" });
      const changes = [
        { key: "key", expected: entityTag("old"), text: "new", expires: past },
        { key: "key", expected: entityTag("new"), text: "newer" },
        { key: "key", expected: null, text: "made" },
        { key: "key", expected: null, text: "late" },
      ];
      expect(await replace(ask, changes)).toEqual({ replaced: [true, false, true, false] });
      expect(await (await ask("GET", "/key")).text()).toBe("made");
      expect(await hoursLeft(ask)).toBeUndefined();
      expect(await replace(ask, [{ ...changes[0], expected: entityTag("made") }])).toEqual({ replaced: [true] });
      expect((await ask("GET", "/key")).status).toBe(404);
      // 0 would mean in the stored record that it never expires.
      expect(given).toEqual([expect.toSatisfy((time) => time > 0), expect.toSatisfy((time) => time > 0)]);
    },
  );

  it("does not remove the record that a later change of the same batch has made", async () => {
    let interrupted = false;
    class Deleting extends MemoryStore {
      override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
        if (!interrupted) await this.deleteMany(changes.map(({ key }) => key));
        interrupted = true;
        return await super.replaceMany(changes);
      }
      override namespaced(namespace: string): Deleting {
        const view = new Deleting(this);
        view.namespace = namespace;
        return view;
      }
    }
    const ask = ready({ store: new Deleting() });
    await ask("PUT", "/key", { body: "value" });
    const changes = [
      { key: "key", expected: entityTag("value"), text: "gone", expires: 1 },
      { key: "key", expected: null, text: "value" },
    ];
    expect(await replace(ask, changes)).toEqual({ replaced: [false, true] });
    expect(await (await ask("GET", "/key")).text()).toBe("value");
  });

  it("is accepted in every change of a batch of the largest size", async () => {
    const changes = Array.from({ length: 1_000 }, (_, index) => ({
      key: `${index}`,
      expected: null,
      text: "",
      expires: 1,
    }));
    expect(await replace(ready(), changes)).toEqual({ replaced: changes.map(() => true) });
  });

  /** A server of the previous version of the protocol, which refuses every unknown field. */
  function olderServer() {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
    const bodies: string[] = [];
    const store = new HttpStore({
      url: "http://localhost",
      apiKey,
      async fetch(request) {
        const body = await request.clone().text();
        bodies.push(body);
        if (!request.url.endsWith("/replace") || !body.includes('"expires"')) return await handler(request);
        const message = "The body has an unknown field. The known fields are key, expected, text, bytes";
        return Response.json({ code: "REQUEST_INVALID", message }, { status: 400 });
      },
    });
    return { store, bodies };
  }

  it("makes the replacement reject with the hint to update the server if the server is too old to know the expiry", async () => {
    const { store } = olderServer();
    await store.set("key", "old");
    for (const expires of [Date.now() + 60_000, null]) {
      await expect(store.replace("key", "old", "new", expires)).rejects.toMatchObject({
        code: "VALUE_INVALID",
        message: expect.stringContaining("unknown field"),
        hint: expect.stringContaining("update @keyward/http-kv on the server"),
      });
    }
    expect(await store.get("key")).toBe("old");
  });

  it("is not sent if the caller passes no expiry, so that older servers can do the replacement", async () => {
    const { store, bodies } = olderServer();
    await store.set("key", "old");
    expect(await store.replace("key", "old", "new")).toBe(true);
    expect(await store.replaceMany([{ key: "key", expected: "new", next: "newer", expires: undefined }])).toEqual([
      true,
    ]);
    expect(bodies.slice(1).map((body) => JSON.parse(body).changes)).toEqual([
      [{ key: "key", expected: entityTag("old"), text: "new" }],
      [{ key: "key", expected: entityTag("new"), text: "newer" }],
    ]);
  });
});

describe("a limit of the server", () => {
  const limits = { maxBodyBytes: 1_000, maxValueBytes: 100, maxKeyBytes: 20, maxBatch: 3, requestsPerSecond: 10_000 };
  const refused = async (method: string, path: string, body?: string) =>
    (await ready({ limits })(method, path, body === undefined ? {} : { body })).status;

  it("applies to values, keys, namespaces, batches and bodies", async () => {
    expect(await refused("PUT", "/key", "x".repeat(100))).toBe(200);
    expect(await refused("PUT", "/key", "x".repeat(101))).toBe(413);
    expect(await refused("PUT", `/${"k".repeat(21)}`, "x")).toBe(413);
    expect(await refused("PUT", `/${"%C3%A9".repeat(11)}`, "x")).toBe(413);
    expect(await refused("PUT", `/k?namespace=${"k".repeat(21)}`, "x")).toBe(413);
    expect(await refused("POST", "/get", JSON.stringify({ keys: ["a", "b", "c"] }))).toBe(200);
    expect(await refused("POST", "/get", JSON.stringify({ keys: ["a", "b", "c", "d"] }))).toBe(413);
    expect(await refused("POST", "/set", JSON.stringify({ entries: [{ key: "a", text: "x".repeat(101) }] }))).toBe(413);
    expect(await refused("POST", "/get", JSON.stringify({ keys: [], more: "x".repeat(1_000) }))).toBe(413);
  });

  it("is 2 MiB for values by default, and can be raised", async () => {
    const defaultBytes = 2 * 2 ** 20;
    const put = async (limits: Partial<KvLimits>, bytes: number) =>
      (await ready({ limits })("PUT", "/key", { body: "x".repeat(bytes) })).status;
    expect(await put({}, defaultBytes)).toBe(200);
    expect(await put({}, defaultBytes + 1)).toBe(413);
    expect(await put({ maxValueBytes: 8 * 2 ** 20 }, 8 * 2 ** 20)).toBe(200);
  });

  it("applies to a body without Content-Length", async () => {
    const endless = new ReadableStream({ pull: (controller) => controller.enqueue(Buffer.alloc(64)) });
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], limits });
    const request = new Request("http://kv.test/key", {
      method: "PUT",
      body: endless,
      duplex: "half",
      headers: { authorization: `Bearer ${apiKey}` },
    });
    expect((await handler(request)).status).toBe(413);
  });

  it("applies to the time in which a body must arrive, also in a fetch handler", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], limits: { bodyTimeoutMs: 50 } });
    let cancelled = false;
    const stalled = new ReadableStream({
      start: (controller) => controller.enqueue(Buffer.from("{")),
      cancel: () => {
        cancelled = true;
      },
    });
    const request = new Request("http://kv.test/get", {
      method: "POST",
      body: stalled,
      duplex: "half",
      headers: { authorization: `Bearer ${apiKey}` },
    });
    const answer = await handler(request);
    expect([answer.status, await answer.json()]).toMatchObject([408, { code: "REQUEST_TIMEOUT" }]);
    expect(cancelled).toBe(true);
  });

  it("applies to the requests per second of each API key, and the refusal has Retry-After", async () => {
    const [one, other] = [createApiKey({ tenant: "acme" }), createApiKey({ tenant: "acme" })];
    const handler = createKvHandler({
      store: new MemoryStore(),
      tenants: [one.entry, other.entry],
      limits: { requestsPerSecond: 5 },
    });
    const ask = (apiKey: string) =>
      handler(new Request("http://kv.test/key", { headers: { authorization: `Bearer ${apiKey}` } }));
    const statuses: number[] = [];
    for (let count = 0; count < 6; count++) statuses.push((await ask(one.apiKey)).status);
    expect(statuses).toEqual([404, 404, 404, 404, 404, 429]);
    expect((await ask(one.apiKey)).headers.get("retry-after")).toBe("1");
    expect((await ask(other.apiKey)).status).toBe(404);
  });

  it("is refused if it is not a positive number", () => {
    expect(() => ready({ limits: { maxBatch: 0 } })).toThrow("maxBatch");
  });
});

describe("an invalid request", () => {
  it.each([
    ["POST", "/nothing", "{}", 404],
    ["POST", "/get", "", 400],
    ["POST", "/get", "[]", 400],
    ["POST", "/get", "{}", 400],
    ["POST", "/get", '{"keys":[1]}', 400],
    ["POST", "/get", '{"keys":["\\ud800"]}', 400],
    ["POST", "/get", '{"keys":[],"space":"other"}', 400],
    ["POST", "/get", '{"keys":[],"namespace":1}', 400],
    ["POST", "/set", '{"entries":[{"key":"a"}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","text":"a","bytes":"YQ=="}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","text":"\\ud800"}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","bytes":"YQ"}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","bytes":"Y Q=="}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","bytes":"_-=="}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","text":"a","expires":"1"}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","text":"a","expires":1e999}]}', 400],
    ["POST", "/replace", '{"changes":[{"key":"a","text":"a"}]}', 400],
    ["POST", "/get", "null", 400],
    ["POST", "/get", '{"keys":[],"more":1}', 400],
    ["POST", "/get", '{"keys":[],"space":null}', 400],
    ["POST", "/get?namespace=a", '{"keys":[]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","text":"a","ttl":1}]}', 400],
    ["POST", "/set", '{"entries":[{"key":"a","text":"a","expires":null}]}', 400],
    ["POST", "/set", '{"entries":[null]}', 400],
    ["POST", "/replace", '{"changes":[{"key":"a","expected":null,"text":"a","expires":"1"}]}', 400],
    ["POST", "/replace", '{"changes":[{"key":"a","expected":null,"text":"a","expires":1e999}]}', 400],
    ["POST", "/replace", '{"changes":[{"key":"a","expected":null,"text":"a","expires":true}]}', 400],
    ["POST", "/replace", '{"changes":[{"key":"a","expected":null,"text":"a","ttl":1}]}', 400],
    ["POST", "/replace", '{"changes":[{"key":"a","expected":null,"text":null}]}', 400],
    ["POST", "/scan", '{"cursor":null}', 400],
    ["POST", "/scan", '{"limit":null}', 400],
    ["POST", "/scan", '{"limit":0}', 400],
    ["POST", "/scan", '{"cursor":"AAAA"}', 400],
    ["PATCH", "/key", "x", 405],
  ])("%s %s %s is answered with %i", async (method, path, body, status) => {
    const answer = await ready()(method, path, { body });
    expect(answer.status).toBe(status);
    expect(await answer.json()).toMatchObject({ code: expect.any(String), message: expect.any(String) });
  });
});

it.each([
  ["/clear", "null"],
  ["/clear", "1"],
  ["/clear", '"records"'],
  ["/clear", "[]"],
  ["/clear", '{"namespce":"other"}'],
  ["/clear", '{"namespace":null}'],
  ["/clear", '{"space":null}'],
  ["/clear?namespace=other", "{}"],
])("POST %s with the body %s is refused and deletes no record", async (path, body) => {
  const ask = ready();
  await ask("PUT", "/key", { body: "value" });
  expect((await ask("POST", path, { body })).status).toBe(400);
  expect(await (await ask("GET", "/key")).text()).toBe("value");
  expect((await ask("POST", "/clear", { body: "{}" })).status).toBe(200);
  expect((await ask("GET", "/key")).status).toBe(404);
});

describe("the idempotency key of a write", () => {
  const headers = { "idempotency-key": "0123456789abcdef" };
  const set = (text: string) => JSON.stringify({ entries: [{ key: "key", text }] });

  it("is refused in a second request if that request has another method, path or body", async () => {
    const ask = ready();
    expect((await ask("POST", "/set", { body: set("1"), headers })).status).toBe(200);
    expect((await ask("POST", "/set", { body: set("1"), headers })).status).toBe(200);
    const others: [string, string, string | undefined, Record<string, string>][] = [
      ["POST", "/set", set("2"), {}],
      ["POST", "/clear", "{}", {}],
      ["PUT", "/key", set("1"), {}],
      ["DELETE", "/key", undefined, {}],
    ];
    for (const [method, path, body, more] of others) {
      const answer = await ask(method, path, {
        ...(body === undefined ? {} : { body }),
        headers: { ...headers, ...more },
      });
      expect(answer.status, `${method} ${path}`).toBe(400);
      expect(await answer.json()).toMatchObject({ message: expect.stringContaining("idempotency-key") });
    }
    expect(await (await ask("GET", "/key")).text()).toBe("1");
    // After refusals of other writes, the key still belongs to the first write.
    expect((await ask("POST", "/set", { body: set("1"), headers })).status).toBe(200);
  });

  it.each([
    [{}, { "content-type": "application/octet-stream" }],
    [{ "x-ttl": "60" }, { "x-ttl": "61" }],
    [{ "if-match": '"a"' }, { "if-none-match": '"a"' }],
  ])("is refused in a second request if the headers change from %j to %j", async (one, other) => {
    const ask = ready();
    const before = await ask("PUT", "/key", { body: "value", headers: { ...headers, ...one } });
    expect((await ask("PUT", "/key", { body: "value", headers: { ...headers, ...other } })).status).toBe(
      // A refused write is forgotten, so its idempotency key can be used again.
      before.status === 412 ? 200 : 400,
    );
  });
});

describe("/health", () => {
  it("answers without an API key, and is the path of the record with the key health if a request has an API key", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], basePath: "/kv" });
    const ask = async (method: string, headers: Record<string, string> = {}, body?: string) =>
      await handler(
        new Request("http://kv.test/kv/health", { method, headers, ...(body === undefined ? {} : { body }) }),
      );
    const well = await ask("GET");
    expect([well.status, await well.json()]).toEqual([200, { status: "ok" }]);
    expect((await ask("HEAD")).status).toBe(200);
    const headers = { authorization: `Bearer ${apiKey}` };
    expect((await ask("GET", headers)).status).toBe(404);
    expect((await ask("PUT", headers, "mine")).status).toBe(200);
    expect(await (await ask("GET", headers)).text()).toBe("mine");
    expect((await ask("PUT", {}, "mine")).status).toBe(401);
    expect((await ask("GET", { authorization: "Bearer x" })).status).toBe(401);
  });

  it("answers with 503 if the store cannot be reached, and checks the store at most once a second", async () => {
    let asked = 0;
    const logged: KvLogEntry[] = [];
    class Unreachable extends MemoryStore {
      override async hasMany(): Promise<never> {
        asked++;
        throw new KeywardError("STORE_UNAVAILABLE", "cut", { hint: "Try again." });
      }
      override namespaced(): this {
        return this;
      }
    }
    const handler = createKvHandler({ store: new Unreachable(), tenants: [], log: (entry) => logged.push(entry) });
    for (let count = 0; count < 5; count++) {
      const answer = await handler(new Request("http://kv.test/health"));
      expect(answer.status).toBe(503);
      const { errorId, error } = logged.at(-1) ?? {};
      expect(error).toContain("KeywardError STORE_UNAVAILABLE: cut");
      expect(await answer.json()).toEqual({
        code: "UNAVAILABLE",
        message: "The server's store cannot be reached",
        id: errorId,
      });
    }
    expect(asked).toBe(1);
  });
});

describe("a handler of createKvHandler", () => {
  it.each([
    [{ tenant: [] }, "tenant"],
    [{ limits: { maxBatches: 1 } }, "maxBatches"],
    [{ limits: { maxBatch: Number.NaN } }, "maxBatch"],
    [{ limits: { bodyTimeoutMs: 2 ** 31 } }, "bodyTimeoutMs"],
    [{ limits: { maxBodyBytes: Number.POSITIVE_INFINITY } }, "maxBodyBytes"],
  ])("refuses the option %j, with an error that names the option", (options: object, name) => {
    expect(() => ready({ ...options })).toThrow(name);
  });

  it("answers with 404 to a path that is not below the base path", async () => {
    const ask = ready({ basePath: "/kv/" });
    expect((await ask("PUT", "/kv/key", { body: "1" })).status).toBe(200);
    expect(await (await ask("GET", "/kv/:")).json()).toEqual(["key"]);
    for (const path of ["/key", "/", "/kv", "/kvkey"]) expect((await ask("GET", path)).status).toBe(404);
  });

  it("refuses a store that does not take absolute times as expiries", () => {
    class Former extends MemoryStore {
      override get capabilities(): KeyvStorageCapability {
        return { ...super.capabilities, expires: false };
      }
    }
    expect(() => ready({ store: new Former() })).toThrow("Keyv 6");
  });

  it("answers with an id after an unknown error, and logs neither the message nor the record's key", async () => {
    class Failing extends MemoryStore {
      override async getMany(keys: readonly string[]): Promise<never> {
        throw Object.assign(new Error(`${keys[0]}\n    at value`), { code: "EODD", args: keys });
      }
      override namespaced(): this {
        return this;
      }
    }
    const store = new Failing();
    const log: unknown[] = [];
    const ask = ready({ store, log: (entry) => log.push(entry) });
    const answer = await ask("GET", "/session-secret");
    expect(answer.status).toBe(500);
    const body: unknown = await answer.json();
    expect(body).toEqual({
      code: "INTERNAL",
      message: "The server failed with an unexpected error",
      id: expect.any(String),
    });
    expect(log).toMatchObject([{ status: 500, error: expect.stringContaining("Error EODD") }]);
    expect(JSON.stringify([log, body])).not.toContain("session-secret");
    expect(JSON.stringify(log)).not.toContain("at value");
    expect(log).toMatchObject([{ errorId: Reflect.get(Object(body), "id") }]);
  });
});
