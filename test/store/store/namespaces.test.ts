import { createKeyv, EncryptedStore } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { Keyv, KeyvBridgeAdapter, KeyvMemoryAdapter } from "keyv";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { marker } from "../secrets.ts";
import { LeastKeyv5Adapter } from "./inner-stores.ts";

// Stores that have one namespace at a time.
const inners = {
  KeyvMemoryAdapter: () => new KeyvMemoryAdapter(new Map()),
  KeyvBridgeAdapter: () => new KeyvBridgeAdapter(new LeastKeyv5Adapter()),
  MemoryStore: () => new MemoryStore(),
} as const;

// Stores for which Keyv puts the namespace in front of each key.
const prefixed = {
  Map: () => new Map<string, unknown>(),
  "Keyv 5 adapter": () => new LeastKeyv5Adapter(),
} as const;

describe.each(Object.entries(prefixed))("over one %s", (_, open) => {
  it("the records of namespaces whose prefixed keys cannot collide are kept separate", async () => {
    const inner = open();
    const keys = newRing();
    const keyvs = ["a", "b", "aa", ":a"].map((namespace) => createKeyv({ store: inner, keys, namespace }));
    // In the first round no namespace is in use, in the second round all are.
    for (const round of [1, 2]) {
      for (const keyv of keyvs) await keyv.set("key", `${marker}${keyv.namespace} ${round}`);
      for (const keyv of keyvs) expect(await keyv.get("key")).toBe(`${marker}${keyv.namespace} ${round}`);
    }
    const [first, ...others] = keyvs;
    expect(await first?.delete("key")).toBe(true);
    for (const keyv of others) expect(await keyv.has("key")).toBe(true);
  });

  it.each([
    ["", "b"],
    ["a", ""],
    ["a", "a::b"],
    ["x:", "x"],
  ])(
    "while one Keyv uses namespace %j, a second Keyv rejects calls in the other namespace %j, because their records could mix",
    async (first, second) => {
      const inner = open();
      const keys = newRing();
      const one = createKeyv({ store: inner, keys, namespace: first });
      const other = createKeyv({ store: inner, keys, namespace: second });
      await one.set("key", `${marker}one`);
      await expectRefusal(other.set("key", `${marker}other`), "NAMESPACE_CONFLICT");
      await expectRefusal(other.clear(), "NAMESPACE_CONFLICT");
      expect(await one.get("key")).toBe(`${marker}one`);
    },
  );
});

it("two Keyvs with different namespaces over one Map iterate over and clear only their own records", async () => {
  const map = new Map<string, unknown>();
  const keys = newRing();
  const [a, b] = ["a", "b"].map((namespace) => createKeyv({ store: map, keys, namespace }));
  await a?.set("one", 1);
  await b?.set("two", 2);
  const found: unknown[] = [];
  for await (const entry of a?.iterator() ?? []) found.push(entry);
  expect(found).toEqual([["one", 1]]);
  await a?.clear();
  expect([...map.keys()]).toEqual(["b::two"]);
});

