import { EventEmitter } from "node:events";
import { createKeyv, EncryptedStore, type KeyProvider, replicas, type WrappableStore } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { KeyvBridgeAdapter, KeyvMemoryAdapter } from "keyv";
import { describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, TestKeys } from "../rings.ts";
import { marker } from "../secrets.ts";
import { BreakableAdapter, LeastKeyv5Adapter } from "./inner-stores.ts";

const value = `${marker}value`;
const illFormed = "\ud800";

/** A Keyv 5 adapter that is an EventEmitter of Node.js, as in Keyv 5. It warns if it has more than ten listeners. */
class EmittingKeyv5Adapter extends LeastKeyv5Adapter {
  readonly #emitter = new EventEmitter();

  on(event: string, listener: (...details: unknown[]) => void): unknown {
    return this.#emitter.on(event, listener);
  }

  off(event: string, listener: (...details: unknown[]) => void): unknown {
    return this.#emitter.off(event, listener);
  }

  listeners(event: string): unknown[] {
    return this.#emitter.listeners(event);
  }

  emit(event: string, ...details: unknown[]): boolean {
    return this.#emitter.emit(event, ...details);
  }
}

interface Emitting {
  listeners(event: string): unknown[] | undefined;
  emit(event: string, ...details: unknown[]): boolean;
}

const emitting: Readonly<Record<string, () => WrappableStore & Emitting>> = {
  "Keyv 6 adapter": () => new KeyvMemoryAdapter(new Map()),
  "Keyv 5 adapter": () => new EmittingKeyv5Adapter(),
  "bridge of Keyv": () => new KeyvBridgeAdapter(new LeastKeyv5Adapter()),
};

describe.each(Object.entries(emitting))("the error listeners on a %s", (_, open) => {
  it("consist of one listener for all stores over the adapter, and report nothing after all stores have disconnected", async () => {
    const warned = vi.spyOn(process, "emitWarning");
    try {
      const inner = open();
      const before = inner.listeners("error")?.length ?? 0;
      const keys = newRing();
      const stores = Array.from({ length: 30 }, () => new EncryptedStore(inner, { keys }));
      expect(inner.listeners("error")).toHaveLength(before + 1);
      const emitted: unknown[] = [];
      for (const store of stores) store.on("store:error", (error: unknown) => emitted.push(error));
      const lost = new Error("connection lost");
      inner.emit("error", lost);
      expect(emitted).toEqual(stores.map(() => lost));
      for (const store of stores) await store.disconnect();
      // An error without any listener would end the process, so one listener stays.
      expect(() => inner.emit("error", new Error("late"))).not.toThrow();
      expect(inner.listeners("error") ?? []).toHaveLength(before + 1);
      expect(emitted).toHaveLength(stores.length);
      expect(warned).not.toHaveBeenCalled();
    } finally {
      warned.mockRestore();
    }
  });

  it("are added again if a store is used again after disconnect()", async () => {
    const inner = open();
    const store = new EncryptedStore(inner, { keys: newRing() });
    await store.disconnect();
    await store.get("key");
    const emitted: unknown[] = [];
    store.on("store:error", (error: unknown) => emitted.push(error));
    const lost = new Error("connection lost");
    inner.emit("error", lost);
    expect(emitted).toEqual([lost]);
    await store.disconnect();
  });
});

