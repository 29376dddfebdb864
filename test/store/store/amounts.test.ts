import {
  census,
  EncryptedStore,
  planRotation,
  type RotateKeyOptions,
  rangesOf,
  reencrypt,
  requireFreshness,
  requireLimit,
  revokeKey,
  rollBackRotation,
  rotateKey,
  wrappedKeys,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { KeysOverOneSource, newRing } from "../rings.ts";

const wrong: readonly number[] = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -1, 0.5, 1e300];
// A timer of Node.js with a longer delay fires at once.
const noDuration = [...wrong, 2 ** 31];

function begun() {
  const source = new KeysOverOneSource(newRing("old"));
  const provider = source.provider();
  const inner = new MemoryStore();
  const store = new EncryptedStore(inner, { keys: provider });
  const options: RotateKeyOptions = { stores: { store }, graceMs: 0, unregistered: { waitMs: 0 } };
  return { source, provider, inner, store, options };
}

describe.each<[string, readonly number[], (value: number) => Partial<RotateKeyOptions>]>([
  ["unregistered.waitMs", noDuration, (waitMs) => ({ unregistered: { waitMs } })],
  ["replicasWithinMs", noDuration, (replicasWithinMs) => ({ replicasWithinMs })],
  // The rotation waits for it in parts, so it may be longer than the delay of a timer.
  ["graceMs", wrong, (graceMs) => ({ graceMs })],
  ["batchSize", [...wrong, 0], (batchSize) => ({ reencrypt: { batchSize } })],
  ["concurrency", [...wrong, 0], (concurrency) => ({ reencrypt: { concurrency } })],
  ["maxPerSecond", [...wrong, 0], (maxPerSecond) => ({ reencrypt: { maxPerSecond } })],
])("the option %s of a rotation", (name, values, given) => {
  it.each(values)(`the option ${name} cannot be %d: the call rejects before anything is changed`, async (amount) => {
    const { source, provider, inner, options } = begun();
    const all = { ...options, ...given(amount) };
    const revocation = { ...all, id: "old", order: "disable-first" } as const;
    for (const call of [
      () => rotateKey(provider, all),
      () => planRotation(provider, all),
      () => rollBackRotation(provider, all),
      () => revokeKey(provider, revocation),
    ]) {
      expect((await expectRefusal(call, "VALUE_INVALID")).message).toContain(`${name} is not an integer between`);
    }
    expect(source.saves).toBe(0);
    expect((await inner.reserved().scan()).entries).toEqual([]);
  });
});

it("rotateKey refuses the option unregistered if it is neither a function nor an object with waitMs", async () => {
  const { source, provider, options } = begun();
  const given: unknown = { ...options, unregistered: 60_000 };
  await expectRefusal(() => Reflect.apply(rotateKey, undefined, [provider, given]), "VALUE_INVALID");
  expect(source.saves).toBe(0);
});

describe.each<[string, readonly number[], (value: number) => unknown]>([
  ["batchSize of a census", [...wrong, 0], (batchSize) => census(begun().store, { batchSize })],
  ["batchSize of a re-encryption", [...wrong, 0], (batchSize) => reencrypt(begun().store, { batchSize })],
  ["concurrency of a re-encryption", [...wrong, 0], (concurrency) => reencrypt(begun().store, { concurrency })],
  ["maxPerSecond of a re-encryption", [...wrong, 0], (maxPerSecond) => reencrypt(begun().store, { maxPerSecond })],
  ["count of ranges", [...wrong, 0], (count) => rangesOf(begun().store, count)],
  ["limit of a scan", [...wrong, 0], (limit) => requireLimit(limit)],
  ["refreshMs", [...noDuration, 0], (refreshMs) => requireFreshness({ refreshMs })],
  ["maxAgeMs", [...noDuration, 0], (maxAgeMs) => requireFreshness({ maxAgeMs })],
  ["timeoutMs", [...noDuration, 0], (timeoutMs) => requireFreshness({ timeoutMs })],
  ["minGeneration", [...wrong, 0], (minGeneration) => wrappedBy(minGeneration)],
  ["padTo", [...wrong, 0, 2 ** 20 + 1], (padTo) => storeWith({ padTo })],
  ["keepDecrypted", [...wrong, 0, 2 ** 20 + 1], (keepDecrypted) => storeWith({ keepDecrypted })],
  ["heartbeatMs", [...noDuration, 9, 20_001], (heartbeatMs) => storeWith({ replica: { heartbeatMs } })],
  ["lapseMs", [...noDuration, 29, 60_001], (lapseMs) => storeWith({ replica: { heartbeatMs: 10, lapseMs } })],
  ["longestCallMs", [...noDuration, 3_600_001], (longestCallMs) => storeWith({ replica: { longestCallMs } })],
  ["longestCallMs of the store", [...noDuration, 3_600_001], (longestCallMs) => storeThatTakes(longestCallMs)],
])("the %s", (name, values, give) => {
  it.each(values)(`the ${name} cannot be %d`, async (amount) => {
    const error = await expectRefusal(async () => await give(amount), "VALUE_INVALID");
    expect(error.message).toContain(name.split(" ")[0]);
    expect(error.message).toMatch(/is not an integer between \d+ and \d+ \(in \w+\), but/);
  });
});

function storeWith(options: {
  readonly padTo?: number;
  readonly keepDecrypted?: number;
  readonly replica?: object;
}): EncryptedStore {
  return new EncryptedStore(new MemoryStore(), { keys: newRing(), ...options });
}

function storeThatTakes(longestCallMs: number): EncryptedStore {
  const inner = Object.assign(new MemoryStore(), { longestCallMs });
  return new EncryptedStore(inner, { keys: newRing(), replica: true });
}

function wrappedBy(minGeneration: number): unknown {
  const address = { read: async () => undefined, replace: async () => false };
  const wrapper = { wrap: async () => "", unwrap: async () => new Uint8Array() };
  return wrappedKeys(wrapper, address, { minGeneration });
}