describe("the namespace of a store", () => {
  it("can be changed before the first call of the store, and does not yet prevent another store from using another namespace", async () => {
    const inner = new KeyvMemoryAdapter(new Map());
    const keys = newRing();
    const [one, other] = [new EncryptedStore(inner, { keys }), new EncryptedStore(inner, { keys })];
    one.namespace = "first";
    one.namespace = "second";
    expect(one.namespace).toBe("second");
    other.namespace = "other";
    await other.set("key", `${marker}x`);
    one.namespace = "other";
    expect(await one.get("key")).toBe(`${marker}x`);
  });

  it("makes calls reject if it is changed after the first call, and no record is moved", async () => {
    const map = new Map<string, unknown>();
    const store = new EncryptedStore(map, { keys: newRing() });
    store.namespace = "a";
    await store.set("key", `${marker}1`);
    store.namespace = "b";
    await expectRefusal(store.set("key", `${marker}2`), "NAMESPACE_CONFLICT");
    store.namespace = "a";
    expect(await store.get("key")).toBe(`${marker}1`);
    expect([...map.keys()]).toEqual(["a::key"]);
  });

  it("no longer prevents another namespace on the same adapter after all its stores have disconnected", async () => {
    const inner = new KeyvMemoryAdapter(new Map());
    const keys = newRing();
    const users = [1, 2].map(() => createKeyv({ store: inner, keys, namespace: "a" }));
    for (const user of users) await user.set("key", 1);
    const next = createKeyv({ store: inner, keys, namespace: "b" });
    for (const user of users) {
      await expectRefusal(next.get("key"), "NAMESPACE_CONFLICT");
      await user.disconnect();
    }
    await next.set("key", 2);
    expect(await next.get("key")).toBe(2);
    for (const user of users) await expectRefusal(user.get("key"), "NAMESPACE_CONFLICT");
  });

  it("makes calls reject if the application sets the adapter to another namespace", async () => {
    const inner = new KeyvMemoryAdapter(new Map());
    const keyv = createKeyv({ store: inner, keys: newRing(), namespace: "a" });
    await keyv.set("key", 1);
    inner.namespace = "b";
    await expectRefusal(keyv.set("key", 2), "NAMESPACE_CONFLICT");
    inner.namespace = "a";
    expect(await keyv.get("key")).toBe(1);
  });

  it.each([
    ["MemoryStore", () => new MemoryStore()],
    ["Map", () => new Map<string, unknown>()],
    ["KeyvMemoryAdapter", () => new KeyvMemoryAdapter(new Map())],
  ])("is sanitized in the same way as by a plain Keyv, over a %s", async (_, open) => {
    const sanitize = { namespace: true } as const;
    const plain = new Map<string, unknown>();
    const bare = new Keyv({ store: plain, namespace: "../te;nant", sanitize });
    await bare.set("key", 1);
    const inner = open();
    const keyv = createKeyv({ store: inner, keys: newRing(), namespace: "../te;nant", sanitize });
    expect(await keyv.set("key", 1)).toBe(true);
    expect(await keyv.get("key")).toBe(1);
    expect(keyv.namespace).toBe(bare.namespace);
    expect(keyv.encryptedStore.namespace).toBe(bare.namespace);
    if (inner instanceof Map) expect([...inner.keys()]).toEqual([...plain.keys()]);
  });
});

describe.each(Object.entries(inners))("over one %s", (_, open) => {
  it.each([
    ["a", "b"],
    ["", "b"],
    ["a", ""],
  ])("while one store uses namespace %j, a second store cannot use the other namespace %j", async (first, second) => {
    const inner = open();
    const keys = newRing();
    const one = new EncryptedStore(inner, { keys });
    const other = new EncryptedStore(inner, { keys });
    one.namespace = first === "" ? undefined : first;
    await one.set("key", `${marker}one`);
    await expectRefusal(async () => {
      other.namespace = second === "" ? undefined : second;
      await other.set("key", `${marker}other`);
    }, "NAMESPACE_CONFLICT");
    expect(await one.get("key")).toBe(`${marker}one`);
  });

  it("two plain Keyvs cannot use different namespaces at the same time", async () => {
    const inner = open();
    const keys = newRing();
    const one = new Keyv({ store: new EncryptedStore(inner, { keys }), namespace: "one" });
    await one.set("key", 1);
    await expectRefusal(async () => {
      const other = new Keyv({ store: new EncryptedStore(inner, { keys }), namespace: "other" });
      await other.set("key", 2);
    }, "NAMESPACE_CONFLICT");
    expect(await one.get("key")).toBe(1);
  });

  it("two stores can use the same namespace at the same time", async () => {
    const inner = open();
    const keys = newRing();
    const [one, other] = [new EncryptedStore(inner, { keys }), new EncryptedStore(inner, { keys })];
    one.namespace = "shared";
    other.namespace = "shared";
    await one.set("key", `${marker}x`);
    expect(await other.get("key")).toBe(`${marker}x`);
  });
});

describe("views of a store", () => {
  it("can use different namespaces at the same time", async () => {
    const store = new MemoryStore();
    const keys = newRing();
    const flows = createKeyv({ store, keys, namespace: "flows" });
    const users = createKeyv({ store, keys, namespace: "users" });
    const plain = createKeyv({ store, keys });
    await Promise.all([flows.set("key", "flows"), users.set("key", "users"), plain.set("key", "plain")]);
    expect(await Promise.all([flows.get("key"), users.get("key"), plain.get("key")])).toEqual([
      "flows",
      "users",
      "plain",
    ]);
    await users.clear();
    expect(await Promise.all([flows.get("key"), users.get("key"), plain.get("key")])).toEqual([
      "flows",
      undefined,
      "plain",
    ]);
  });

  it("keep their namespace if createKeyv is called without the option namespace", async () => {
    const store = new MemoryStore();
    const keys = newRing();
    const flows = createKeyv({ store: store.namespaced("flows"), keys });
    const users = createKeyv({ store: store.namespaced("users"), keys });
    await flows.set("key", "flows");
    await users.set("key", "users");
    expect((await store.scan()).entries.map(({ namespace }) => namespace).sort()).toEqual(["flows", "users"]);
    expect(await flows.get("key")).toBe("flows");
  });

  it("can be adapters with their own namespace, which createKeyv keeps if it gets no option namespace", async () => {
    const map = new Map<string, unknown>();
    const keyv = createKeyv({ store: new KeyvMemoryAdapter(map, { namespace: "own" }), keys: newRing() });
    await keyv.set("key", 1);
    expect([...map.keys()]).toEqual(["own::key"]);
    expect(await keyv.get("key")).toBe(1);
  });
});

