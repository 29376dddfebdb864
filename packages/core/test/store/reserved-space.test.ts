import { inspect } from "node:util";
import {
  EncryptedStore,
  exportKeyring,
  type KeyProvider,
  Keyring,
  KeywardError,
  type KeywardErrorCode,
  type RotateKeyOptions,
  replicas,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
  type StoredValue,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { seal } from "../../src/envelope/envelope.ts";
import { keyOf } from "../../src/keyring/keyring.ts";
import { reservedNamespace } from "../../src/store-interface/namespace-use.ts";

// The attacker can write to the store, and has no key, or only the keyring of one scope.
const marker = "s3cr3t-";
const value = `${marker}value`;
const alone = { unregistered: { waitMs: 0 } };

/** A key source that several processes share. Each has its own key provider. */
class Source {
  ring: Keyring;

  constructor(ring: Keyring) {
    this.ring = ring;
  }

  provider(): KeyProvider {
    return {
      load: async () => this.ring,
      save: async (next, previous) => {
        if (previous !== this.ring) throw new KeywardError("KEYRING_CONFLICT", "Changed meanwhile", { hint: "Again." });
        this.ring = next;
      },
    };
  }
}

/** Expects that a call rejects with this code, and that the error quotes nothing that was decrypted. */
async function expectRefusal(call: Promise<unknown>, code: KeywardErrorCode): Promise<KeywardError> {
  const error = await call.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof KeywardError)) throw new Error("It was not refused with a KeywardError", { cause: error });
  expect(error.code).toBe(code);
  expect(inspect(error)).not.toContain(marker);
  return error;
}

async function begun() {
  const source = new Source(Keyring.generate("old"));
  const inner = new MemoryStore();
  const operator = () => {
    const provider = source.provider();
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys: provider }) };
    const options: RotateKeyOptions = { stores, graceMs: 0, newKey: { id: "new" }, ...alone };
    return { provider, stores, options };
  };
  const { stores, provider, options } = operator();
  await stores.flows.set("key", value);
  const space = inner.reserved();
  const recorded = async (key: string): Promise<StoredValue> => {
    const { entries } = await space.scan({ limit: 1_000 });
    const stored = entries.find((entry) => entry.key === key)?.value;
    if (stored !== undefined) return stored;
    throw new Error(`There is no record under ${key}`);
  };
  return { source, inner, space, stores, provider, options, operator, recorded };
}

/** Returns a record of the reserved space, encrypted under the primary of a keyring. */
function sealedAt(ring: Keyring, key: string, text: string): StoredValue {
  const primary = keyOf(ring, ring.primary);
  if (primary === undefined) throw new Error("The ring has no primary");
  return seal(primary.id, primary.root, { namespace: reservedNamespace, key }, { value: text }, { form: "binary" });
}

const heartbeat = {
  keyward: "replica",
  name: "theirs",
  beat: 1,
  generation: 1,
  primary: "old",
  beatAtMs: Date.now(),
  heartbeatMs: 2_000,
  lapseMs: 10_000,
  longestCallMs: 0,
};
const check = { keyward: "check", generation: 1 };

