import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createKeyv,
  EncryptedStore,
  KeywardError,
  storeLocation,
  type WrappableStore,
  wrappedKeys,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { KeyvMemoryAdapter } from "keyv";
import { afterAll, describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../../servers/redis.ts";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { marker } from "../secrets.ts";
import { BreakableAdapter, contentOf, LeastKeyv5Adapter } from "./inner-stores.ts";

const value = `${marker}value`;
const folder = mkdtempSync(join(tmpdir(), "keyward-ready-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let files = 0;

const withReservedSpace: Readonly<Record<string, () => WrappableStore>> = {
  MemoryStore: () => new MemoryStore(),
  SqliteStore: () => new SqliteStore(join(folder, `${files++}.sqlite`)),
};
const withoutReservedSpace: Readonly<Record<string, () => WrappableStore>> = {
  Map: () => new Map(),
  "Keyv 6 adapter": () => new KeyvMemoryAdapter(new Map()),
  "Keyv 5 adapter": () => new LeastKeyv5Adapter(),
};

/** Returns all records in a memory store, including its reserved space. */
async function everythingIn(store: MemoryStore): Promise<readonly unknown[]> {
  return [await contentOf(store), (await store.reserved().scan()).entries];
}

/** The error of a key provider that cannot load its keyring. */
const unavailable = new KeywardError("PROVIDER_UNAVAILABLE", "The vault is sealed", { hint: "Unseal the vault." });

describe.each(Object.entries({ ...withReservedSpace, ...withoutReservedSpace }))("ready() over a %s", (_, open) => {
  it("resolves before the first write and after it, and loads the keyring once", async () => {
    const keys = new TestKeys(newRing());
    const keyv = createKeyv({ store: open(), keys, namespace: "flows" });
    await keyv.ready();
    await keyv.set("key", value);
    await keyv.ready();
    await keyv.encryptedStore.ready({ timeoutMs: 5_000 });
    expect(await keyv.get("key")).toBe(value);
    expect(keys.loads).toBe(1);
    await keyv.disconnect();
  });

  it("rejects with the reason if the keys cannot be loaded, and resolves when the provider has recovered", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(unavailable);
    const keyv = createKeyv({ store: open(), keys, namespace: "flows" });
    const error = await expectRefusal(keyv.ready(), "PROVIDER_UNAVAILABLE");
    expect(error).toMatchObject({ notReady: ["keys"], hint: "Unseal the vault." });
    expect(error.message).toBe("The keys cannot be loaded: The vault is sealed");
    keys.recover();
    await expect.poll(() => keyv.ready().then(() => "ready", String), { timeout: 10_000 }).toBe("ready");
    await keyv.disconnect();
  });
});

describe("ready()", () => {
  it("writes nothing: it creates no check record, and re-encrypts no check record or record under an older key", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: before }).ready();
    expect(await everythingIn(inner)).toEqual([[], []]);
    await new EncryptedStore(inner, { keys: before }).set("key", value);
    const written = await everythingIn(inner);
    await new EncryptedStore(inner, { keys: promoted }).ready();
    await new EncryptedStore(inner, { keys: promoted, scope: () => "a" }).ready();
    expect(await everythingIn(inner)).toEqual(written);
  });

  it.each(Object.entries(withReservedSpace))(
    "rejects if the keyring of the process is not the keyring of the records in a %s",
    async (_, open) => {
      const inner = open();
      const right = createKeyv({ store: inner, keys: newRing("right"), namespace: "flows" });
      await right.set("key", value);
      const wrong = createKeyv({ store: inner, keys: newRing("wrong"), namespace: "flows" });
      const error = await expectRefusal(wrong.ready(), "OVERWRITE_REFUSED");
      expect(error.notReady).toEqual(["keys"]);
      expect(error.message).toMatch(/^The keys do not belong to the store\. .*"right".*"wrong"/);
      expect(error.cause).toMatchObject({ code: "KEY_UNKNOWN" });
      await right.ready();
      await right.disconnect();
      await wrong.disconnect();
    },
  );

  it("rejects if the check record is missing and the keyring decrypts none of the records", async () => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: newRing() }).set("key", value);
    await inner.reserved().clear();
    const written = await everythingIn(inner);
    const error = await expectRefusal(new EncryptedStore(inner, { keys: newRing() }).ready(), "OVERWRITE_REFUSED");
    expect(error.notReady).toEqual(["keys"]);
    expect(await everythingIn(inner)).toEqual(written);
  });

  it("rejects for a store in a new scope if the keyring is not the keyring of the records without a scope", async () => {
    const inner = new MemoryStore();
    const ring = newRing();
    await new EncryptedStore(inner, { keys: ring }).set("key", value);
    const error = await expectRefusal(
      new EncryptedStore(inner, { keys: newRing(), scope: "unused" }).ready(),
      "OVERWRITE_REFUSED",
    );
    expect(error.notReady).toEqual(["keys"]);
    await new EncryptedStore(inner, { keys: ring, scope: "unused" }).ready();
    await new EncryptedStore(inner, { keys: ring, scope: ({ key }) => key }).ready();
  });

  it("reloads a keyring that lacks the key of the check record, as a read would", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    await store.ready();
    keys.become(promoted);
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    await store.ready();
    expect(keys.loads).toBe(2);
    expect(await store.get("key")).toBe(value);
  });

  it("rejects with the error of the store if the store fails, and names the store and the keys if the keys fail too", async () => {
    const adapter = new BreakableAdapter(new Map());
    adapter.failure = new Error("connection refused");
    const store = new EncryptedStore(adapter, { keys: newRing() });
    const error = await expectRefusal(store.ready(), "STORE_UNAVAILABLE");
    expect(error).toMatchObject({ notReady: ["store"], cause: adapter.failure });
    expect(error.message).toContain("The store does not answer");
    const keys = new TestKeys(newRing());
    keys.fail(unavailable);
    const both = await expectRefusal(new EncryptedStore(adapter, { keys }).ready(), "STORE_UNAVAILABLE");
    expect(both.notReady).toEqual(["store", "keys"]);
    expect(both.errors?.map(({ code }) => code)).toEqual(["STORE_UNAVAILABLE", "PROVIDER_UNAVAILABLE"]);
    expect(both.message).toContain("The keys cannot be loaded: The vault is sealed");
    expect(both.hint).toContain("Unseal the vault.");
    adapter.failure = undefined;
    await store.ready();
  });

  it("rejects after timeoutMs if the store never answers, even if only the reserved space does not answer", async () => {
    const never = () => new Promise<never>(() => undefined);
    const records = new MemoryStore();
    records.get = never;
    const reserved = new MemoryStore();
    reserved.reserved().get = never;
    for (const inner of [records, reserved]) {
      const store = new EncryptedStore(inner, { keys: newRing() });
      const error = await expectRefusal(store.ready({ timeoutMs: 30 }), "STORE_UNAVAILABLE");
      expect(error.notReady).toEqual(["store"]);
      expect(error.message).toContain("did not answer within 30 ms");
    }
  });

  it("names the keys and the store if the keyring is in the store and the store fails", async () => {
    const inner = new MemoryStore();
    inner.get = () => Promise.reject(new Error("connection refused"));
    inner.reserved().get = () => Promise.reject(new Error("connection refused"));
    const wrapper = { wrap: async () => "", unwrap: async () => Buffer.of() };
    const keys = wrappedKeys(wrapper, storeLocation(inner), { name: "keyring" });
    const error = await expectRefusal(new EncryptedStore(inner, { keys }).ready(), "STORE_UNAVAILABLE");
    expect(error.notReady).toEqual(["store", "keys"]);
  });

  it("leaves the namespace free for a library that assigns its own namespace before the first call", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing(), namespace: "own" });
    await keyv.ready();
    keyv.namespace = "library";
    await keyv.set("key", value);
    expect(await keyv.get("key")).toBe(value);
    const store = new EncryptedStore(new LeastKeyv5Adapter(), { keys: newRing() });
    await store.ready();
    store.namespace = "library";
    await store.set("key", value);
    expect(await store.get("key")).toBe(value);
  });

  it("rejects if another Keyv uses the same adapter with another namespace, as every call would", async () => {
    const adapter = new KeyvMemoryAdapter(new Map());
    const keys = newRing();
    await createKeyv({ store: adapter, keys, namespace: "a" }).set("key", value);
    const error = await expectRefusal(
      createKeyv({ store: adapter, keys, namespace: "b" }).ready(),
      "NAMESPACE_CONFLICT",
    );
    expect(error).toMatchObject({ notReady: ["store"], namespace: "b" });
  });

  it("emits no event 'error' if it rejects", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: { load: () => Promise.reject(unavailable) } });
    const errors: unknown[] = [];
    keyv.on("error", (error) => errors.push(error));
    await expectRefusal(keyv.ready(), "PROVIDER_UNAVAILABLE");
    expect(errors).toEqual([]);
  });
});

const servers = await findRedisServers();
describeWithRedis(servers, "a store over Redis", () => {
  it("ready() rejects while the Redis server is down, and resolves when the server is back", async () => {
    const server = await startRedis(servers);
    onTestFinished(() => server.stop());
    const store = new RedisStore(server.url, { timeoutMs: 500 });
    const keyv = createKeyv({ store, keys: newRing(), namespace: "flows" });
    keyv.encryptedStore.on("store:error", () => undefined);
    await keyv.ready();
    await server.kill();
    const error = await expectRefusal(keyv.ready(), "STORE_UNAVAILABLE");
    expect(error.notReady).toEqual(["store"]);
    await server.restart();
    await expect.poll(() => keyv.ready().then(() => "ready", String), { timeout: 10_000 }).toBe("ready");
    expect(await server.command("DBSIZE")).toBe(0);
    await keyv.disconnect();
  });
});
