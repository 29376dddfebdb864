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
import { reservedNamespace } from "../../src/store-interface/inner-store.ts";

// What somebody can do who writes to the store, without any key or with the ring of one scope.
const marker = "s3cr3t-";
const value = `${marker}value`;
const alone = { unregistered: { waitMs: 0 } };

/** A source of keys that several processes share: each has a provider of its own. */
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

/** The error of a call, which quotes nothing that was decrypted. */
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
    throw new Error(`Nothing lies under ${key}`);
  };
  return { source, inner, space, stores, provider, options, operator, recorded };
}

/** What the holder of this ring can put under a key of the reserved space. */
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
  ["a check record that is no JSON", "check/s", `${marker} no json`],
  ["a check record that is a list", "check/s", "[[[]]]"],
  ["a check record of a generation that is none", "check/s", JSON.stringify({ ...check, generation: 1e300 })],
  ["a check record of a generation nobody has", "check/s", JSON.stringify({ ...check, generation: 2 ** 52 })],
  ["a check record of a later ring nobody has", "check/s", JSON.stringify({ ...check, sealedBy: 2 ** 52 })],
  ["a check record without end", "check/s", JSON.stringify({ ...check, name: "x".repeat(100_000) })],
  ["a heartbeat that is no JSON", "replica/evil/s", `${marker} no json`],
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
])("%s, put there by the holder of one scope's ring,", (_, key, text) => {
  async function planted() {
    const world = await begun();
    const scoped = Keyring.parse(exportKeyring(world.source.ring.scope("s")));
    await world.space.set(key, sealedAt(scoped, key, text));
    return { ...world, options: { ...world.options, replicasWithinMs: 30 } };
  }

  it("is shown as a problem at most, and ends no rotation", async () => {
    const { source, stores, provider, options } = await planted();
    const problems = (await replicas(stores.flows)).map(({ problem }) => problem);
    expect(problems).toEqual(key.startsWith("replica/") ? ["RECORD_MALFORMED"] : []);
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(source.ring.keys.map(({ id }) => id)).toEqual(["new"]);
  });

  it("ends no revocation", async () => {
    const { source, provider, options } = await planted();
    await revokeKey(provider, { ...options, id: "old", order: "disable-first" });
    expect(source.ring.keys).toMatchObject([{ id: "old", status: "disabled" }, { id: "new" }]);
  });
});

describe("what cannot be read as a heartbeat", () => {
  it("holds a rotation no longer than 90 seconds, however often it changes", async () => {
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

describe("a recorded heartbeat that is put back", () => {
  /** Heartbeats of a process that has gone. */
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

  it("holds no rotation once it has expired by what is sealed in it", async () => {
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

  it("is no sign of life, whichever others it takes turns with", async () => {
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

describe("the record of an earlier rotation that is put back", () => {
  it("does not make a return of what is under way now", async () => {
    const { source, space, provider, options, recorded } = await begun();
    await rotateKey(provider, { ...options, until: "reencrypt" });
    const returned = await rollBackRotation(provider, options);
    expect(returned).toMatchObject({ kind: "roll-back", step: "done" });
    // Asked once more, there is nothing left to do.
    expect(await rollBackRotation(provider, options)).toMatchObject({ id: returned.id, step: "done" });
    const earlier = await recorded("rotation");
    await rotateKey(provider, { ...options, newKey: { id: "third" }, until: "distribute" });
    await space.set("rotation", earlier);
    await expectRefusal(rollBackRotation(provider, options), "NO_ROTATION");
    expect(source.ring.keys.map(({ id }) => id)).toEqual(["old", "third"]);
  });

  it("does not make a rotation done that the ring says is not", async () => {
    const { source, space, provider, options, operator, recorded } = await begun();
    await rotateKey(provider, options);
    const earlier = await recorded("rotation");
    // Back to a key of the former id, and once more to the other one, which stays in the ring.
    source.ring = source.ring.add({ id: "old" }).promote("old");
    await rotateKey(provider, { ...options, until: "reencrypt" });
    await space.set("rotation", earlier);
    const later = operator();
    await expectRefusal(rotateKey(later.provider, later.options), "KEYRING_INVALID");
    expect(source.ring.keys.map(({ id, status }) => `${id} ${status}`)).toEqual(["new enabled", "old enabled"]);
  });

  it("in the middle of another one is written over, and ends nothing", async () => {
    const { source, space, provider, options, recorded } = await begun();
    await rotateKey(provider, { ...options, until: "reencrypt" });
    const running = await recorded("rotation");
    const { id } = (await rotationStatus(provider, options)) ?? {};
    await rotateKey(provider, options);
    const done = await recorded("rotation");
    // The key is back by hand, and so is what the record said in the middle.
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

  it("is refused with its name where it is not what Keyward writes", async () => {
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

describe("a check record that was deleted", () => {
  it("is founded anew by no ring that opens nothing in the store", async () => {
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

  it("is founded anew by the ring of a scope that alone has written there", async () => {
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

  it("is founded over what is no envelope, and where nothing can be listed", async () => {
    const inner = new MemoryStore();
    await inner.set("plain", "text");
    await inner.set("cut", "kw1.unknown.AAAA");
    await new EncryptedStore(inner, { keys: Keyring.generate() }).set("key", value);
    await inner.reserved().delete("check");
    vi.spyOn(inner.reserved(), "scan").mockRejectedValueOnce(new Error("not allowed"));
    await new EncryptedStore(inner, { keys: Keyring.generate() }).set("key", value);
  });

  it("can be written by name, by a ring that opens nothing there", async () => {
    const { inner, space } = await begun();
    await space.delete("check");
    const store = new EncryptedStore(inner, { keys: Keyring.generate() });
    await expectRefusal(store.set("fresh", value), "OVERWRITE_REFUSED");
    await store.overwriteCheckRecord();
    await store.set("fresh", value);
  });
});