describe.each<[string, string, string]>([
  ["a check record that is not JSON", "check/s", `${marker} no json`],
  ["a check record that is a list", "check/s", "[[[]]]"],
  ["a check record whose generation is not an integer", "check/s", JSON.stringify({ ...check, generation: 1e300 })],
  [
    "a check record with a generation number that no keyring has",
    "check/s",
    JSON.stringify({ ...check, generation: 2 ** 52 }),
  ],
  [
    "a check record whose encryption names a generation number that no keyring has",
    "check/s",
    JSON.stringify({ ...check, sealedBy: 2 ** 52 }),
  ],
  ["a check record that is too long", "check/s", JSON.stringify({ ...check, name: "x".repeat(100_000) })],
  ["a heartbeat that is not JSON", "replica/evil/s", `${marker} no json`],
  ["a heartbeat that is null", "replica/evil/s", "null"],
  ["a heartbeat without fields", "replica/evil/s", "{}"],
  ...(
    [
      ["longestCallMs", 1e300],
      ["longestCallMs", 3_600_001],
      ["lapseMs", 60_001],
      ["lapseMs", -1],
      ["beat", "many"],
      ["generation", 0.5],
      ["primary", `${marker} of no key`],
      ["name", "two\nlines"],
      ["name", "x".repeat(256)],
    ] as const
  ).map(([field, given]): [string, string, string] => [
    `a heartbeat whose ${field} is ${JSON.stringify(given).slice(0, 20)}`,
    "replica/evil/s",
    JSON.stringify({ ...heartbeat, [field]: given }),
  ]),
])("%s, written with the keyring of one scope,", (_, key, text) => {
  async function planted() {
    const world = await begun();
    const scoped = Keyring.parse(exportKeyring(world.source.ring.scope("s")));
    await world.space.set(key, sealedAt(scoped, key, text));
    return { ...world, options: { ...world.options, replicasWithinMs: 30 } };
  }

  it("such an invalid record does not stop a rotation, and is listed by replicas() as a problem only if it is a heartbeat", async () => {
    const { source, stores, provider, options } = await planted();
    const problems = (await replicas(stores.flows)).map(({ problem }) => problem);
    expect(problems).toEqual(key.startsWith("replica/") ? ["RECORD_MALFORMED"] : []);
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(source.ring.keys.map(({ id }) => id)).toEqual(["new"]);
  });

  it("such an invalid record does not stop a revocation", async () => {
    const { source, provider, options } = await planted();
    await revokeKey(provider, { ...options, id: "old", order: "disable-first" });
    expect(source.ring.keys).toMatchObject([{ id: "old", status: "disabled" }, { id: "new" }]);
  });
});

describe("a record that cannot be parsed as a heartbeat", () => {
  it("delays a rotation by 90 seconds at most, even if the record keeps changing", async () => {
    const { source, space, provider, options } = await begun();
    const scoped = source.ring.scope("s");
    const real = performance.now.bind(performance);
    let leapMs = 0;
    vi.spyOn(performance, "now").mockImplementation(() => real() + leapMs);
    onTestFinished(() => {
      vi.restoreAllMocks();
    });
    let looks = 0;
    const get = space.get.bind(space);
    vi.spyOn(space, "get").mockImplementation(async (key: string) => {
      if (key !== "replica/evil/s") return await get(key);
      looks++;
      leapMs += 10_000;
      return sealedAt(scoped, key, `${looks}`);
    });
    await space.set("replica/evil/s", sealedAt(scoped, "replica/evil/s", "0"));
    await rotateKey(provider, { ...options, until: "distribute" });
    expect(looks).toBeGreaterThan(9);
    expect(looks).toBeLessThan(13);
  });
});

