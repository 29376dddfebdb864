import { randomBytes } from "node:crypto";
import {
  aesCbc,
  aesGcm,
  census,
  compactJwe,
  createKeyv,
  cryptoJs,
  EncryptedStore,
  type EncryptedStoreOptions,
  type EncryptedStoreOrKeyv,
  fernet,
  fileLocation,
  forbidPlaintext,
  iron,
  type KeyProvider,
  Keyring,
  keyvEncryptNode,
  laravel,
  migrate,
  type NamedStores,
  openssl,
  plaintext,
  planRotation,
  rangesOf,
  reencrypt,
  replicas,
  retireKey,
  revocationCost,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
  secretbox,
  storeLocation,
  wrappedKeys,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { Keyv } from "keyv";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { marker } from "../secrets.ts";
import { LeastKeyv5Adapter } from "./inner-stores.ts";

const value = `${marker}value`;

/** Calls a function as code without types can. */
function untyped(call: unknown, ...given: readonly unknown[]): unknown {
  if (typeof call !== "function") throw new Error("this is not a function");
  return Reflect.apply(call, undefined, [...given]);
}

const misspelt = { misspelt: 1 };

/** A call of each function with an unknown option. */
const takers: Readonly<Record<string, (store: EncryptedStore, keys: KeyProvider) => unknown>> = {
  createKeyv: (_, keys) => untyped(createKeyv, { store: new Map(), keys, ...misspelt }),
  EncryptedStore: (_, keys) => Reflect.construct(EncryptedStore, [new Map(), { keys, ...misspelt }]),
  replica: (_, keys) => Reflect.construct(EncryptedStore, [new MemoryStore(), { keys, replica: misspelt }]),
  freshness: (_, keys) =>
    Reflect.construct(EncryptedStore, [new Map(), { keys: { load: () => keys.load(), freshness: misspelt } }]),
  reencrypt: (store) => untyped(reencrypt, store, misspelt),
  census: (store) => untyped(census, store, misspelt),
  ready: (store) => Reflect.apply(store.ready, store, [misspelt]),
  retireKey: (store, keys) => untyped(retireKey, keys, { a: store }, "old", misspelt),
  forbidPlaintext: (store, keys) => untyped(forbidPlaintext, keys, { a: store }, "flows", misspelt),
  ...Object.fromEntries(
    Object.entries({ rotateKey, planRotation, rollBackRotation, rotationStatus, revocationCost, revokeKey }).map(
      ([name, call]) => [
        name,
        (store: EncryptedStore, keys: KeyProvider) =>
          untyped(call, keys, { stores: { a: store }, graceMs: 0, ...misspelt }),
      ],
    ),
  ),
  unregistered: (store, keys) =>
    untyped(rotateKey, keys, { stores: { a: store }, graceMs: 0, unregistered: { waitMs: 0, ...misspelt } }),
  "the option reencrypt": (store, keys) =>
    untyped(rotateKey, keys, { stores: { a: store }, graceMs: 0, unregistered: { waitMs: 0 }, reencrypt: misspelt }),
  newKey: () => Reflect.apply(Keyring.prototype.add, newRing(), [misspelt]),
  wrappedKeys: () => untyped(wrappedKeys, {}, storeLocation(new MemoryStore()), misspelt),
  fileLocation: () => untyped(fileLocation, "keyring", misspelt),
  plaintext: () => untyped(plaintext, misspelt),
  aesGcm: () => untyped(aesGcm, { key: "k", layout: "iv-tag-ciphertext", ...misspelt }),
  migrate: (store) => untyped(migrate, store, { ...misspelt }),
  keyvEncryptNode: () => untyped(keyvEncryptNode, { key: "k", ...misspelt }),
  fernet: () => untyped(fernet, { key: randomBytes(32), ...misspelt }),
  iron: () => untyped(iron, { password: "p", ...misspelt }),
  compactJwe: () => untyped(compactJwe, { key: "k", ...misspelt }),
  laravel: () => untyped(laravel, { key: randomBytes(32), ...misspelt }),
  cryptoJs: () => untyped(cryptoJs, { passphrase: "p", ...misspelt }),
  openssl: () => untyped(openssl, { passphrase: "p", ...misspelt }),
  secretbox: () => untyped(secretbox, { key: randomBytes(32), open: () => null, ...misspelt }),
  aesCbc: () => untyped(aesCbc, { key: "k", layout: "iv-ciphertext", ...misspelt }),
};

describe("options that are unknown or not an object", () => {
  it.each(Object.entries(takers))(
    "are refused by %s before anything is done, with an error that names the unknown option",
    async (_, call) => {
      const keys = new TestKeys(rotation().promoted);
      const inner = new MemoryStore();
      const store = new EncryptedStore(inner, { keys });
      const error = await expectRefusal(() => call(store, keys), "VALUE_INVALID");
      expect(error.message).toContain('no option "misspelt"');
      expect(error.hint).toMatch(/options are: \w+/);
      expect(keys.saves).toBe(0);
      expect((await inner.reserved().scan()).entries).toEqual([]);
      await store.disconnect();
      expect(keys.watchers).toBe(0);
    },
  );

  it("are refused by createKeyv and EncryptedStore if they are not an object", async () => {
    const ring = newRing();
    await expectRefusal(() => untyped(createKeyv), "VALUE_INVALID");
    await expectRefusal(() => Reflect.construct(EncryptedStore, [new Map()]), "VALUE_INVALID");
    await expectRefusal(() => Reflect.construct(EncryptedStore, [new Map(), ring, {}]), "KEYRING_INVALID");
  });
});

describe("an invalid value of an option", () => {
  it.each<object>([
    { accept: plaintext() },
    { accept: null },
    { accept: [plaintext] },
    { accept: [undefined] },
    { accept: [{}] },
    { accept: [{ name: Symbol("own"), read: () => undefined }] },
    { accept: [{ authenticated: "no", read: () => undefined }] },
    { reencrypt: 5n },
    { reencrypt: null },
    { reencrypt: "on" },
    { serialization: false },
    { serialization: { parse: JSON.parse } },
    { compression: {} },
    { compression: "gzip" },
  ])("is refused by createKeyv before anything is done: %o", async (option) => {
    const keys = new TestKeys(newRing());
    await expectRefusal(() => untyped(createKeyv, { store: new Map(), keys, ...option }), "VALUE_INVALID");
    expect(keys.watchers).toBe(0);
  });

  it("is refused by EncryptedStore and aesGcm", async () => {
    const keys = newRing();
    await expectRefusal(() => Reflect.construct(EncryptedStore, [new Map(), { keys, decode: 5 }]), "VALUE_INVALID");
    for (const layout of [undefined, "iv-tag", null])
      await expectRefusal(() => untyped(aesGcm, { key: "k", layout }), "VALUE_INVALID");
    await expectRefusal(
      () => untyped(aesGcm, { key: "k", layout: "iv-tag-ciphertext", encoding: "utf8" }),
      "VALUE_INVALID",
    );
  });
});

it("createKeyv treats null as the default of the options serialization and compression", async () => {
  const none = { serialization: null, compression: null };
  const keyv = untyped(createKeyv, { store: new Map(), keys: newRing(), ...none });
  if (!(keyv instanceof Keyv)) throw new Error("createKeyv did not return a Keyv");
  await keyv.set("key", value);
  expect(await keyv.get("key")).toBe(value);
});

describe("the option store", () => {
  it.each([
    ["an empty object", () => ({})],
    ["a list", () => []],
    ["a promise of a store", () => Promise.resolve(new MemoryStore())],
    ["a class", () => MemoryStore],
    ["a Set", () => new Set()],
    ["a Keyv", () => new Keyv()],
    ["a Keyv that createKeyv made", () => createKeyv({ store: new Map(), keys: newRing() })],
  ])("cannot be %s", async (_, make) => {
    const given = make();
    await expectRefusal(() => Reflect.construct(EncryptedStore, [given, { keys: newRing() }]), "STORE_INVALID");
    await expectRefusal(() => untyped(createKeyv, { store: given, keys: newRing() }), "STORE_INVALID");
  });

  it("may be an object that has only the four required methods of a Keyv 5 adapter", async () => {
    const keyv = createKeyv({ store: new LeastKeyv5Adapter(), keys: newRing() });
    await keyv.set("key", value);
    expect(await keyv.get("key")).toBe(value);
  });
});

/** A call of each tool, with one store or with a store under a name. */
const tools: Readonly<
  Record<string, (store: EncryptedStoreOrKeyv, stores: NamedStores, keys: KeyProvider) => Promise<unknown>>
> = {
  census: async (store) => (await census(store)).records,
  rangesOf: (store) => rangesOf(store, 4),
  replicas: (store) => replicas(store),
  reencrypt: async (store) => (await reencrypt(store)).reencrypted,
  retireKey: async (_, stores, keys) => {
    for (const store of Object.values(stores)) await reencrypt(store);
    return (await retireKey(keys, stores, "old")).keyring.generation;
  },
  forbidPlaintext: async (_, stores, keys) => (await forbidPlaintext(keys, stores, "flows")).generation,
  planRotation: async (_, stores, keys) =>
    (await planRotation(keys, { stores, graceMs: 0, unregistered: { waitMs: 0 } })).steps.length,
  rotationStatus: (_, stores, keys) => rotationStatus(keys, { stores }),
  revocationCost: (_, stores, keys) => revocationCost(keys, { stores, id: "old" }),
  rotateKey: async (_, stores, keys) =>
    (await rotateKey(keys, { stores, graceMs: 0, unregistered: { waitMs: 0 }, newKey: { id: "third" } })).step,
  revokeKey: async (_, stores, keys) =>
    (
      await revokeKey(keys, {
        stores,
        id: "new",
        order: "reencrypt-first",
        graceMs: 0,
        unregistered: { waitMs: 0 },
        newKey: { id: "third" },
      })
    ).step,
  rollBackRotation: async (_, stores, keys) => {
    const options = { stores, graceMs: 0, unregistered: { waitMs: 0 } } as const;
    await rotateKey(keys, { ...options, newKey: { id: "third" }, until: "promote" });
    return (await rollBackRotation(keys, options)).step;
  },
};

describe.each(Object.entries(tools))("the function %s", (_, tool) => {
  async function withRecord() {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: before }).set("key", value);
    return { inner, keys: new TestKeys(promoted) };
  }

  it("accepts a Keyv that createKeyv made, and has the same outcome as with an EncryptedStore", async () => {
    const [one, other] = [await withRecord(), await withRecord()];
    const keyv = createKeyv({ store: one.inner, keys: one.keys });
    const store = new EncryptedStore(other.inner, { keys: other.keys });
    const outcome = await tool(keyv, { a: keyv }, one.keys);
    expect(outcome).toEqual(await tool(store, { a: store }, other.keys));
    expect(one.keys.saves).toBe(other.keys.saves);
    expect(await keyv.encryptedStore.get("key")).toBe(value);
  });

  it.each([
    ["a Keyv", () => new Keyv()],
    ["a Keyv over an EncryptedStore", () => new Keyv({ store: new EncryptedStore(new Map(), { keys: newRing() }) })],
    ["an object", () => ({})],
    ["null", () => null],
    ["nothing", () => undefined],
  ])("refuses %s instead of a store, with a hint that states what to pass", async (name, make) => {
    const { keys } = await withRecord();
    const given = make();
    const isRaw = name === "an object" && (tool === tools["census"] || tool === tools["rangesOf"]);
    const error = await expectRefusal(
      () => untyped(tool, given, { a: given }, keys),
      isRaw ? "STORE_NOT_SCANNABLE" : "STORE_INVALID",
    );
    if (!isRaw) expect(error.hint).toContain("createKeyv");
    expect(keys.saves).toBe(0);
  });
});

