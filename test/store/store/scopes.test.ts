import {
  census,
  createKeyv,
  EncryptedStore,
  Keyring,
  type RecordAddress,
  reencrypt,
  replicas,
  retireKey,
  rotateKey,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import fc from "fast-check";
import { describe, expect, it, onTestFinished } from "vitest";
import { expectRefusal, refusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { marker } from "../secrets.ts";

/** Returns the part of a key before the slash: the scope of the record. A key without a slash has no scope. */
function scopeOf({ key }: RecordAddress): string | undefined {
  return key.includes("/") ? key.slice(0, key.indexOf("/")) : undefined;
}

/** Returns the keys of the records in the reserved space. */
async function reservedKeys(store: MemoryStore): Promise<string[]> {
  const { entries } = await store.reserved().scan({ limit: 10_000 });
  return entries.map(({ key }) => key).sort();
}

const backends = {
  MemoryStore: () => new MemoryStore(),
  SqliteStore: () => new SqliteStore(":memory:"),
};

describe.each(Object.entries(backends))("a store over %s with a function as its scope", (_, open) => {
  it("reads what stores of each scope have written, and the stores of each scope read what it writes", async () => {
    const inner = open();
    const keys = newRing();
    const all = new EncryptedStore(inner, { keys, scope: scopeOf });
    for (const scope of ["billing", "support"]) {
      const one = new EncryptedStore(inner, { keys, scope });
      await one.set(`${scope}/from one`, `${marker}${scope}`);
      expect(await all.get(`${scope}/from one`)).toBe(`${marker}${scope}`);
      await all.set(`${scope}/from all`, `${marker}${scope}`);
      expect(await one.get(`${scope}/from all`)).toBe(`${marker}${scope}`);
    }
    await all.set("no scope", "value");
    expect(await new EncryptedStore(inner, { keys }).get("no scope")).toBe("value");
    const billing = new EncryptedStore(inner, { keys, scope: "billing" });
    expect(await refusal(billing.get("support/from all"))).toMatchObject({ code: "KEY_MISMATCH" });
    expect(await refusal(billing.get("no scope"))).toMatchObject({ code: "KEY_MISMATCH" });
    const batch = ["billing/from one", "support/from all", "no scope", "absent/key"];
    expect(await all.getMany(batch)).toEqual([`${marker}billing`, `${marker}support`, "value", undefined]);
    expect(await all.setMany(batch.map((key) => ({ key, value: key })))).toEqual([true, true, true, true]);
    expect(await all.getMany(batch)).toEqual(batch);
    const iterated = new Map<string, unknown>();
    for await (const [key, value] of all.iterator()) iterated.set(key, value);
    expect(iterated.get("absent/key")).toBe("absent/key");
    expect(iterated.size).toBe(6);
    await inner.disconnect();
  });

  it("refuses a record that was copied to a key of another scope or of no scope", async () => {
    const inner = open();
    const store = new EncryptedStore(inner, { keys: newRing(), scope: scopeOf });
    await store.set("billing/key", "value");
    const stolen = await inner.get("billing/key");
    for (const key of ["support/key", "key"]) {
      await inner.set(key, stolen);
      expect(await refusal(store.get(key))).toMatchObject({ code: "KEY_MISMATCH", key });
      expect(await refusal(store.set(key, "value"))).toMatchObject({ code: "OVERWRITE_REFUSED", key });
    }
    await inner.disconnect();
  });
});

describe("a store with a function as its scope", () => {
  it("behaves like a Map for any sequence of writes and reads in any scopes", async () => {
    const keys = fc.constantFrom("a/1", "a/2", "b/1", "1", "ä/1", `${"s".repeat(900)}/1`);
    const operation = fc.record({ key: keys, value: fc.option(fc.string(), { nil: undefined }) });
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 40 }), async (operations) => {
        const store = new EncryptedStore(new MemoryStore(), { keys: newRing(), scope: scopeOf });
        const model = new Map<string, string>();
        for (const { key, value } of operations) {
          if (value === undefined) expect(await store.get(key)).toBe(model.get(key));
          else {
            await store.set(key, value);
            model.set(key, value);
          }
        }
      }),
      { numRuns: 30 },
    );
  });

  it("calls its function with the namespace and the key of a record if createKeyv made the store", async () => {
    const inner = new MemoryStore();
    const seen = new Set<string>();
    const scope = ({ namespace, key }: RecordAddress) => {
      seen.add(`${namespace} ${key}`);
      return namespace === "flows" ? key.slice(0, 1) : undefined;
    };
    const keys = newRing();
    const flows = createKeyv({ store: inner, keys, namespace: "flows", scope });
    await flows.set("x1", { user: 7 });
    expect(await flows.get("x1")).toEqual({ user: 7 });
    expect([...seen]).toEqual(["flows x1"]);
    expect(await createKeyv({ store: inner, keys, namespace: "flows", scope: "x" }).get("x1")).toEqual({ user: 7 });
  });

  it("re-encrypts a record in its scope in the background after a read", async () => {
    const inner = new MemoryStore();
    const rings = rotation();
    await new EncryptedStore(inner, { keys: rings.before, scope: scopeOf }).set("billing/key", "value");
    const store = new EncryptedStore(inner, { keys: rings.promoted, scope: scopeOf });
    expect(await store.get("billing/key")).toBe("value");
    await store.settled();
    expect([...(await census(inner)).keys]).toEqual([["new", 1]]);
    expect(await new EncryptedStore(inner, { keys: rings.after, scope: "billing" }).get("billing/key")).toBe("value");
  });

  it("is re-encrypted by rotateKey in one pass, and has one check record for any number of scopes", async () => {
    const scopes = Array.from({ length: 300 }, (_, index) => `scope-${index}`);
    const inner = new MemoryStore();
    const keys = new TestKeys(newRing("first"));
    const store = new EncryptedStore(inner, { keys, scope: scopeOf });
    const entries = scopes.flatMap((scope) => [1, 2, 3, 4, 5].map((n) => ({ key: `${scope}/${n}`, value: scope })));
    await store.setMany(entries);
    await store.set("no scope", "value");
    expect(await reservedKeys(inner)).toEqual(["check"]);

    let calls = 0;
    const counting = new EncryptedStore(inner, {
      keys,
      scope: (address) => {
        calls++;
        return scopeOf(address);
      },
    });
    const report = await rotateKey(keys, {
      stores: { counting },
      newKey: { id: "second" },
      graceMs: 0,
      unregistered: { waitMs: 0 },
    });
    const counts = { scanned: 1_501, reencrypted: 1_501, unreadable: 0 };
    expect(report).toMatchObject({ step: "done", reencrypted: { counting: counts } });
    expect((await keys.load()).keys).toMatchObject([{ id: "second", status: "enabled" }]);
    // Once to decrypt and once to encrypt each record.
    expect(calls).toBeLessThanOrEqual(2 * 1_501);
    expect((await reservedKeys(inner)).filter((key) => key.startsWith("check"))).toEqual(["check"]);
    expect([...(await census(store)).keys]).toEqual([["second", 1_501]]);
    const read = await new EncryptedStore(inner, { keys: await keys.load(), scope: scopeOf }).getMany(
      entries.map(({ key }) => key),
    );
    expect(read).toEqual(entries.map(({ value }) => value));
  });

  it("allows retireKey without a store of each scope, even if stores of single scopes have created check records", async () => {
    const rings = rotation();
    const inner = new MemoryStore();
    for (const scope of ["billing", "support"]) {
      await new EncryptedStore(inner, { keys: rings.before, scope }).set(`${scope}/key`, scope);
    }
    expect(await reservedKeys(inner)).toEqual(["check", "check/billing", "check/support"]);
    const store = new EncryptedStore(inner, { keys: rings.promoted, scope: scopeOf });
    expect(await reencrypt(store)).toMatchObject({ reencrypted: 2, unreadable: 0 });
    const { keyring } = await retireKey(rings.promoted, { store }, "old");
    for (const scope of ["billing", "support"]) {
      const one = new EncryptedStore(inner, { keys: keyring, scope });
      expect(await one.get(`${scope}/key`)).toBe(scope);
      await one.set(`${scope}/another`, scope);
    }
  });

  it("loses no record if its function returns a wrong name: re-encryption reports the record, retireKey keeps its key, and a corrected function reads it", async () => {
    const rings = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: rings.before, scope: scopeOf }).setMany([
      { key: "billing/right", value: "one" },
      { key: "support/wrong", value: "two" },
    ]);
    const wrong = new EncryptedStore(inner, {
      keys: rings.promoted,
      scope: (address) => (address.key === "support/wrong" ? "billing" : scopeOf(address)),
    });
    const report = await reencrypt(wrong);
    expect(report).toMatchObject({ reencrypted: 1, unreadable: 1 });
    expect(report.unreadableRecords).toMatchObject([{ key: "support/wrong", code: "KEY_MISMATCH" }]);
    expect([...(await census(wrong)).keys].sort()).toEqual([
      ["new", 1],
      ["old", 1],
    ]);
    const needed = await expectRefusal(retireKey(rings.promoted, { wrong }, "old"), "KEY_IN_USE");
    expect(needed.counts).toEqual({ wrong: 1 });
    expect(await refusal(wrong.get("support/wrong"))).toMatchObject({
      code: "KEY_MISMATCH",
      hint: expect.stringContaining("scope"),
    });
    expect(await refusal(wrong.set("support/wrong", "three"))).toMatchObject({ code: "OVERWRITE_REFUSED" });

    const right = new EncryptedStore(inner, { keys: rings.promoted, scope: scopeOf });
    expect(await right.get("support/wrong")).toBe("two");
    expect(await reencrypt(right)).toMatchObject({ unreadable: 0 });
    await retireKey(rings.promoted, { right }, "old");
  });

  it.each<[string, (address: RecordAddress) => unknown, string]>([
    ["throws", ({ key }) => fail(key), "threw an error"],
    ["returns an empty string", () => "", "an empty string"],
    ["returns null", () => null, "null"],
    ["returns a number", () => 7, "number"],
    ["returns a promise", async () => "billing", "a promise"],
    // An unhandled rejection would end the process.
    ["returns a promise that rejects", async ({ key }) => fail(key), "a promise"],
  ])(
    "writes and reads nothing if the function %s, and the error names neither the key nor the value",
    async (_, returned, named) => {
      const inner = new MemoryStore();
      const keys = newRing();
      // From JavaScript, a function may return anything.
      const store: EncryptedStore = Reflect.construct(EncryptedStore, [inner, { keys, scope: returned }]);
      for (const call of [
        () => store.set("secret key", marker),
        () => store.setMany([{ key: "secret key", value: marker }]),
      ]) {
        const error = await refusal(call());
        expect(error).toMatchObject({ code: "VALUE_INVALID", key: "secret key" });
        expect(String(error)).toContain(named);
        expect(String(error)).not.toContain("secret key");
      }
      expect(await inner.get("secret key")).toBeUndefined();
      await new EncryptedStore(inner, { keys }).set("secret key", "value");
      expect(await refusal(store.get("secret key"))).toMatchObject({ code: "VALUE_INVALID", key: "secret key" });
      expect(await store.get("no such record")).toBeUndefined();
    },
  );

  it("rejects a write if its function returns a name that no scope can have", async () => {
    const store = new EncryptedStore(new MemoryStore(), { keys: newRing(), scope: ({ key }) => key });
    expect(await refusal(store.set("x".repeat(1_001), "value"))).toMatchObject({ code: "VALUE_INVALID" });
    const illFormed = new EncryptedStore(new MemoryStore(), { keys: newRing(), scope: () => "\ud800" });
    expect(await refusal(illFormed.set("key", "value"))).toMatchObject({ code: "VALUE_INVALID", key: "key" });
    expect(await store.set("x".repeat(1_000), "value")).toBe(true);
  });

  it("reads and writes only the records of one scope if its keyring was derived for that scope", async () => {
    const keys = newRing();
    const inner = new MemoryStore();
    const all = new EncryptedStore(inner, { keys, scope: scopeOf });
    await all.setMany(["billing/key", "support/key", "key"].map((key) => ({ key, value: key })));
    const billing = new EncryptedStore(inner, { keys: keys.scope("billing"), scope: scopeOf });
    expect(await billing.get("billing/key")).toBe("billing/key");
    await billing.set("billing/key", "changed");
    expect(await all.get("billing/key")).toBe("changed");
    for (const key of ["support/key", "key"]) {
      expect(await refusal(billing.get(key))).toMatchObject({ code: "KEYRING_INVALID", key });
      expect(await refusal(billing.set(`${key} too`, "value"))).toMatchObject({ code: "KEYRING_INVALID" });
    }
    expect(await reservedKeys(inner)).toEqual(["check", "check/billing"]);
  });

  it("refuses another keyring even if the check record was deleted and every record has a scope", async () => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: newRing("key"), scope: scopeOf }).set("billing/key", "value");
    await inner.reserved().delete("check");
    const other = new EncryptedStore(inner, { keys: newRing("key"), scope: scopeOf });
    await expectRefusal(other.set("support/key", "value"), "OVERWRITE_REFUSED");
  });

  it("creates a deleted check record again if the keyring decrypts records in their scopes", async () => {
    const inner = new MemoryStore();
    const keys = newRing();
    await new EncryptedStore(inner, { keys, scope: scopeOf }).set("billing/key", "value");
    await inner.reserved().delete("check");
    await new EncryptedStore(inner, { keys, scope: scopeOf }).set("support/key", "value");
    expect(await reservedKeys(inner)).toEqual(["check"]);
  });

  it("registers the process once, as a replica without a scope", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing(), scope: scopeOf, replica: true });
    onTestFinished(() => store.disconnect());
    await store.set("billing/key", "value");
    await expect.poll(() => replicas(store)).toHaveLength(1);
    expect((await reservedKeys(inner)).filter((key) => key.startsWith("replica/"))).toHaveLength(1);
  });

  it("writes plaintext with a keyring without keys, whatever the function returns", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: Keyring.dangerouslyPlaintext(), scope: scopeOf });
    await store.set("billing/key", "value");
    expect(await inner.get("billing/key")).toBe("value");
    expect(await store.get("billing/key")).toBe("value");
  });
});

it("an option scope that is neither a string nor a function is refused", () => {
  const make = () => Reflect.construct(EncryptedStore, [new MemoryStore(), { keys: newRing(), scope: 7 }]);
  expect(make).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
});

function fail(key: string): never {
  throw new Error(`no scope for ${key}`);
}