describe("an old heartbeat that an attacker writes back", () => {
  /** Returns several heartbeats of a process that has disconnected. */
  async function recordedHeartbeats() {
    const world = await begun();
    const { source, inner, space, recorded } = world;
    const replica = { heartbeatMs: 10, lapseMs: 60_000 };
    const app = new EncryptedStore(new MemoryStore(inner), { keys: source.provider(), replica });
    await app.set("other", value);
    const keyOfIt = async () =>
      (await space.scan({ limit: 100 })).entries.find(({ key }) => key.startsWith("replica/"))?.key;
    const key = (await keyOfIt()) ?? "";
    const beats: StoredValue[] = [];
    while (beats.length < 4) {
      const now = await recorded(key);
      if (!beats.some((beat) => String(beat) === String(now))) beats.push(now);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    await app.disconnect();
    return { ...world, key, beats };
  }

  it("does not delay a rotation after the expiry in its envelope has passed", async () => {
    const { space, key, beats, provider, options, stores } = await recordedHeartbeats();
    await space.set(key, beats[0] ?? "");
    expect(await replicas(stores.flows)).toHaveLength(1);
    const real = Date.now.bind(Date);
    vi.spyOn(Date, "now").mockImplementation(() => real() + 25 * 3_600_000);
    onTestFinished(() => {
      vi.restoreAllMocks();
    });
    expect(await replicas(stores.flows)).toEqual([]);
    await rotateKey(provider, { ...options, until: "distribute", replicasWithinMs: 0 });
  });

  it("does not renew the lease of its replica, even if it alternates with other old heartbeats", async () => {
    const { space, key, beats, provider, options } = await recordedHeartbeats();
    const real = performance.now.bind(performance);
    let leapMs = 0;
    vi.spyOn(performance, "now").mockImplementation(() => real() + leapMs);
    onTestFinished(() => {
      vi.restoreAllMocks();
    });
    let looks = 0;
    const get = space.get.bind(space);
    vi.spyOn(space, "get").mockImplementation(async (at: string) => {
      if (at !== key) return await get(at);
      leapMs += 10_000;
      return beats[looks++ % beats.length];
    });
    await space.set(key, beats[0] ?? "");
    await rotateKey(provider, { ...options, until: "distribute" });
    // The lease is 90 seconds, and the beat grew three times at most.
    expect(looks).toBeLessThan(16);
  });
});

describe("an old or invalid rotation record that an attacker writes", () => {
  it("does not make a finished rollback apply to a rotation that began later", async () => {
    const { source, space, provider, options, recorded } = await begun();
    await rotateKey(provider, { ...options, until: "reencrypt" });
    const returned = await rollBackRotation(provider, options);
    expect(returned).toMatchObject({ kind: "roll-back", step: "done" });
    // Called again, the rollback has nothing left to do.
    expect(await rollBackRotation(provider, options)).toMatchObject({ id: returned.id, step: "done" });
    const earlier = await recorded("rotation");
    await rotateKey(provider, { ...options, newKey: { id: "third" }, until: "distribute" });
    await space.set("rotation", earlier);
    await expectRefusal(rollBackRotation(provider, options), "NO_ROTATION");
    expect(source.ring.keys.map(({ id }) => id)).toEqual(["old", "third"]);
  });

  it("does not make a rotation report that it is done if the keyring shows that the rotation is not complete", async () => {
    const { source, space, provider, options, operator, recorded } = await begun();
    await rotateKey(provider, options);
    const earlier = await recorded("rotation");
    // The operator promotes a new key with the former id, then rotates to the other key, which is still in the keyring.
    source.ring = source.ring.add({ id: "old" }).promote("old");
    await rotateKey(provider, { ...options, until: "reencrypt" });
    await space.set("rotation", earlier);
    const later = operator();
    await expectRefusal(rotateKey(later.provider, later.options), "KEYRING_INVALID");
    expect(source.ring.keys.map(({ id, status }) => `${id} ${status}`)).toEqual(["new enabled", "old enabled"]);
  });

  it("is overwritten by the rotation in progress, and the rotation completes", async () => {
    const { source, space, provider, options, recorded } = await begun();
    await rotateKey(provider, { ...options, until: "reencrypt" });
    const running = await recorded("rotation");
    const { id } = (await rotationStatus(provider, options)) ?? {};
    await rotateKey(provider, options);
    const done = await recorded("rotation");
    // The operator adds the key again, and an attacker writes the record from the middle of the rotation again.
    source.ring = source.ring.add({ id: "old" });
    await space.set("rotation", running);
    let isPutBack = false;
    const report = await rotateKey(provider, {
      ...options,
      onProgress: async ({ kind }) => {
        if (kind !== "step" || isPutBack) return;
        isPutBack = true;
        await space.set("rotation", done);
      },
    });
    expect(report).toMatchObject({ id, step: "done" });
    expect(source.ring.keys.map((key) => key.id)).toEqual(["new"]);
  });

  it("makes rotateKey reject with an error that names the record, if its content cannot be from Keyward", async () => {
    const { source, space, provider, options } = await begun();
    const status = { id: "x", kind: "rotate", from: "old", to: "new", step: "add", startedAtMs: 1 };
    for (const said of [
      "no json",
      "{}",
      JSON.stringify({ ...status, step: "leave" }),
      JSON.stringify({ ...status, kind: "revoke", order: "disable-first", step: "grace" }),
      JSON.stringify({ ...status, startedAtMs: 1e300 }),
      JSON.stringify({ ...status, disabledAtMs: -1 }),
      JSON.stringify({ ...status, to: `${marker} of no key` }),
    ]) {
      await space.set("rotation", sealedAt(source.ring, "rotation", said));
      const error = await expectRefusal(rotateKey(provider, options), "RECORD_MALFORMED");
      expect(error.message).toBe("The record of the last rotation cannot be read");
      await expectRefusal(rotationStatus(provider, options), "RECORD_MALFORMED");
    }
    await rotateKey(provider, { ...options, abandonUnreadable: true });
  });
});

describe("a deleted check record", () => {
  it("is not created again by a keyring that decrypts no record of the store", async () => {
    const { source, inner, space, provider, options } = await begun();
    const former = source.ring;
    await rotateKey(provider, options);
    await space.delete("check");
    const before = (await inner.scan()).entries;
    for (const ring of [former, Keyring.generate("new"), Keyring.generate("another")]) {
      for (const scope of [undefined, "tenant"]) {
        const given = { keys: ring, ...(scope === undefined ? {} : { scope }) };
        const error = await expectRefusal(new EncryptedStore(inner, given).set("fresh", value), "OVERWRITE_REFUSED");
        expect(error.message).toMatch(/but no check record/);
      }
    }
    expect((await inner.scan()).entries).toEqual(before);
    expect(await space.get("check")).toBeUndefined();
    const right = new EncryptedStore(inner, { keys: source.ring });
    await right.set("fresh", value);
    expect(await right.get("key")).toBe(value);
    await expectRefusal(new EncryptedStore(inner, { keys: former }).set("fresh", value), "OVERWRITE_REFUSED");
  });

  it("is created again by a write in the only scope in which the store contains records", async () => {
    const ring = Keyring.generate("old");
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: ring, scope: "tenant" }).set("key", value);
    const space = inner.reserved();
    for (const lost of [["check"], ["check", "check/tenant"]]) {
      for (const key of lost) await space.delete(key);
      await new EncryptedStore(inner, { keys: ring, scope: "tenant" }).set("other", value);
      expect(await space.get("check")).toBeDefined();
    }
    await space.delete("check");
    await new EncryptedStore(inner, { keys: ring }).set("unscoped", value);
  });

  it("is created again if the store contains no envelope, or cannot be scanned", async () => {
    const inner = new MemoryStore();
    await inner.set("plain", "text");
    await inner.set("cut", "kw1.unknown.AAAA");
    await new EncryptedStore(inner, { keys: Keyring.generate() }).set("key", value);
    await inner.reserved().delete("check");
    vi.spyOn(inner.reserved(), "scan").mockRejectedValueOnce(new Error("not allowed"));
    await new EncryptedStore(inner, { keys: Keyring.generate() }).set("key", value);
  });

  it("is created again by overwriteCheckRecord(), even if the keyring decrypts no record of the store", async () => {
    const { inner, space } = await begun();
    await space.delete("check");
    const store = new EncryptedStore(inner, { keys: Keyring.generate() });
    await expectRefusal(store.set("fresh", value), "OVERWRITE_REFUSED");
    await store.overwriteCheckRecord();
    await store.set("fresh", value);
  });
});
