import { createHash } from "node:crypto";
import { startStandaloneServer } from "@apollo/server/standalone";
import { createKeyv, Keyring, KeywardError, type KeywardKeyv } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { NestFactory } from "@nestjs/core";
import type { Cacheable } from "cacheable";
import { afterEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { apolloServer } from "../src/apollo.ts";
import { cacheWithEncryptedPrimary, cacheWithEncryptedSecondary } from "../src/cacheable.ts";
import { cachedRequests } from "../src/cacheable-request.ts";
import { encryptedCache } from "../src/encrypted-cache.ts";
import { cachingClient } from "../src/got.ts";
import { usersModule } from "../src/nest.ts";
import { listen } from "./loopback.ts";
import { evictAll, namespaces, recordsIn, storedText, tamperWith } from "./stored-records.ts";

/** The server behind a cache. */
interface Origin {
  readonly url: string;
  /** Loads the page of the server without a cache. */
  load(): Promise<unknown>;
  /** Counts a request that the cache could not answer. */
  count(): void;
}

interface Host {
  /** What a read does if the stored record was tampered with: fails, or answers as for a missing record. */
  readonly tampered: "fails" | "loads again";
  /** Starts the host as a new process does, and returns a function that reads the page of the server through the cache. */
  start(keyv: KeywardKeyv, origin: Origin, report: (error: unknown) => void): Promise<() => Promise<unknown>>;
}

function cacheableHost(make: (keyv: KeywardKeyv, report: (error: unknown) => void) => Cacheable): Host {
  return {
    tampered: "loads again",
    start: async (keyv, origin, report) => {
      const cache = make(keyv, report);
      return async () => await cache.getOrSet("user:1", () => origin.load());
    },
  };
}

const query = `{ greeting(name: "ada-lovelace") }`;

const hosts: Readonly<Record<string, Host>> = {
  "cacheable with an encrypted secondary store": cacheableHost(cacheWithEncryptedSecondary),
  "cacheable with an encrypted primary store": cacheableHost(cacheWithEncryptedPrimary),
  "cache-manager": {
    tampered: "fails",
    start: async (keyv, origin, report) => {
      const cache = encryptedCache(keyv, report);
      return async () => await cache.wrap("user:1", () => origin.load());
    },
  },
  "Nest's cache": {
    tampered: "loads again",
    start: async (keyv, origin, report) => {
      const lookUp = async () => ({ user: await origin.load() });
      const application = await NestFactory.create(usersModule(keyv, lookUp, report), { logger: false });
      await application.listen(0, "127.0.0.1");
      onTestFinished(() => application.close());
      const address = await application.getUrl();
      return async () => await (await fetch(`${address}/users/1`)).text();
    },
  },
  got: {
    tampered: "fails",
    start: async (keyv, origin) => {
      const client = cachingClient(keyv);
      return async () => (await client(origin.url)).body;
    },
  },
  "cacheable-request": {
    tampered: "fails",
    start: async (keyv, origin) => {
      const send = cachedRequests(keyv);
      return async () => (await send(origin.url)).body;
    },
  },
  // A client sends the hash of a query, and sends the query only if the server does not have it in its cache.
  "Apollo's adapter": {
    tampered: "fails",
    start: async (keyv, origin, report) => {
      const server = apolloServer(keyv, report);
      const { url } = await startStandaloneServer(server, { listen: { port: 0, host: "127.0.0.1" } });
      onTestFinished(() => server.stop());
      const extensions = {
        persistedQuery: { version: 1, sha256Hash: createHash("sha256").update(query).digest("hex") },
      };
      const send = async (request: object) => {
        const headers = { "content-type": "application/json" };
        const response = await fetch(url, {
          method: "POST",
          headers,
          body: JSON.stringify({ ...request, extensions }),
        });
        const text = await response.text();
        if (!response.ok) throw new Error(text);
        return text;
      };
      return async () => {
        const answer = await send({});
        if (!answer.includes("PERSISTED_QUERY_NOT_FOUND")) return answer;
        origin.count();
        return await send({ query });
      };
    },
  },
};

const cases = Object.entries(hosts).flatMap(([name, host]) =>
  namespaces.map(([where, options]) => [`${name}, ${where}`, host, options] as const),
);

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

describe.each(cases)("an application that uses %s", (_, { start, tampered }, options) => {
  async function open() {
    // Apollo and got report failed requests here, too.
    vi.spyOn(console, "error").mockReturnValue();
    vi.spyOn(console, "warn").mockReturnValue();
    const store = new MemoryStore();
    const keys = Keyring.generate();
    let requests = 0;
    const url = await listen((_, response) => {
      requests++;
      response.setHeader("cache-control", "public, max-age=600");
      response.end("the page of ada-lovelace");
    });
    const origin = { url, load: async () => await (await fetch(url)).text(), count: () => requests++ };
    const codes: string[] = [];
    const report = (error: unknown) => {
      codes.push(error instanceof KeywardError ? error.code : `${error}`);
    };
    return {
      store,
      codes,
      requests: () => requests,
      start: () => start(createKeyv({ store, keys, ...options }), origin, report),
    };
  }

  async function openWithRecord() {
    const opened = await open();
    const read = await opened.start();
    expect(await read()).toContain("ada-lovelace");
    // Some hosts store a page after they have answered.
    await expect.poll(() => recordsIn(opened.store)).toHaveLength(1);
    expect(opened.requests()).toBe(1);
    return opened;
  }

  it("answers in a second process from the record that the first process stored, and stores no plaintext", async () => {
    const { store, start, requests, codes } = await openWithRecord();
    const read = await start();
    expect(await read()).toContain("ada-lovelace");
    expect(requests()).toBe(1);
    const text = await storedText(store);
    // The namespace of createKeyv separates the records, so no key has a prefix of Keyv.
    expect(text).not.toMatch(/^(?:keyv|cacheable-request):/m);
    for (const plaintext of ["ada-lovelace", "max-age", "greeting", "value", "expires"])
      expect(text).not.toContain(plaintext);
    if (options.namespace !== undefined)
      expect(await recordsIn(store)).toEqual([expect.objectContaining({ namespace: options.namespace })]);
    expect(codes).toEqual([]);
  });

  it("reports RECORD_TAMPERED for a record that was tampered with and keeps the record, and reports no error for a missing record", async () => {
    const { store, start, requests, codes } = await openWithRecord();
    await tamperWith(store);
    const stored = await storedText(store);
    const read = await start();
    if (tampered === "fails") {
      await read().then(
        () => expect.unreachable("the read answered"),
        (error) => codes.push(...codesOf(error)),
      );
    } else {
      expect(await read()).toContain("ada-lovelace");
      expect(requests()).toBe(2);
    }
    await expect.poll(() => codes).toContain("RECORD_TAMPERED");
    expect(await storedText(store)).toBe(stored);

    await evictAll(store);
    codes.length = 0;
    const counted = requests();
    const again = await start();
    expect(await again()).toContain("ada-lovelace");
    expect(requests()).toBe(counted + 1);
    expect(codes).toEqual([]);
  });

  it("sets an expiry on its records, so that an unused record has expired after 25 hours", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const { store } = await openWithRecord();
    vi.setSystemTime(Date.now() + 25 * 60 * 60_000);
    expect(await recordsIn(store)).toEqual([]);
  });
});

