import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AtomicStore,
  census,
  createKeyv,
  exportKeyring,
  Keyring,
  type ReservedSpace,
  reencrypt,
  retireKey,
  type ScannableStore,
  storeLocation,
  wrappedKeys,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../../../../test/servers/redis.ts";
import { AesWrapper } from "./aes-wrapper.ts";

type Store = AtomicStore & ScannableStore & ReservedSpace;

function describeLocation(open: () => Promise<Store>): void {
  it("a store location replaces its text only if the stored text is the expected text", async () => {
    const location = storeLocation(await open());
    expect(await location.read()).toBeUndefined();
    expect(await location.replace("other", "first")).toBe(false);
    const created = await Promise.all(["a", "b", "c"].map((text) => location.replace(undefined, text)));
    expect(created.filter(Boolean)).toHaveLength(1);
    const found = (await location.read()) ?? "";
    const raced = await Promise.all(["d", "e", "f"].map((text) => location.replace(found, text)));
    expect(raced.filter(Boolean)).toHaveLength(1);
    expect(["d", "e", "f"]).toContain(await location.read());
  });

  it("a store location keeps a wrapped keyring during a rotation and clear(), and a census does not count the keyring", async () => {
    const store = await open();
    const wrapper = new AesWrapper();
    const first = Keyring.generate("2026-11").withStores(["sessions"]);
    const creator = wrappedKeys(wrapper, storeLocation(store));
    await creator.create(first);
    const before = createKeyv({ store, keys: creator, namespace: "flows" });
    await before.set("a", 1);
    const staged = first.add({ id: "2026-12" });
    await creator.save(staged, first);
    await creator.save(staged.promote("2026-12"), staged);

    const keys = wrappedKeys(wrapper, storeLocation(store));
    const flows = createKeyv({ store, keys, namespace: "flows" });
    await reencrypt(flows.encryptedStore);
    expect((await census(store)).records).toBe(1);
    for (const to of ["disabled", "removed"] as const) {
      await retireKey(keys, { sessions: flows.encryptedStore }, "2026-11", { to });
    }

    await flows.clear();
    const ring = await wrappedKeys(wrapper, storeLocation(store)).load();
    expect(ring.keys.map(({ id }) => id)).toEqual(["2026-12"]);
    expect(exportKeyring(ring)).toBe(exportKeyring(await creator.load()));
  });
}

describe("location in memory", () => describeLocation(async () => new MemoryStore()));

describe("location in SQLite", () =>
  describeLocation(async () => {
    const directory = await mkdtemp(join(tmpdir(), "keyward-wrapped-"));
    const store = new SqliteStore(join(directory, "records.sqlite"));
    onTestFinished(async () => {
      await store.disconnect();
      await rm(directory, { recursive: true });
    });
    return store;
  }));

const servers = await findRedisServers({ anyWillDo: true });
describeWithRedis(servers, "location in Redis", () =>
  describeLocation(async () => {
    const server = await startRedis(servers);
    const store = new RedisStore(server.url, { prefix: `keyward-${crypto.randomUUID()}` });
    onTestFinished(async () => {
      await store.disconnect();
      await server.stop();
    });
    return store;
  }),
);