describe("a constructor that throws", () => {
  const invalid = { code: "VALUE_INVALID" };
  const attempts: readonly [string, object, (store: WrappableStore, keys: KeyProvider) => unknown][] = [
    [
      "createKeyv with an ill-formed namespace",
      invalid,
      (store, keys) => createKeyv({ store, keys, namespace: illFormed }),
    ],
    [
      "createKeyv of a process, with an ill-formed namespace",
      invalid,
      (store, keys) => createKeyv({ store, keys, namespace: illFormed, replica: { heartbeatMs: 10 } }),
    ],
    [
      "createKeyv with options that throw",
      { message: "an option that throws" },
      (store, keys) =>
        createKeyv({
          store,
          keys,
          replica: { heartbeatMs: 10 },
          get sanitize(): never {
            throw new Error("an option that throws");
          },
        }),
    ],
    [
      "an EncryptedStore with an invalid padTo",
      invalid,
      (store, keys) => new EncryptedStore(store, { keys, padTo: -1 }),
    ],
    [
      "an EncryptedStore with an unknown value of reencrypt",
      invalid,
      (store, keys) =>
        Reflect.construct(EncryptedStore, [store, { keys, replica: { heartbeatMs: 10 }, reencrypt: "sometimes" }]),
    ],
  ];

  it.each(attempts)("leaves no listener, heartbeat or connection behind: %s", async (_, refused, attempt) => {
    const inner = new MemoryStore();
    let disconnected = 0;
    inner.disconnect = async () => {
      disconnected++;
    };
    const keys = new TestKeys(newRing());
    const witness = createKeyv({ store: inner, keys, namespace: "a", replica: { name: "witness", heartbeatMs: 10 } });
    await witness.set("key", value);
    for (let round = 0; round < 3; round++) {
      expect(() => attempt(inner, keys)).toThrow(expect.objectContaining(refused));
    }
    expect(inner.listeners("error") ?? []).toHaveLength(0);
    expect((await replicas(witness.encryptedStore)).map(({ name }) => name)).toEqual(["witness"]);
    await witness.disconnect();
    // No failed store counts as a user of the store, the keys or the registration.
    expect(disconnected).toBe(1);
    expect(keys.watchers).toBe(0);
    expect(inner.listeners("error") ?? []).toHaveLength(0);
    const later = new EncryptedStore(inner, { keys });
    expect(await replicas(later)).toEqual([]);
    await later.disconnect();
  });

  it("leaves no listener behind if the store cannot replace a record atomically", async () => {
    const inner = new KeyvMemoryAdapter(new Map());
    const keys = new TestKeys(newRing());
    await expectRefusal(() => new EncryptedStore(inner, { keys, reencrypt: "on-read" }), "STORE_NOT_ATOMIC");
    expect(keys.watchers).toBe(0);
    expect(inner.listeners("error") ?? []).toHaveLength(0);
  });

  it("leaves no listener behind if subscribing to the key provider fails", async () => {
    const inner = new MemoryStore();
    const keys = new TestKeys(newRing(), { refreshMs: 1 });
    const subscribe = keys.subscribe.bind(keys);
    keys.subscribe = () => {
      throw new Error("no subscriptions today");
    };
    const make = () => new EncryptedStore(inner, { keys, replica: { heartbeatMs: 10 } });
    expect(make).toThrow("no subscriptions today");
    expect(inner.listeners("error") ?? []).toHaveLength(0);
    keys.subscribe = subscribe;
    const store = make();
    await store.set("key", value);
    expect(keys.watchers).toBe(1);
    await store.disconnect();
    expect(keys.watchers).toBe(0);
    const loads = keys.loads;
    // Another key source is loaded in the meantime. This one would be loaded too, if the store still listened to it.
    const other = new TestKeys(newRing(), { refreshMs: 1 });
    const witness = new EncryptedStore(new MemoryStore(), { keys: other });
    await witness.set("key", value);
    await expect.poll(() => other.loads).toBeGreaterThan(5);
    await witness.disconnect();
    expect(keys.loads).toBe(loads);
  });
});