describe("a record that an attacker has moved", () => {
  async function moved(from: { namespace: string; key: string }, to: { namespace: string; key: string }) {
    const store = new MemoryStore();
    const keys = newRing();
    const source = createKeyv({ store, keys, namespace: from.namespace }).encryptedStore;
    await source.set(from.key, `${marker}moved`);
    const stored = await store.namespaced(from.namespace).get(from.key);
    await store.namespaced(to.namespace).set(to.key, stored);
    return createKeyv({ store, keys, namespace: to.namespace }).encryptedStore;
  }

  it.each([
    [
      { namespace: "a", key: "one" },
      { namespace: "a", key: "other" },
    ],
    [
      { namespace: "a", key: "one" },
      { namespace: "b", key: "one" },
    ],
    [
      { namespace: "", key: "a:b" },
      { namespace: "a", key: "b" },
    ],
    [
      { namespace: "ns:a", key: "b" },
      { namespace: "ns", key: "a:b" },
    ],
    [
      { namespace: "", key: "\u00e9" },
      { namespace: "", key: "e\u0301" },
    ],
    [
      { namespace: "", key: "one" },
      { namespace: "", key: "" },
    ],
    [
      { namespace: "", key: "one" },
      { namespace: "", key: "one\0" },
    ],
  ])("cannot be decrypted under its new namespace or key: from %j to %j", async (from, to) => {
    const store = await moved(from, to);
    await expectRefusal(store.get(to.key), "RECORD_TAMPERED");
    await expectRefusal(store.has(to.key), "RECORD_TAMPERED");
  });

  it("cannot be decrypted in another scope", async () => {
    const keys = newRing();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys, scope: "billing" }).set("key", `${marker}x`);
    for (const scope of ["Billing", "support", undefined]) {
      const other = new EncryptedStore(inner, { keys, ...(scope === undefined ? {} : { scope }) });
      await expectRefusal(other.get("key"), "KEY_MISMATCH");
    }
    expect(await new EncryptedStore(inner, { keys: keys.scope("billing"), scope: "billing" }).get("key")).toBe(
      `${marker}x`,
    );
  });
});

describe("the namespace of the reserved space", () => {
  it("cannot be assigned to an EncryptedStore", () => {
    const store = new EncryptedStore(new Map(), { keys: newRing() });
    expect(() => {
      store.namespace = "\0keyward";
    }).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  });

  it("cannot be the namespace of a wrapped adapter", async () => {
    const inner = new MemoryStore().namespaced("\0keyward");
    await expectRefusal(async () => {
      await new EncryptedStore(inner, { keys: newRing() }).set("check", `${marker}x`);
    }, "VALUE_INVALID");
  });
});

it("keys and namespaces with lone surrogates are refused before anything is written", async () => {
  const inner = new MemoryStore();
  const store = new EncryptedStore(inner, { keys: newRing() });
  for (const call of [
    () => store.get("\ud800"),
    () => store.getMany(["a", "\udfff"]),
    () => store.has("\ud800"),
    () => store.set("\ud800", "x"),
    () =>
      store.setMany([
        { key: "a", value: "x" },
        { key: "\ud800", value: "x" },
      ]),
    () => store.delete("\ud800"),
    () => store.deleteMany(["\ud800"]),
  ]) {
    await expectRefusal(call, "VALUE_INVALID");
  }
  expect(() => createKeyv({ store: inner, keys: newRing(), namespace: "\ud800" })).toThrow(
    expect.objectContaining({ code: "VALUE_INVALID" }),
  );
  expect((await inner.scan()).entries).toEqual([]);
});