describe("an argument with named stores", () => {
  it.each([
    ["a Keyv", () => new Keyv()],
    ["a single Keyv that createKeyv made", () => createKeyv({ store: new Map(), keys: newRing() })],
    ["a single store", () => new EncryptedStore(new Map(), { keys: newRing() })],
    ["a list", () => [new EncryptedStore(new Map(), { keys: newRing() })]],
    ["null", () => null],
    ["nothing", () => undefined],
  ])("is refused if it is %s", async (_, make) => {
    const keys = new TestKeys(rotation().promoted);
    const stores = make();
    await expectRefusal(() => untyped(retireKey, keys, stores, "old"), "VALUE_INVALID");
    await expectRefusal(() => untyped(forbidPlaintext, keys, stores, "flows"), "VALUE_INVALID");
    for (const call of [rotateKey, planRotation, rollBackRotation, rotationStatus, revocationCost]) {
      await expectRefusal(
        () => untyped(call, keys, { stores, graceMs: 0, unregistered: { waitMs: 0 } }),
        "VALUE_INVALID",
      );
    }
    expect(keys.loads).toBe(0);
  });
});

describe("a wrong argument from code without types", () => {
  it.each([undefined, null, 5, {}])("is refused where a string is expected: %j", async (given) => {
    const keys = new TestKeys(rotation().promoted);
    const stores = { flows: new EncryptedStore(new MemoryStore(), { keys }) };
    const alone = { stores, graceMs: 0, unregistered: { waitMs: 0 } };
    await expectRefusal(() => untyped(Keyring.parse, given), "KEYRING_INVALID");
    await expectRefusal(() => untyped(retireKey, keys, stores, given), "KEY_UNKNOWN");
    await expectRefusal(() => untyped(revocationCost, keys, { stores, id: given }), "KEY_UNKNOWN");
    await expectRefusal(
      () => untyped(revokeKey, keys, { ...alone, id: given, order: "reencrypt-first" }),
      "KEY_UNKNOWN",
    );
    expect(keys.saves).toBe(0);
  });

  it.each([undefined, null, 5, {}])("is refused where a store is expected: %j", async (given) => {
    await expectRefusal(() => untyped(storeLocation, given), "STORE_INVALID");
  });
});