describe("disconnect()", () => {
  it("ends the heartbeat and disconnects the store even if a listener of the application throws", async () => {
    const inner = new MemoryStore();
    let disconnected = 0;
    inner.disconnect = async () => {
      disconnected++;
    };
    const keys = new TestKeys(newRing());
    const keyv = createKeyv({ store: inner, keys, replica: { heartbeatMs: 10 } });
    await keyv.set("key", value);
    keyv.on("disconnect", () => {
      throw new Error("a listener of the application");
    });
    await expect(keyv.disconnect()).rejects.toThrow("a listener of the application");
    expect(disconnected).toBe(1);
    expect(keys.watchers).toBe(0);
    const later = new EncryptedStore(inner, { keys: newRing() });
    expect(await replicas(later)).toEqual([]);
    await later.disconnect();
  });

  it("removes all listeners even if the store cannot be disconnected, and tries again to disconnect it at the next call", async () => {
    const inner = new BreakableAdapter(new Map());
    const keys = new TestKeys(newRing());
    const keyv = createKeyv({ store: inner, keys });
    await keyv.set("key", value);
    inner.failure = new Error("the server hangs");
    const error = await expectRefusal(keyv.disconnect(), "STORE_UNAVAILABLE");
    expect(error.cause).toBe(inner.failure);
    expect(keys.watchers).toBe(0);
    expect(inner.listeners("error") ?? []).toHaveLength(1);
    await expectRefusal(keyv.disconnect(), "STORE_UNAVAILABLE");
    inner.failure = undefined;
    await keyv.disconnect();
  });

  it.each([false, { heartbeatMs: 10 }])(
    "disconnects the store even if ending the subscription to the key provider fails, with the option replica: %j",
    async (replica) => {
      const inner = new MemoryStore();
      let disconnected = 0;
      inner.disconnect = async () => {
        disconnected++;
      };
      const ring = newRing();
      const keys: KeyProvider = {
        load: async () => ring,
        subscribe: () => () => {
          throw new Error("it has ended");
        },
      };
      const store = new EncryptedStore(inner, { keys, replica });
      const failed: unknown[] = [];
      store.on("replica:error", (error: unknown) => failed.push(error));
      await store.set("key", value);
      const outcome = await Promise.allSettled([store.disconnect()]);
      // The last listener ends the subscription. If the store is a replica, that is the registration, whose error is an event.
      if (replica === false) expect(outcome).toMatchObject([{ reason: { message: "it has ended" } }]);
      else expect(failed).toMatchObject([{ cause: { message: "it has ended" } }]);
      expect(disconnected).toBe(1);
      expect(inner.listeners("error") ?? []).toHaveLength(1);
      const later = new EncryptedStore(inner, { keys: newRing() });
      expect(await replicas(later)).toEqual([]);
      await later.disconnect();
    },
  );

  it("disconnects the store once if it is called twice at the same time", async () => {
    const inner = new MemoryStore();
    let disconnected = 0;
    inner.disconnect = async () => {
      disconnected++;
    };
    const store = new EncryptedStore(inner, { keys: newRing() });
    await Promise.all([store.disconnect(), store.disconnect()]);
    expect(disconnected).toBe(1);
  });

  it("disconnects the store again if the store was used while disconnect() was in progress", async () => {
    const inner = new MemoryStore();
    let begun = 0;
    const going = Promise.withResolvers<void>();
    inner.disconnect = async () => {
      begun++;
      await going.promise;
    };
    const keys = new TestKeys(newRing());
    const store = new EncryptedStore(inner, { keys });
    const first = store.disconnect();
    await expect.poll(() => begun).toBe(1);
    await store.get("key");
    const others = [store.disconnect(), store.disconnect()];
    going.resolve();
    await Promise.all([first, ...others]);
    expect(begun).toBe(2);
    expect(keys.watchers).toBe(0);
    expect(inner.listeners("error") ?? []).toHaveLength(1);
  });
});

describe("a Keyv that createKeyv made", () => {
  it("throws if another store is assigned to it, because records there would not be encrypted", async () => {
    const inner = new MemoryStore();
    const keyv = createKeyv({ store: inner, keys: newRing() });
    await keyv.set("key", value);
    for (const other of [new Map(), new MemoryStore(), new EncryptedStore(new Map(), { keys: newRing() })]) {
      await expectRefusal(() => {
        keyv.store = other;
      }, "STORE_INVALID");
      await expectRefusal(() => keyv.setStore(other), "STORE_INVALID");
    }
    expect(keyv.store).toBe(keyv.encryptedStore);
    expect(await keyv.get("key")).toBe(value);
  });

  it("throws if checkExpired is set to true", async () => {
    const keyv = createKeyv({ store: new Map(), keys: newRing() });
    await expectRefusal(() => {
      keyv.checkExpired = true;
    }, "VALUE_INVALID");
    keyv.checkExpired = false;
    expect(keyv.checkExpired).toBe(false);
  });

  it("rejects a write under an empty key, under which Keyv itself would store nothing", async () => {
    const inner = new MemoryStore();
    const keyv = createKeyv({ store: inner, keys: newRing() });
    const emitted: unknown[] = [];
    keyv.on("error", (error: unknown) => emitted.push(error));
    const writes = [
      () => keyv.set("", value),
      () => keyv.setMany(["good", ""].map((key) => ({ key, value }))),
      () => keyv.setRaw("", { value }),
      () => keyv.setManyRaw(["good", ""].map((key) => ({ key, value: { value } }))),
    ];
    for (const write of writes) {
      const error = await expectRefusal(write, "VALUE_INVALID");
      expect(emitted.splice(0)).toEqual([error]);
    }
    expect((await inner.scan()).entries).toEqual([]);
    expect(await keyv.get("")).toBeUndefined();
    expect(await keyv.has("")).toBe(false);
    expect(await keyv.delete("")).toBe(false);
  });

  it("rejects a write under a key that the option sanitize makes empty", async () => {
    const keyv = createKeyv({ store: new Map(), keys: newRing(), sanitize: { keys: true } });
    await expectRefusal(keyv.set("../", value), "VALUE_INVALID");
    await keyv.set("a../b", value);
    expect(await keyv.get("a../b")).toBe(value);
  });
});
