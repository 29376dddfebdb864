import { EncryptedStore, type KeywardError, type ReencryptEvent, type Repetition } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { KeyvMemoryAdapter } from "keyv";
import { expect, it, vi } from "vitest";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { marker } from "../secrets.ts";
import { WatchedStore } from "./inner-stores.ts";

const value = `${marker}value`;

/** A store whose heartbeats fail after a test has set its failure. */
class SilentStore extends MemoryStore {
  failure: Error | undefined;
  attempts = 0;

  override reserved() {
    const space = super.reserved();
    const { set } = MemoryStore.prototype;
    space.set = async (key: string, stored: unknown, expires?: number) => {
      if (key.startsWith("replica/")) this.attempts++;
      if (this.failure !== undefined) throw this.failure;
      return await Reflect.apply(set, space, [key, stored, expires]);
    };
    return space;
  }
}

it("a heartbeat that fails repeatedly is reported once, and again if it fails after a success", async () => {
  const inner = new SilentStore();
  const store = new EncryptedStore(inner, { keys: newRing(), replica: { heartbeatMs: 10, lapseMs: 60_000 } });
  await store.set("key", value);
  const reported: { readonly error: KeywardError; readonly times: number }[] = [];
  store.on("replica:error", (error: KeywardError, { times }: Repetition) => reported.push({ error, times }));
  for (const round of [1, 2]) {
    inner.failure = new Error("the disk is gone");
    const before = inner.attempts;
    await vi.waitFor(() => expect(inner.attempts).toBeGreaterThan(before + 5), { timeout: 10_000 });
    expect(reported).toHaveLength(round);
    expect(reported.at(-1)).toMatchObject({ times: 1, error: { code: "STORE_UNAVAILABLE" } });
    inner.failure = undefined;
    const failed = inner.attempts;
    await vi.waitFor(() => expect(inner.attempts).toBeGreaterThan(failed + 3), { timeout: 10_000 });
  }
  await store.disconnect();
});

it("each different error of a key provider is reported once", async () => {
  const keys = new TestKeys(newRing());
  const store = new EncryptedStore(new MemoryStore(), { keys });
  await store.set("key", value);
  const reported: unknown[] = [];
  store.on("provider:error", ({ cause }: KeywardError) => reported.push(cause));
  const [first, second] = [new Error("refused"), new Error("no route")];
  for (const failure of [first, first, second, second, first]) {
    keys.fail(failure);
    const { loads } = keys;
    keys.push(newRing());
    await vi.waitFor(() => expect(keys.loads).toBeGreaterThan(loads), { timeout: 30_000 });
  }
  expect(reported).toEqual([first, second]);
  await store.disconnect();
});

it("an error that an adapter emits repeatedly is reported once", async () => {
  const inner = new KeyvMemoryAdapter(new Map());
  const store = new EncryptedStore(inner, { keys: newRing() });
  const reported: unknown[] = [];
  store.on("store:error", (error: unknown) => reported.push(error));
  const [lost, refused] = [new Error("connection lost"), new Error("login refused")];
  for (const error of [lost, lost, lost, refused, lost]) inner.emit("error", error);
  expect(reported).toEqual([lost, refused]);
  await store.disconnect();
});

it("a lazy re-encryption that fails repeatedly is reported only for the first record, and again after a success", async () => {
  const { before, promoted } = rotation();
  const inner = new WatchedStore();
  const keys = ["a", "b", "c"];
  await new EncryptedStore(inner, { keys: before }).setMany(keys.map((key) => ({ key, value })));
  const store = new EncryptedStore(inner, { keys: promoted });
  const reported: ReencryptEvent[] = [];
  store.on("reencrypt:error", (event: ReencryptEvent) => reported.push(event));
  const fail = async () => {
    throw new Error("the disk is gone");
  };
  inner.beforeReplace = fail;
  for (const key of keys) {
    await store.get(key);
    await store.settled();
  }
  expect(reported).toMatchObject([{ key: "a", from: "old", to: "new", error: { code: "STORE_UNAVAILABLE" } }]);
  inner.beforeReplace = undefined;
  await store.get("a");
  await store.settled();
  inner.beforeReplace = fail;
  await store.get("b");
  await store.settled();
  expect(reported.map(({ key }) => key)).toEqual(["a", "b"]);
  await store.disconnect();
});

it("a listener that throws repeatedly causes one warning", async () => {
  const warned = vi.spyOn(process, "emitWarning").mockImplementation(() => undefined);
  try {
    const inner = new KeyvMemoryAdapter(new Map());
    const store = new EncryptedStore(inner, { keys: newRing() });
    store.on("store:error", () => {
      throw new Error("a listener of the application");
    });
    for (let count = 0; count < 20; count++) inner.emit("error", new Error(`error ${count}`));
    expect(warned).toHaveBeenCalledTimes(1);
    await store.disconnect();
  } finally {
    warned.mockRestore();
  }
});