/** Returns the codes of an error and of its causes. */
function codesOf(error: unknown): string[] {
  if (!(error instanceof Error)) return [];
  return [...("code" in error && typeof error.code === "string" ? [error.code] : []), ...codesOf(error.cause)];
}

describe("a cache that returns undefined for a record that was tampered with", () => {
  async function open() {
    const store = new MemoryStore();
    const keyv = createKeyv({ store, keys: Keyring.generate() });
    const codes: string[] = [];
    const report = (error: unknown) => {
      codes.push(...codesOf(error));
    };
    return { store, keyv, codes, report };
  }

  it("reports the error of each read of such a record: cache-manager", async () => {
    const { store, keyv, codes, report } = await open();
    const cache = encryptedCache(keyv, report);
    await cache.set("bad", 1);
    await tamperWith(store);
    await cache.set("good", 2);
    for (const read of [cache.get, cache.ttl]) {
      expect(await read("bad")).toBeUndefined();
      expect(codes.splice(0)).toContain("RECORD_TAMPERED");
    }
    // A batch answers all its records like missing records.
    expect(await cache.mget(["bad", "good"])).toEqual([undefined, undefined]);
    expect(codes.splice(0)).toContain("RECORDS_UNREADABLE");
    expect(await cache.get("good")).toBe(2);
    expect(codes).toEqual([]);
  });

  it("reports the error of each read of such a record: cacheable", async () => {
    const { store, keyv, codes, report } = await open();
    const cache = cacheWithEncryptedSecondary(keyv, report);
    await cache.set("bad", 1);
    await tamperWith(store);
    await cache.set("good", 2);
    await cache.primary.clear();
    expect(await cache.get("bad")).toBeUndefined();
    expect(codes.splice(0)).toContain("RECORD_TAMPERED");
    expect(await cache.getMany(["bad", "good"])).toEqual([undefined, undefined]);
    expect(codes.splice(0)).toContain("RECORDS_UNREADABLE");
    expect(await cache.get("good")).toBe(2);
    expect(codes).toEqual([]);
  });
});

describe.each([
  ["got", cachingClient],
  ["cacheable-request", cachedRequests],
] as const)("requests of %s", (_, start) => {
  async function open() {
    const store = new MemoryStore();
    const arrived = Promise.withResolvers<void>();
    const release = Promise.withResolvers<void>();
    const url = await listen(async ({ url }, response) => {
      if (url === "/slow") {
        arrived.resolve();
        await release.promise;
      }
      response.setHeader("cache-control", "public, max-age=600");
      response.end("page");
    });
    return { store, arrived, release, url, send: start(createKeyv({ store, keys: Keyring.generate() })) };
  }

  // A Keyv 5 that loses a listener while it emits an event leaves out the next one, so the number of requests matters.
  it.each([1, 2, 3])(
    "fail only if their own stored response was tampered with, even if they are concurrent (earlier requests: %i)",
    async (count) => {
      const { store, arrived, release, url, send } = await open();
      for (let sent = 0; sent < count; sent++) await send(`${url}/page`);
      await expect.poll(() => recordsIn(store)).toHaveLength(1);
      await tamperWith(store);
      const slow = send(`${url}/slow`);
      await arrived.promise;
      expect(codesOf(await send(`${url}/page`).catch((error: unknown) => error))).toContain("RECORD_TAMPERED");
      release.resolve();
      expect(await slow).toMatchObject({ body: "page" });
    },
  );

  it("remove their listeners from the cache, so that 120 requests cause no warning", async () => {
    const warn = vi.spyOn(console, "warn").mockReturnValue();
    const { url, send } = await open();
    for (let sent = 0; sent < 120; sent++) await send(`${url}/page`);
    expect(warn).not.toHaveBeenCalled();
  });
});
