import { request } from "node:http";
import { createRequire } from "node:module";
import { Readable } from "node:stream";
import { KeyvAdapter } from "@apollo/utils.keyvadapter";
import { createKeyv, EncryptedStore, Keyring } from "@keyward/core";
import { createCache } from "cache-manager";
import { Cacheable } from "cacheable";
import CacheableRequest from "cacheable-request";
import got from "got";
import type { KeyvStorageAdapter } from "keyv";
import { Keyv as Keyv5 } from "keyv-5";
import { describe, expect, it } from "vitest";
import { serve, stores } from "./opened-stores.ts";

const minuteMs = 60_000;

/** Ways to pass an encrypted store to a host: a Keyv of createKeyv, or an adapter for the host's own Keyv. */
const encryptedStores = {
  createKeyv: (store: KeyvStorageAdapter) => createKeyv({ store, keys: Keyring.generate() }),
  "createKeyv in a namespace": (store: KeyvStorageAdapter) =>
    createKeyv({ store, keys: Keyring.generate(), namespace: "encrypted" }),
  EncryptedStore: (store: KeyvStorageAdapter) => new EncryptedStore(store, { keys: Keyring.generate() }),
} as const;

const ways = Object.entries(encryptedStores).flatMap(([way, encrypt]) =>
  Object.entries(stores).map(([store, open]) => [`${way} over ${store}`, async () => encrypt(await open())] as const),
);

describe.each(ways)("an encrypted store for a host, made with %s", (_, open) => {
  it("serves cacheable as its secondary store", async () => {
    const cache = new Cacheable({ secondary: new Keyv5({ store: await open(), throwOnErrors: true }), ttl: "1m" });
    expect(await cache.set("own", { a: 1 }, minuteMs)).toBe(true);
    expect(await cache.set("default", [1])).toBe(true);
    expect(
      await cache.setMany([
        { key: "one", value: 1, ttl: minuteMs },
        { key: "two", value: 2 },
      ]),
    ).toBe(true);
    await cache.primary.clear();
    expect(await cache.getMany(["own", "default", "one", "two", "absent"])).toEqual([{ a: 1 }, [1], 1, 2, undefined]);
    expect(await cache.delete("own")).toBe(true);
    expect(await cache.has("own")).toBe(false);
    let computed = 0;
    const compute = async () => ++computed;
    expect(await cache.getOrSet("computed", compute, { ttl: minuteMs })).toBe(1);
    await cache.primary.clear();
    expect(await cache.getOrSet("computed", compute, { ttl: minuteMs })).toBe(1);
  });

  it.each([true, false])("serves cache-manager as its store, with useKeyPrefix: %s", async (useKeyPrefix) => {
    const keyv = new Keyv5({ store: await open(), useKeyPrefix, throwOnErrors: true });
    const cache = createCache({ stores: [keyv], ttl: minuteMs });
    let computed = 0;
    const compute = async () => ({ computed: ++computed });
    expect(await cache.wrap("wrapped", compute)).toEqual({ computed: 1 });
    expect(await cache.wrap("wrapped", compute)).toEqual({ computed: 1 });
    expect(await cache.ttl("wrapped")).toBeGreaterThan(Date.now());
    await cache.mset([
      { key: "one", value: 1, ttl: minuteMs },
      { key: "two", value: 2 },
    ]);
    expect(await cache.mget(["one", "two", "absent"])).toEqual([1, 2, undefined]);
    await cache.mdel(["one"]);
    await cache.set("short", 1, 100);
    await expect.poll(() => cache.get("short")).toBeUndefined();
    expect(await cache.get("one")).toBeUndefined();
    await cache.clear();
    expect(await cache.get("two")).toBeUndefined();
  });

  it("serves Apollo's Keyv adapter as its cache, although Apollo passes times to live in seconds", async () => {
    const keyv = new Keyv5({ store: await open(), throwOnErrors: true });
    // The adapter's types come from Keyv's CommonJS build, which TypeScript considers different types.
    const adapter: KeyvAdapter<string> = Reflect.construct(KeyvAdapter, [keyv]);
    await adapter.set("long", "value", { ttl: 60 });
    await adapter.set("short", "value", { ttl: 0.1 });
    await adapter.set("for ever", "value");
    expect(await Promise.all([adapter.get("long"), adapter.get("for ever")])).toEqual(["value", "value"]);
    await expect.poll(() => adapter.get("short")).toBeUndefined();
    expect(await adapter.delete("long")).toBe(true);
    expect(await adapter.get("long")).toBeUndefined();
  });
});

/** Serves a page that may be cached for a minute, and counts the requests for it. */
async function cacheablePage(): Promise<{ readonly url: string; asked(): number }> {
  let asked = 0;
  const url = await serve((_, response) => {
    asked++;
    response.setHeader("cache-control", "public, max-age=60");
    response.end(`page ${asked}`);
  });
  return { url, asked: () => asked };
}

describe.each(ways)("an encrypted store for a host, made with %s", (_, open) => {
  it.each(["directly", "in a Keyv 5"])("serves got as its cache if the store is passed %s", async (how) => {
    const page = await cacheablePage();
    const store = await open();
    const cache = how === "directly" ? store : new Keyv5({ store });
    // Only JavaScript can pass the store directly, because the types of got require a Keyv 5.
    const client: typeof got = Reflect.apply(got.extend, got, [{ cache, retry: { limit: 0 } }]);
    await expect
      .poll(async () => {
        const { body, isFromCache } = await client(page.url);
        return { body, isFromCache };
      })
      .toEqual({ body: expect.stringMatching(/^page \d+$/), isFromCache: true });
    const askedBefore = page.asked();
    expect((await client(page.url)).isFromCache).toBe(true);
    expect(page.asked()).toBe(askedBefore);
  });

  it("works as the cache of cacheable-request if the option maxTtl of cacheable-request is set", async () => {
    const page = await cacheablePage();
    const send = new CacheableRequest(request, await open()).request();
    const isFromCache = async () =>
      await new Promise<boolean>((resolve, reject) => {
        const emitter = send({ ...optionsOf(page.url), maxTtl: minuteMs }, (response) => {
          if (!(response instanceof Readable)) throw new TypeError("The answer cannot be read");
          response.resume().on("end", () => resolve("fromCache" in response && response.fromCache === true));
        });
        emitter.on("error", reject);
        emitter.on("request", (sent) => sent.end());
      });
    await expect.poll(isFromCache).toBe(true);
    const askedBefore = page.asked();
    expect(await isFromCache()).toBe(true);
    expect(page.asked()).toBe(askedBefore);
  });
});

// npm installs the alias keyv-5 next to the keyv that got imports, and got recognizes a Keyv by its class.
it("a request of got rejects if its cache is a Keyv 5 from another installed copy of keyv, and the hint states which copy to import", async () => {
  const { Keyv: OtherKeyv5 }: typeof import("keyv-5") = createRequire(import.meta.url)("keyv-5");
  const store = createKeyv({ store: new Map(), keys: Keyring.generate(), namespace: "http" });
  const cache = new OtherKeyv5({ store });
  const client: typeof got = Reflect.apply(got.extend, got, [{ cache, retry: { limit: 0 } }]);
  await expect(client((await cacheablePage()).url)).rejects.toMatchObject({
    cause: {
      code: "NAMESPACE_CONFLICT",
      hint: expect.stringContaining("import the class Keyv from the package from which the library imports it"),
    },
  });
});

function optionsOf(url: string): { hostname: string; port: string; path: string } {
  const { hostname, port, pathname } = new URL(url);
  return { hostname, port, path: pathname };
}
