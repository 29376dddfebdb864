import { Keyring, KeywardError } from "@keyward/core";
import { describe, expect, it } from "vitest";
import { KeyringSource } from "../../src/keyring/keyring-source.ts";
import { OverwriteGuard } from "../../src/store/overwrite-guard.ts";
import { RecordCodec } from "../../src/store/record-codec.ts";
import { RecordScopes } from "../../src/store/record-scopes.ts";
import { WrappedStore } from "../../src/store-interface/wrapped-store.ts";

/** Returns an OverwriteGuard that can mark at most two records, over a store with three records that cannot be read. */
async function guardOfTwo() {
  const inner = new WrappedStore(new Map());
  const codec = new RecordCodec(KeyringSource.of(Keyring.generate()), inner.form, {
    scopes: new RecordScopes(undefined),
    accept: [],
  });
  for (const key of ["one", "two", "three"]) await inner.set(key, "kw1.unknown.", undefined);
  return new OverwriteGuard(inner, codec, 2);
}

async function isRefused(guard: OverwriteGuard, namespace: string, key: string): Promise<boolean> {
  try {
    await guard.requireReadable(namespace, [key]);
    return false;
  } catch (error) {
    if (error instanceof KeywardError && error.code === "OVERWRITE_REFUSED") return true;
    throw error;
  }
}

describe("OverwriteGuard, with more unreadable records than it can mark,", () => {
  it("reads a record before a write replaces it, but only in the namespace of the unreadable records", async () => {
    const guard = await guardOfTwo();
    for (const key of ["one", "two", "three"]) guard.markUnreadable("", key);
    for (const key of ["one", "two", "three"]) expect(await isRefused(guard, "", key)).toBe(true);
    expect(guard.requireReadable("", ["fresh"])).toBeInstanceOf(Promise);
    expect(await isRefused(guard, "", "fresh")).toBe(false);
    expect(guard.requireReadable("other", ["one"])).toBeUndefined();
  });

  it("still protects a record that it could not mark, even after it has removed the marks of the other records", async () => {
    const guard = await guardOfTwo();
    for (const key of ["one", "two", "three"]) guard.markUnreadable("", key);
    guard.unmark("", "one", guard.logicalTime);
    guard.unmark("", "two", guard.logicalTime);
    expect(await isRefused(guard, "", "three")).toBe(true);
  });

  it("removes the marks of all records in a namespace when the namespace is cleared", async () => {
    const guard = await guardOfTwo();
    for (const key of ["one", "two", "three"]) guard.markUnreadable("", key);
    guard.unmarkAll("", guard.logicalTime);
    expect(guard.requireReadable("", ["three"])).toBeUndefined();
    // There is room for marks again.
    guard.markUnreadable("", "one");
    expect(guard.requireReadable("", ["two"])).toBeUndefined();
  });

  it("needs only one mark for a record that is marked twice, and can mark another record after a mark is removed", async () => {
    const guard = await guardOfTwo();
    for (const key of ["one", "one", "two", "two"]) guard.markUnreadable("", key);
    guard.unmark("", "one", guard.logicalTime);
    guard.unmark("", "one", guard.logicalTime);
    guard.markUnreadable("", "three");
    expect(guard.requireReadable("", ["fresh", "one"])).toBeUndefined();
    for (const key of ["two", "three"]) expect(await isRefused(guard, "", key)).toBe(true);
  });
});
