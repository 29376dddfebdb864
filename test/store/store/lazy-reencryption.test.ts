import { createCipheriv, createHash, randomBytes } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import { aesGcm, EncryptedStore, Keyring, KeywardError, plaintext, type ReencryptEvent } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { KeyvMemoryAdapter } from "keyv";
import { describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { expectNoSecrets, marker } from "../secrets.ts";
import { keyIdIn, LeastKeyv5Adapter, WatchedStore } from "./inner-stores.ts";

const value = `${marker}value`;

interface EmittedEvent extends ReencryptEvent {
  readonly event: string;
}

/** Collects the events of lazy re-encryption, and checks that none shows a secret. */
function listen(store: EncryptedStore): EmittedEvent[] {
  const emitted: EmittedEvent[] = [];
  for (const event of ["reencrypted", "reencrypt:conflict", "reencrypt:error"]) {
    store.on(event, (details: ReencryptEvent) => {
      expectNoSecrets(details);
      emitted.push({ event, ...details });
    });
  }
  return emitted;
}

/** Returns a backend with records under the old key, and a store whose primary is the new key. */
async function rotated(keys: readonly string[], expires?: number) {
  const { before, promoted } = rotation();
  const inner = new WatchedStore();
  const writer = new EncryptedStore(inner, { keys: before });
  await writer.setMany(keys.map((key) => ({ key, value, ...(expires === undefined ? {} : { expires }) })));
  const store = new EncryptedStore(inner, { keys: promoted });
  inner.calls.length = 0;
  return { inner, writer, store, emitted: listen(store), before, promoted };
}

describe("a record under an older key", () => {
  it("is returned by a read before it is re-encrypted in the background", async () => {
    const { inner, store, emitted } = await rotated(["key"]);
    const held = Promise.withResolvers<void>();
    inner.beforeReplace = () => held.promise;
    expect(await store.get("key")).toBe(value);
    expect(keyIdIn(await inner.get("key"))).toBe("old");
    let settled = false;
    const settling = store.settled().then(() => {
      settled = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(settled).toBe(false);
    held.resolve();
    await settling;
    expect(keyIdIn(await inner.get("key"))).toBe("new");
    expect(await store.get("key")).toBe(value);
    expect(emitted).toEqual([{ event: "reencrypted", namespace: "", key: "key", from: "old", to: "new" }]);
  });

  it.each(["get", "has", "getMany", "hasMany", "iterator"])("is re-encrypted after a read with %s", async (call) => {
    const { inner, store } = await rotated(["key"]);
    if (call === "get") await store.get("key");
    else if (call === "has") await store.has("key");
    else if (call === "getMany") await store.getMany(["key"]);
    else if (call === "hasMany") await store.hasMany(["key"]);
    else for await (const _ of store.iterator());
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("new");
  });

  it("is re-encrypted together with the other records of its batch, in one call to the store", async () => {
    const keys = Array.from({ length: 20 }, (_, index) => `key ${index}`);
    const { inner, store, emitted } = await rotated(keys);
    await store.getMany(keys);
    await store.settled();
    expect(inner.calls).toEqual(["getMany", "replaceMany"]);
    expect(emitted.map(({ key }) => key).sort()).toEqual(keys.sort());
  });

  it("is re-encrypted once, even if it is read again during its re-encryption", async () => {
    const { inner, store, emitted } = await rotated(["key"]);
    const held = Promise.withResolvers<void>();
    inner.beforeReplace = () => held.promise;
    await Promise.all(Array.from({ length: 50 }, () => store.get("key")));
    await vi.waitFor(() => expect(inner.calls).toContain("replaceMany"), 20_000);
    await Promise.all(Array.from({ length: 50 }, () => store.get("key")));
    held.resolve();
    await store.settled();
    expect(inner.calls.filter((call) => call === "replaceMany")).toHaveLength(1);
    expect(emitted).toHaveLength(1);
  });

  it("is not re-encrypted if its key is disabled while the record is queued", async () => {
    const { before, promoted, disabled } = rotation();
    const inner = new WatchedStore();
    await new EncryptedStore(inner, { keys: before }).setMany(["first", "forged"].map((key) => ({ key, value })));
    const keys = new TestKeys(promoted);
    const store = new EncryptedStore(inner, { keys });
    const held = Promise.withResolvers<void>();
    inner.beforeReplace = () => held.promise;
    await store.get("first");
    await vi.waitFor(() => expect(inner.calls).toContain("replaceMany"), 20_000);
    await store.get("forged");
    const changed = new Promise((resolve) => store.once("keyring:changed", resolve));
    keys.push(disabled);
    await changed;
    held.resolve();
    await store.settled();
    expect(keyIdIn(await inner.get("forged"))).toBe("old");
    await expectRefusal(store.get("forged"), "KEY_DISABLED");
    await store.disconnect();
  });

  it("keeps its expiry in the envelope and in the backend when it is re-encrypted", async () => {
    const expires = Date.now() + 3_600_000;
    const { inner, store } = await rotated(["key"], expires);
    await store.get("key");
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("new");
    vi.useFakeTimers({ toFake: ["Date"], now: expires - 1 });
    try {
      expect(await store.get("key")).toBe(value);
      vi.setSystemTime(expires);
      expect(await inner.get("key")).toBeUndefined();
      expect(await store.get("key")).toBeUndefined();
    } finally {
      vi.useRealTimers();
    }
  });

  it("is not re-encrypted if it has expired", async () => {
    const { before, promoted } = rotation();
    const inner = new WatchedStore();
    const now = Date.now();
    await new EncryptedStore(inner, { keys: before }).set("key", value, now + 1_000);
    await inner.set("key", await inner.get("key"));
    vi.useFakeTimers({ toFake: ["Date"], now: now + 1_000 });
    try {
      const store = new EncryptedStore(inner, { keys: promoted });
      expect(await store.get("key")).toBeUndefined();
      await store.settled();
    } finally {
      vi.useRealTimers();
    }
    expect(keyIdIn(await inner.get("key"))).toBe("old");
  });

  it("is not re-encrypted if its key is disabled", async () => {
    const { before, disabled } = rotation();
    const inner = new WatchedStore();
    await new EncryptedStore(inner, { keys: before }).set("key", value);
    const store = new EncryptedStore(inner, { keys: disabled });
    await expectRefusal(store.get("key"), "KEY_DISABLED");
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("old");
  });

  it("is not re-encrypted if lazy re-encryption is off", async () => {
    const { inner, promoted } = await rotated(["key"]);
    const store = new EncryptedStore(inner, { keys: promoted, reencrypt: "off" });
    await store.get("key");
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("old");
  });
});

describe("lazy re-encryption, if a record changes between its read and its replacement,", () => {
  it("keeps a write of another value", async () => {
    const { inner, writer, store, emitted } = await rotated(["key", "other"]);
    inner.beforeReplace = async () => {
      inner.beforeReplace = undefined;
      await writer.set("key", `${value} newer`);
    };
    await store.getMany(["key", "other"]);
    await store.settled();
    expect(await writer.get("key")).toBe(`${value} newer`);
    expect(keyIdIn(await inner.get("other"))).toBe("new");
    expect(emitted.map(({ event, key, from, to }) => [event, key, from, to]).sort()).toEqual([
      ["reencrypt:conflict", "key", "old", "new"],
      ["reencrypted", "other", "old", "new"],
    ]);
    // The next read starts another attempt.
    expect(await store.get("key")).toBe(`${value} newer`);
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("new");
  });

  it("keeps a write of the same value", async () => {
    const { inner, writer, store, emitted } = await rotated(["key"]);
    inner.beforeReplace = async () => {
      await writer.set("key", value, Date.now() + 50_000);
    };
    await store.get("key");
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("old");
    expect(emitted).toMatchObject([{ event: "reencrypt:conflict" }]);
  });

  it.each(["delete", "clear", "expiry"])("keeps the record absent after a %s", async (how) => {
    const { inner, writer, store, emitted } = await rotated(["key"]);
    inner.beforeReplace = async () => {
      if (how === "delete") await writer.delete("key");
      else if (how === "clear") await writer.clear();
      else await writer.set("key", value, 1);
    };
    await store.get("key");
    await store.settled();
    expect(await inner.get("key")).toBeUndefined();
    expect(emitted).toMatchObject([{ event: "reencrypt:conflict" }]);
  });
});

describe("a lazy re-encryption that fails", () => {
  it("emits reencrypt:error, although the read returned the value", async () => {
    const { inner, store, emitted } = await rotated(["key"]);
    inner.beforeReplace = () => Promise.reject(new Error("the disk is full"));
    expect(await store.get("key")).toBe(value);
    await store.settled();
    expect(emitted).toMatchObject([{ event: "reencrypt:error", key: "key", from: "old", to: "new" }]);
    expect(emitted[0]?.error).toBeInstanceOf(KeywardError);
    inner.beforeReplace = undefined;
    expect(await store.get("key")).toBe(value);
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("new");
  });

  it("causes no unhandled rejection if a listener throws", async () => {
    const { inner, store } = await rotated(["one", "two"]);
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => unhandled.push(reason);
    // Replaces the listeners of the test runner, which would end the run.
    const before = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    process.on("unhandledRejection", note);
    try {
      for (const event of ["reencrypted", "reencrypt:conflict", "reencrypt:error"]) {
        store.on(event, () => {
          throw new Error("a listener of the application is broken");
        });
      }
      expect(await store.get("one")).toBe(value);
      await store.settled().catch(() => undefined);
      expect(await store.get("two")).toBe(value);
      await store.settled();
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    } finally {
      process.off("unhandledRejection", note);
      for (const listener of before) process.on("unhandledRejection", listener);
    }
    expect(keyIdIn(await inner.get("two"))).toBe("new");
    expect(unhandled).toEqual([]);
  });
});

it("a record that does not fit in the queue of lazy re-encryption is re-encrypted after its next read", async () => {
  const keys = Array.from({ length: 1_500 }, (_, index) => `key ${index}`);
  const { inner, store, emitted } = await rotated(keys);
  expect(await store.getMany(keys)).toHaveLength(1_500);
  await store.settled();
  expect(emitted.length).toBeLessThan(1_500);
  expect(emitted.length).toBeGreaterThanOrEqual(1_000);
  await store.getMany(keys);
  await store.settled();
  for (const key of keys) expect(keyIdIn(await inner.get(key))).toBe("new");
});

describe("lazy re-encryption, between two batches,", () => {
  async function reading() {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    // Encrypting the first record takes long enough for the longest pause.
    const large = marker.padEnd(2 ** 22, "x");
    const keys = Array.from({ length: 40 }, (_, index) => `key ${index}`);
    const writer = new EncryptedStore(inner, { keys: before });
    await writer.setMany(keys.map((key, index) => ({ key, value: index === 0 ? large : value })));
    const store = new EncryptedStore(inner, { keys: promoted });
    let count = 0;
    store.on("reencrypted", () => count++);
    const readAtMs = performance.now();
    await store.getMany(keys);
    const countAfterTurns = async () => {
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
      return count;
    };
    /** Returns true if the pause of one second cannot have ended yet. */
    const isPausing = () => performance.now() - readAtMs < 1_000;
    return { writer, store, emitted: listen(store), countAfterTurns, isPausing };
  }

  it("pauses so that reads are not delayed, until settled() is called", async () => {
    let round: Awaited<ReturnType<typeof reading>>;
    let first: number;
    do {
      round = await reading();
      first = await round.countAfterTurns();
    } while (!round.isPausing());
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThan(40);
    const { store, countAfterTurns } = round;
    const settling = store.settled();
    expect(await countAfterTurns()).toBe(40);
    await settling;
  });

  it("keeps the new value if a queued record is overwritten, even if a read follows", async () => {
    // Repeated if the machine was too busy to write during the pause.
    let round: Awaited<ReturnType<typeof reading>>;
    do {
      round = await reading();
      await round.countAfterTurns();
      await round.writer.set("key 39", "another value");
      expect(await round.store.get("key 39")).toBe("another value");
    } while (!round.isPausing());
    const { store, emitted } = round;
    await store.settled();
    expect(emitted.filter(({ event }) => event !== "reencrypted")).toEqual([]);
    expect(emitted.map(({ key }) => key)).toContain("key 39");
    expect(await store.get("key 39")).toBe("another value");
  });

  it("does not pause while a caller waits for settled()", async () => {
    const { store, countAfterTurns } = await reading();
    const settling = store.settled();
    expect(await countAfterTurns()).toBe(40);
    await settling;
  });
});

it("lazy re-encryption uses the keyring that is in use when the record is replaced, not when it was read", async () => {
  const { before, promoted } = rotation();
  const third = promoted.add({ id: "third" }).promote("third");
  const inner = new WatchedStore();
  await new EncryptedStore(inner, { keys: before }).set("key", value);
  const keys = new TestKeys(promoted);
  const store = new EncryptedStore(inner, { keys });
  const changed = new Promise((resolve) => store.once("keyring:changed", resolve));
  expect(await store.get("key")).toBe(value);
  keys.push(third);
  await changed;
  await store.settled();
  expect(["new", "third"]).toContain(keyIdIn(await inner.get("key")));
  expect(await store.get("key")).toBe(value);
  await store.settled();
  expect(keyIdIn(await inner.get("key"))).toBe("third");
});

describe("a store that cannot replace atomically", () => {
  it.each([
    ["Keyv 6", () => new KeyvMemoryAdapter(new Map())],
    ["Keyv 5", () => new LeastKeyv5Adapter()],
  ] as const)(
    'does not get its records re-encrypted by default, and is refused with reencrypt: "on-read": %s',
    async (_, open) => {
      const { before, promoted } = rotation();
      const inner = open();
      await new EncryptedStore(inner, { keys: before }).set("key", value);
      const store = new EncryptedStore(inner, { keys: promoted });
      expect(await store.get("key")).toBe(value);
      await store.settled();
      expect(keyIdIn(String(await inner.get("key")))).toBe("old");
      expect(() => new EncryptedStore(inner, { keys: promoted, reencrypt: "on-read" })).toThrow(
        expect.objectContaining({ code: "STORE_NOT_ATOMIC" }),
      );
    },
  );

  it('keeps the expiry of a record that reencrypt: "on-read-may-undo-writes" re-encrypts', async () => {
    const { before, promoted } = rotation();
    const inner = new KeyvMemoryAdapter(new Map());
    const expires = Date.now() + 3_600_000;
    await new EncryptedStore(inner, { keys: before }).set("key", value, expires);
    const store = new EncryptedStore(inner, { keys: promoted, reencrypt: "on-read-may-undo-writes" });
    const emitted = listen(store);
    expect(await store.get("key")).toBe(value);
    await store.settled();
    expect(emitted).toMatchObject([{ event: "reencrypted", from: "old", to: "new" }]);
    vi.useFakeTimers({ toFake: ["Date"], now: expires });
    try {
      expect(await store.get("key")).toBeUndefined();
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('reencrypt: "on-read-may-undo-writes"', () => {
  /** A store without replace(), which calls a test in the middle of a re-encryption. */
  class InterruptedStore extends KeyvMemoryAdapter {
    afterComparing: (() => unknown) | undefined;
    beforeReplacing: (() => unknown) | undefined;

    override async getMany<Value>(keys: string[]) {
      const stored = await super.getMany<Value>(keys);
      await this.afterComparing?.();
      return stored;
    }

    override async set(key: string, given: unknown, expires?: number) {
      const interrupt = this.beforeReplacing;
      this.beforeReplacing = undefined;
      await interrupt?.();
      return await super.set(key, given, expires);
    }
  }

  const next = `${marker}next`;
  const writes: readonly (readonly [string, (store: EncryptedStore) => Promise<unknown>, string | undefined])[] = [
    ["set", (store) => store.set("key", next), next],
    ["setMany", (store) => store.setMany([{ key: "key", value: next }]), next],
    ["a set with an expiry in the past", (store) => store.set("key", next, 1), undefined],
    ["delete", (store) => store.delete("key"), undefined],
    ["deleteMany", (store) => store.deleteMany(["other", "key"]), undefined],
    ["clear", (store) => store.clear(), undefined],
  ];

  async function withInterruptions() {
    const { before, promoted } = rotation();
    const inner = new InterruptedStore(new Map());
    await new EncryptedStore(inner, { keys: before }).set("key", value);
    const store = new EncryptedStore(inner, { keys: promoted, reencrypt: "on-read-may-undo-writes" });
    return { inner, store, emitted: listen(store) };
  }

  it.each(writes)("does not undo %s of the same store between comparing and replacing", async (_, write, expected) => {
    const { inner, store, emitted } = await withInterruptions();
    inner.afterComparing = () => write(store);
    expect(await store.get("key")).toBe(value);
    await store.settled();
    expect(emitted).toMatchObject([{ event: "reencrypt:conflict" }]);
    expect(await store.get("key")).toBe(expected);
  });

  it.each(writes)("does not undo %s of the same store during the replacement", async (_, write, expected) => {
    const { inner, store, emitted } = await withInterruptions();
    let writing: Promise<unknown> | undefined;
    inner.beforeReplacing = async () => {
      writing = write(store);
      // Long enough for the write to arrive first if it did not wait.
      for (let turn = 0; turn < 5; turn++) await nextTurn();
    };
    expect(await store.get("key")).toBe(value);
    await store.settled();
    await writing;
    expect(emitted).toMatchObject([{ event: "reencrypted" }]);
    expect(await store.get("key")).toBe(expected);
  });

  it("does not undo a set of the same store that begins before the comparison and arrives after it", async () => {
    const { inner, store } = await withInterruptions();
    const arrives = Promise.withResolvers<void>();
    inner.beforeReplacing = () => arrives.promise;
    const writing = store.set("key", next);
    inner.afterComparing = async () => {
      arrives.resolve();
      await writing;
    };
    expect(await store.get("key")).toBe(value);
    await store.settled();
    expect(await store.get("key")).toBe(next);
  });
});

describe("lazy re-encryption of foreign formats", () => {
  it("encrypts plaintext after the read, and keeps the expiry that Keyv wrote", async () => {
    const inner = new WatchedStore();
    const expires = Date.now() + 3_600_000;
    const text = JSON.stringify({ value, expires });
    // The backend has no expiry for the record.
    await inner.set("key", text);
    const store = new EncryptedStore(inner, { keys: newRing("k1"), accept: [plaintext()] });
    const emitted = listen(store);
    expect(await store.get("key")).toBe(text);
    await store.settled();
    expect(emitted).toMatchObject([{ event: "reencrypted", from: "plaintext", to: "k1" }]);
    expect(keyIdIn(await inner.get("key"))).toBe("k1");
    expect(await store.get("key")).toBe(text);
    vi.useFakeTimers({ toFake: ["Date"], now: expires });
    try {
      expect(await store.get("key")).toBeUndefined();
    } finally {
      vi.useRealTimers();
    }
  });

  it("encrypts, after the read, a record in the AES-GCM format of @keyv/encrypt-node", async () => {
    const passphrase = randomBytes(16).toString("hex");
    const iv = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", createHash("sha256").update(passphrase).digest(), iv);
    const ciphertext = Buffer.concat([cipher.update(JSON.stringify({ value })), cipher.final()]);
    const inner = new WatchedStore();
    await inner.set("key", Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString("base64"));
    const store = new EncryptedStore(inner, {
      keys: newRing("k1"),
      accept: [aesGcm({ key: passphrase, layout: "iv-tag-ciphertext" })],
    });
    expect(await store.get("key")).toBe(JSON.stringify({ value }));
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("k1");
  });

  it.each([
    ["an ill-formed text", { value: "\ud800" }],
    ["an expiry that is not a number", { value, expires: Number.NaN }],
  ])(
    "encrypts the other records of a batch if one record cannot be encrypted because it has %s",
    async (_, content) => {
      const inner = new WatchedStore();
      const keys = ["one", "two", "bad", "three", "four"];
      await inner.setMany(keys.map((key) => ({ key, value: `old:${key}` })));
      const old = { name: "old", read: (stored: unknown) => (stored === "old:bad" ? content : { value }) };
      const store = new EncryptedStore(inner, { keys: newRing("k1"), accept: [old] });
      const emitted = listen(store);
      // The failure is reported once: by the read if that detects it, otherwise by an event.
      const reported: unknown[] = [];
      await store.getMany(keys).catch((error: unknown) => {
        if (error instanceof KeywardError) reported.push(...(error.errors ?? []));
      });
      await store.settled();
      reported.push(...emitted.filter(({ event }) => event === "reencrypt:error"));
      expect(reported).toMatchObject([{ key: "bad" }]);
      expect(emitted.flatMap(({ event, key }) => (event === "reencrypted" ? [key] : [])).sort()).toEqual(
        keys.filter((key) => key !== "bad").sort(),
      );
      for (const key of keys) expect(keyIdIn(await inner.get(key))).toBe(key === "bad" ? "" : "k1");
      expect(await inner.get("bad")).toBe("old:bad");
    },
  );

  it("encrypts a record even if the id of the primary is the name of the record's format", async () => {
    const inner = new WatchedStore();
    const text = JSON.stringify({ value });
    await inner.set("key", text);
    const store = new EncryptedStore(inner, { keys: newRing("plaintext"), accept: [plaintext()] });
    const emitted = listen(store);
    expect(await store.get("key")).toBe(text);
    await store.settled();
    expect(emitted).toMatchObject([{ event: "reencrypted", key: "key", to: "plaintext" }]);
    expect(keyIdIn(await inner.get("key"))).toBe("plaintext");
    expect(await store.get("key")).toBe(text);
  });

  it("leaves records unchanged if the keyring has no keys", async () => {
    const inner = new MemoryStore();
    const text = JSON.stringify({ value });
    await inner.set("key", text);
    const store = new EncryptedStore(inner, { keys: Keyring.dangerouslyPlaintext(), accept: [plaintext()] });
    expect(await store.get("key")).toBe(text);
    await store.settled();
    expect(await inner.get("key")).toBe(text);
  });
});
