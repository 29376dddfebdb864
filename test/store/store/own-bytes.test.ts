import {
  createKeyv,
  EncryptedStore,
  Keyring,
  type KeyringWrapper,
  reencrypt,
  storeLocation,
  wrappedKeys,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished } from "vitest";
import { newRing, rotation } from "../rings.ts";

// A small Buffer of Node.js is a view of a pool, and its `buffer` exposes the bytes of other Buffers.

/** Returns every array of bytes in the arguments of a call. */
function bytesIn(given: unknown): Uint8Array[] {
  if (given instanceof Uint8Array) return [given];
  return typeof given === "object" && given !== null ? Object.values(given).flatMap(bytesIn) : [];
}

/** A store that records the bytes which are passed to it and to its reserved space. */
function watched(store: MemoryStore, seen: Uint8Array[]): MemoryStore {
  const watch = <Target extends object>(target: Target): Target =>
    new Proxy(target, {
      get(object, name) {
        const member: unknown = Reflect.get(object, name, object);
        if (typeof member !== "function") return member;
        return (...given: unknown[]): unknown => {
          seen.push(...bytesIn(given));
          const result: unknown = Reflect.apply(member, object, given);
          return (name === "reserved" || name === "namespaced") && typeof result === "object" && result !== null
            ? watch(result)
            : result;
        };
      },
      set: (object, name, value) => Reflect.set(object, name, value, object),
    });
  return watch(store);
}

function expectOwn(seen: readonly Uint8Array[]): void {
  expect(seen.length).toBeGreaterThan(0);
  for (const bytes of seen) expect(bytes.buffer.byteLength).toBe(bytes.byteLength);
}

describe("bytes that core passes on", () => {
  it("do not share memory with other Buffers if a store gets them as records, heartbeats or check records", async () => {
    const seen: Uint8Array[] = [];
    const inner = watched(new MemoryStore(), seen);
    const { before, promoted } = rotation();
    const replica = { heartbeatMs: 20, lapseMs: 200 };
    const keyv = createKeyv({ store: inner, keys: before, replica });
    onTestFinished(() => keyv.disconnect());
    await keyv.set("key", { value: "x" });
    await keyv.setMany([{ key: "other", value: "y" }]);
    const store = new EncryptedStore(inner, { keys: promoted, padTo: 64 });
    await store.set("bytes", new Uint8Array(100));
    await store.setMany([{ key: "many", value: "z".repeat(5_000), expires: Date.now() + 60_000 }]);
    await store.get("key");
    await store.settled();
    await reencrypt(store);
    expect(seen.length).toBeGreaterThan(6);
    expectOwn(seen);
  });

  it("do not share memory with other Buffers if a caller gets them as a value", async () => {
    const store = new EncryptedStore(new MemoryStore(), { keys: newRing("key") });
    await store.set("key", new Uint8Array(100).fill(7));
    const found = await store.get("key");
    if (!(found instanceof Uint8Array)) throw new Error("no bytes");
    // The buffer also contains the flags, which precede the value in an envelope.
    expect(found.buffer.byteLength - found.byteLength).toBeLessThan(32);
  });

  it("do not share memory with other Buffers if a key service gets them as a keyring", async () => {
    const seen: Uint8Array[] = [];
    const wrapper: KeyringWrapper = {
      wrap: async (document) => {
        seen.push(document);
        return Buffer.from(document).toString("base64");
      },
      unwrap: async (wrapped) => new Uint8Array(Buffer.from(wrapped, "base64")),
    };
    await wrappedKeys(wrapper, storeLocation(new MemoryStore())).create(Keyring.generate("key"));
    expectOwn(seen);
  });
});

it("plaintext is not left in the pool that all small Buffers share", async () => {
  const mark = ["PLAIN", "TEXT", "MARK"].join("-");
  const text = `{"password":"${mark}"}`;
  // Every layout of a plaintext: text or bytes, an expiry or none, padding or none.
  for (const inner of [new MemoryStore(), new Map<string, unknown>()]) {
    const keys = newRing("key");
    for (const padding of [{}, { padTo: 64 }]) {
      const store = new EncryptedStore(inner, { keys, ...padding });
      for (const value of [text, new TextEncoder().encode(text)]) {
        for (const expires of [undefined, Date.now() + 60_000]) {
          for (let count = 0; count < 5; count++) await store.set("key", value, expires);
          const pool = Buffer.from(Buffer.from("x").buffer);
          expect(pool.byteLength).toBeGreaterThan(1_000);
          expect(pool.includes(mark)).toBe(false);
        }
      }
    }
  }
});