it("createKeyv passes every option of an EncryptedStore on to its EncryptedStore", async () => {
  const inner = new MemoryStore();
  const keys = newRing();
  const options: Required<Omit<EncryptedStoreOptions, "decode">> = {
    keys,
    scope: "billing",
    reencrypt: "off",
    accept: [plaintext()],
    padTo: 256,
    keepDecrypted: 10,
    replica: { name: "billing-1" },
  };
  const keyv = createKeyv({ store: inner, ...options, namespace: "flows", ttl: 60_000, stats: true });
  await inner.namespaced("flows").set("plain", JSON.stringify({ value }));
  expect(await keyv.get("plain")).toBe(value);
  await keyv.set("key", "x");
  await keyv.encryptedStore.settled();
  const records = (await inner.scan()).entries;
  const sealed = records.find(({ key }) => key === "key")?.value;
  expect(sealed?.length).toBeGreaterThan(256);
  expect(records.find(({ key }) => key === "plain")?.value).toBe(JSON.stringify({ value }));
  await expectRefusal(new EncryptedStore(inner.namespaced("flows"), { keys }).get("key"), "KEY_MISMATCH");
  expect((await replicas(keyv)).map(({ name }) => name)).toEqual(["billing-1"]);
  expect(keyv.ttl).toBe(60_000);
  expect(keyv.stats.enabled).toBe(true);
  await keyv.disconnect();
});

it("EncryptedStore and createKeyv use options that the options object inherits from a class or prototype", async () => {
  class Settings {
    readonly store = new MemoryStore();
    readonly keys = newRing();
    get scope() {
      return "billing";
    }
    get namespace() {
      return "flows";
    }
  }
  const settings = new Settings();
  const keyv = createKeyv(settings);
  await keyv.set("key", "x");
  await expectRefusal(createKeyv({ ...settings, namespace: "flows" }).get("key"), "KEY_MISMATCH");
  expect(await createKeyv({ ...settings, scope: "billing", namespace: "flows" }).get("key")).toBe("x");
});
