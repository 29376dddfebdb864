import { randomBytes } from "node:crypto";
import {
  census,
  EncryptedStore,
  type Instruction,
  type KeyProvider,
  Keyring,
  type KeyringChange,
  KeywardError,
  planRotation,
  type RotationProgress,
  reencrypt,
  replicas,
  retireKey,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { KeysOverOneSource, newRing } from "../rings.ts";
import { marker } from "../secrets.ts";
import { keyIdIn } from "../store/inner-stores.ts";

const value = `${marker}value`;
const replica = { heartbeatMs: 10, lapseMs: 5_000 };

/** Keys at a source that Keyward cannot write to. All keyrings from this source have generation 1. */
class PlainKeys {
  readonly #materials = new Map<string, Uint8Array>();
  #primary: string;
  /** The error of each load, if it is set. */
  problem: KeywardError | undefined;

  constructor(primary: string) {
    this.#materials.set(primary, randomBytes(32));
    this.#primary = primary;
  }

  get ring(): Keyring {
    return this.ringWithPrimary(this.#primary);
  }

  /** Returns a keyring with the present keys, but with another primary. */
  ringWithPrimary(primary: string): Keyring {
    return Keyring.fromKeys(
      [...this.#materials].map(([id, material]) => ({ id, material })),
      primary,
    );
  }

  get ids(): readonly string[] {
    return [...this.#materials.keys()];
  }

  /** Returns a keyring with all keys of another one, and with the keys of this source that have other ids or material. */
  beside(ring: Keyring): Keyring {
    let both = ring.keys.some(({ id }) => id === "new") ? ring.promote("new").remove("new") : ring;
    for (const [id, material] of this.#materials) both = both.add({ id, material });
    return both;
  }

  /** Makes a change as a person does who follows an instruction. */
  make(change: KeyringChange): void {
    if (change.kind === "add") this.#materials.set(change.keyId, randomBytes(32));
    if (change.kind === "promote" || change.kind === "replace") this.#primary = change.keyId;
    if (change.kind === "remove") this.#materials.delete(change.keyId);
    if (change.kind === "replace") this.#materials.delete(change.former);
  }

  /** Removes a key, and returns a function that puts the key back. */
  takeAway(id: string): () => void {
    const material = this.#materials.get(id) ?? new Uint8Array();
    this.#materials.delete(id);
    return () => this.#materials.set(id, material);
  }

  /** Returns the provider of one process, which sees each change at its next load. */
  provider(): KeyProvider {
    return {
      freshness: { refreshMs: 20 },
      load: async () => {
        if (this.problem !== undefined) throw this.problem;
        return this.ring;
      },
    };
  }

  /** Returns the provider of a process that keeps the present keys, as a process keeps its environment variables. */
  fixedProvider(): KeyProvider {
    const { ring } = this;
    return {
      load: async () => ring,
      describeChange: ({ kind, keyId }) => ({ text: `${kind} ${keyId} in the variables`, needsRestart: true }),
    };
  }
}

/** A backend with ten records under the key "old", a process that uses it, and an operator who changes the keys when asked. */
async function begun() {
  const source = new PlainKeys("old");
  const inner = new MemoryStore();
  const app = new EncryptedStore(inner, { keys: source.provider(), replica: { ...replica, name: "app" } });
  onTestFinished(() => app.disconnect());
  const keys = Array.from({ length: 10 }, (_, index) => `key-${index}`);
  await app.setMany(keys.map((key) => ({ key, value })));
  const asked: Instruction[] = [];
  const instruct = (instruction: Instruction) => {
    asked.push(instruction);
    source.make(instruction.change);
  };
  const operator = (provider = source.provider()) => {
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys: provider }) };
    return { provider, options: { stores, graceMs: 0, newKey: { id: "new" }, instruct } };
  };
  const idsIn = async () => [...(await census(inner)).keys.keys()];
  const expectReadable = async () => expect(await app.getMany(keys)).toEqual(keys.map(() => value));
  return { source, inner, app, operator, asked, idsIn, expectReadable };
}

/** Returns a store of a process that was started with the given keys and does not register as a replica. */
function unregistered(inner: MemoryStore, keys: Keyring): EncryptedStore {
  return new EncryptedStore(new MemoryStore(inner), { keys, reencrypt: "off" });
}

describe("a guided rotation", () => {
  it("asks for each change at the source, and ends with every record under the new key", async () => {
    const { source, inner, app, operator, asked, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    const steps: string[] = [];
    const report = await rotateKey(provider, {
      ...options,
      onProgress: (progress) => progress.kind === "step" && steps.push(progress.step),
    });
    expect(report).toMatchObject({ kind: "rotate", from: "old", to: "new", step: "done" });
    expect(steps).toEqual(["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove"]);
    expect(asked.map(({ change }) => change)).toEqual([
      { kind: "add", keyId: "new" },
      { kind: "promote", keyId: "new", former: "old" },
      { kind: "remove", keyId: "old" },
    ]);
    for (const { text, needsRestart, problem } of asked) {
      expect(text).toContain("At the source from which the key provider loads the keys");
      expect({ needsRestart, problem }).toEqual({ needsRestart: false, problem: undefined });
    }
    expect(source.ids).toEqual(["new"]);
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
    const reserved = await inner.reserved().scan();
    expect(new Set(reserved.entries.map(({ value: stored }) => keyIdIn(stored)))).toEqual(new Set(["new"]));
    await expect
      .poll(() => replicas(app), { timeout: 10_000 })
      .toMatchObject([{ primary: "new", keys: [expect.stringMatching(/^new:[0-9a-f]{8}$/)] }]);
    // The same call again finds the rotation done, and asks for nothing.
    expect(await rotateKey(provider, options)).toMatchObject({ id: report.id, step: "done" });
    expect(asked).toHaveLength(3);
  });

  it("can be repeated many times, even if the generation number of the keyring never changes", async () => {
    const { source, operator, idsIn, expectReadable } = await begun();
    for (const id of ["second", "third", "old", "fourth"]) {
      const { provider, options } = operator();
      const report = await rotateKey(provider, { ...options, newKey: { id } });
      expect(report).toMatchObject({ to: id, step: "done", generation: 1 });
      expect(source.ids).toEqual([id]);
      expect(await idsIn()).toEqual([id]);
      await expectReadable();
    }
  });

  it("is refused with PROVIDER_READ_ONLY without the option `instruct`, and has all steps of a rotation with this option", async () => {
    const { operator } = await begun();
    const { provider, options } = operator();
    const { instruct, ...without } = options;
    for (const call of [rotateKey, planRotation]) {
      const { hint } = await expectRefusal(() => call(provider, without), "PROVIDER_READ_ONLY");
      expect(hint).toContain("instruct");
    }
    await expectRefusal(
      () => Reflect.apply(rotateKey, undefined, [provider, { ...without, instruct: "me" }]),
      "VALUE_INVALID",
    );
    expect(await rotationStatus(provider, options)).toBeUndefined();
    const { steps } = await planRotation(provider, { ...without, instruct });
    expect(steps.map(({ step }) => step)).toEqual([
      "add",
      "distribute",
      "promote",
      "drain",
      "reencrypt",
      "disable",
      "grace",
      "remove",
    ]);
  });

  it("never calls `instruct` if the provider can save a keyring", async () => {
    const source = new KeysOverOneSource(newRing("old"));
    const inner = new MemoryStore();
    const provider = source.provider();
    const stores = { flows: new EncryptedStore(inner, { keys: provider }) };
    const instruct = vi.fn();
    const options = { stores, graceMs: 0, newKey: { id: "new" }, unregistered: { waitMs: 0 }, instruct };
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(instruct).not.toHaveBeenCalled();
  });

  it("rejects with CHANGE_NEEDED if this process keeps its keys until a restart, and continues in a new process", async () => {
    const { source, operator, asked, idsIn, expectReadable } = await begun();
    for (const change of ["add new", "promote new", "remove old"]) {
      const { provider, options } = operator(source.fixedProvider());
      const error = await expectRefusal(rotateKey(provider, options), "CHANGE_NEEDED");
      expect(error.hint).toContain(`${change} in the variables`);
      expect(error.keyId).toBe(change.split(" ")[1]);
    }
    const { provider, options } = operator(source.fixedProvider());
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(asked).toHaveLength(3);
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
  });

  it("calls `instruct` again with the problem if the changed keys cannot be loaded, and continues when they can", async () => {
    const { source, operator, expectReadable } = await begun();
    const { provider, options } = operator();
    const problems: (KeywardError | undefined)[] = [];
    const report = await rotateKey(provider, {
      ...options,
      instruct: ({ change, problem }) => {
        problems.push(problem);
        source.make(change);
        const isFirst = problems.length === 1;
        source.problem = isFirst
          ? new KeywardError("KEY_INVALID", "The new key is cut", { hint: "Make another key." })
          : undefined;
      },
    });
    expect(report).toMatchObject({ step: "done" });
    expect(problems.map((problem) => problem?.code)).toEqual([undefined, "KEY_INVALID", undefined, undefined]);
    await expectReadable();
  });

  it("rejects with REPLICA_BEHIND and names the keys of a replica that has not loaded the new key, and continues after it has", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const { late, follow } = await lateReplica(source, inner);
    const { provider, options } = operator();
    const error = await expectRefusal(rotateKey(provider, { ...options, replicasWithinMs: 50 }), "REPLICA_BEHIND");
    expect(error.message).toMatch(/At step "distribute".*late.*primary old, keys old:[0-9a-f]{8}\)/);
    follow();
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    await expectReadable();
    expect(await late.get("late")).toBe(value);
  });

  it("waits for a write that a replica began under the old key, even if the generation number does not change", async () => {
    const { source, inner, operator, idsIn } = await begun();
    const sending = Promise.withResolvers<void>();
    const isSending = Promise.withResolvers<void>();
    const slow = new MemoryStore(inner);
    const set = slow.set.bind(slow);
    slow.set = async (key, stored, expires) => {
      isSending.resolve();
      await sending.promise;
      return await set(key, stored, expires);
    };
    const writer = new EncryptedStore(slow, { keys: source.provider(), replica: { ...replica, name: "writer" } });
    onTestFinished(() => writer.disconnect());
    // The keyring is in use before the write begins.
    expect(await writer.get("key-0")).toBe(value);
    const written = writer.set("slow", value);
    await isSending.promise;
    const { provider, options } = operator();
    let sent = false;
    const onProgress = (progress: RotationProgress) => {
      if (progress.kind === "step" && progress.step === "reencrypt") expect(sent).toBe(true);
    };
    const rotation = rotateKey(provider, { ...options, onProgress });
    rotation.catch(() => undefined);
    await vi.waitFor(async () => {
      const found = (await replicas(writer)).find(({ name }) => name === "writer");
      expect(found).toMatchObject({ primary: "new", drained: false, generation: 1 });
    }, 10_000);
    sent = true;
    sending.resolve();
    expect(await rotation).toMatchObject({ step: "done" });
    expect(await written).toBe(true);
    expect(await idsIn()).toEqual(["new"]);
    expect(await writer.get("slow")).toBe(value);
  });

  it("refuses writes of a process that starts with the former keys after the step `drain`, also in a scope", async () => {
    const { source, inner, operator, idsIn } = await begun();
    const { provider, options } = operator();
    const scoped = () => new EncryptedStore(new MemoryStore(inner), { keys: source.ring.scope("tenant") });
    await scoped().set("scoped", value);
    const stores = {
      ...options.stores,
      scoped: new EncryptedStore(new MemoryStore(inner), { keys: provider, scope: "tenant" }),
    };
    await rotateKey(provider, { ...options, stores, until: "promote" });
    const former = source.ringWithPrimary("old");
    await rotateKey(provider, { ...options, stores, until: "drain" });
    for (const keys of [former, former.scope("tenant")]) {
      const stale = new EncryptedStore(new MemoryStore(inner), { keys, replica: { ...replica, name: "stale" } });
      onTestFinished(() => stale.disconnect());
      await expectRefusal(stale.set("stale", value), "KEYRING_ROLLBACK");
    }
    expect(await rotateKey(provider, { ...options, stores })).toMatchObject({ step: "done" });
    expect(await idsIn()).toEqual(["new"]);
    expect(await scoped().get("scoped")).toBe(value);
    await scoped().set("after", value);
  });

  it("refuses writes of a process that starts with the keys from before the rotation, until a rotation restores the old key", async () => {
    const { source, inner, operator, asked } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "promote" });
    const former = source.ringWithPrimary("old");
    await rotateKey(provider, options);
    const stale = unregistered(inner, former);
    const error = await expectRefusal(stale.set("stale", value), "KEYRING_ROLLBACK");
    expect(error.message).toContain(
      'key "old" is the primary of this process, but a rotation took this key out of use',
    );
    await expectRefusal(stale.ready(), "KEYRING_ROLLBACK");
    expect(await stale.get("key-0")).toBe(value);
    // A deployment of an earlier state is refused as well if it registers as a replica.
    const replicated = new EncryptedStore(new MemoryStore(inner), { keys: former, replica });
    onTestFinished(() => replicated.disconnect());
    await expectRefusal(replicated.set("stale", value), "KEYRING_ROLLBACK");
    asked.length = 0;
    expect(await rotateKey(provider, { ...options, newKey: { id: "old" } })).toMatchObject({ step: "done", to: "old" });
    expect(asked.map(({ change }) => change.kind)).toEqual(["add", "promote", "remove"]);
    await unregistered(inner, source.ring).set("written", value);
  });

  it("re-encrypts a record that a process wrote under the old key during the grace", async () => {
    const { source, inner, operator, idsIn } = await begun();
    const before = source.ring;
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "grace" });
    await writeUnder(before, inner, "late");
    expect(await idsIn()).toContain("old");
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(await idsIn()).toEqual(["new"]);
  });

  it("rejects with KEY_IN_USE if a record is written under the old key while the key is removed, and completes after the key was put back", async () => {
    const { source, inner, operator, idsIn } = await begun();
    const before = source.ring;
    const { provider, options } = operator();
    let putBack = () => {};
    const instruct = async ({ change }: Instruction) => {
      if (change.kind !== "remove") return source.make(change);
      putBack = source.takeAway(change.keyId);
      await writeUnder(before, inner, "late");
    };
    const error = await expectRefusal(rotateKey(provider, { ...options, instruct }), "KEY_IN_USE");
    expect(error.counts).toEqual({ flows: 1 });
    expect(await rotationStatus(provider, options)).toMatchObject({ step: "remove" });
    await expectRefusal(rotateKey(provider, options), "KEY_IN_USE");
    putBack();
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(await idsIn()).toEqual(["new"]);
    expect(source.ids).toEqual(["new"]);
  });

  it("rejects with KEY_UNKNOWN if the old key was removed too early, and continues after the key was put back", async () => {
    const { source, operator, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "promote" });
    const putBack = source.takeAway("old");
    const other = operator();
    const error = await expectRefusal(rotateKey(other.provider, { ...other.options, ...alone }), "KEY_UNKNOWN");
    expect(error.hint).toContain('Put key "old" back');
    putBack();
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
  });

  it("can be rolled back during the grace, because the old key stays enabled until it is removed", async () => {
    const { source, operator, asked, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "grace" });
    asked.length = 0;
    const { newKey, ...rest } = options;
    expect(await rollBackRotation(provider, rest)).toMatchObject({ kind: "roll-back", step: "done", to: "old" });
    expect(asked.map(({ change }) => change)).toEqual([
      { kind: "promote", keyId: "old", former: newKey.id },
      { kind: "remove", keyId: newKey.id },
    ]);
    expect(source.ids).toEqual(["old"]);
    expect(await idsIn()).toEqual(["old"]);
    await expectReadable();
  });

  it("rejects with ROTATION_IN_PROGRESS if another operator rolls it back while it waits for a change", async () => {
    const { source, operator, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "distribute" });
    const isAsked = Promise.withResolvers<void>();
    const first = rotateKey(provider, { ...options, instruct: () => isAsked.resolve() });
    first.catch(() => undefined);
    await isAsked.promise;
    const other = operator();
    const { newKey, ...rest } = other.options;
    expect(await rollBackRotation(other.provider, rest)).toMatchObject({ step: "done", to: "old" });
    await expectRefusal(first, "ROTATION_IN_PROGRESS");
    expect(source.ids).toEqual(["old"]);
    expect(await idsIn()).toEqual(["old"]);
    await expectReadable();
  });

  it("can be rolled back before its new key was added, and the roll-back asks for no change", async () => {
    const { source, operator, asked, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    const stop = new AbortController();
    const instruct = () => stop.abort(new Error("stopped"));
    await expect(rotateKey(provider, { ...options, instruct, signal: stop.signal })).rejects.toThrow("stopped");
    const { newKey: _, ...rest } = options;
    expect(await rollBackRotation(provider, rest)).toMatchObject({ step: "done", to: "old" });
    expect(asked).toEqual([]);
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    expect(source.ids).toEqual(["new"]);
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
  });

  it("resumes a revocation with the order disable-first that was stopped while it asked for the change", async () => {
    const { source, inner, app, operator, asked } = await begun();
    const { provider, options } = operator();
    const revocation = { ...options, id: "old", order: "disable-first" } as const;
    const stop = new AbortController();
    const instruct = (instruction: Instruction) => {
      if (instruction.change.kind === "replace") stop.abort(new Error("stopped"));
      else source.make(instruction.change);
    };
    await expect(revokeKey(provider, { ...revocation, instruct, signal: stop.signal })).rejects.toThrow("stopped");
    expect(await revokeKey(provider, revocation)).toMatchObject({ step: "done" });
    expect(asked.map(({ change }) => change.kind)).toEqual(["replace"]);
    await unregistered(inner, source.ring).set("after", value);
    await app.set("after too", value);
  });

  it("rejects with ROTATION_IN_PROGRESS if another operator rolls it back while it waits for replicas", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const { follow } = await lateReplica(source, inner);
    const { provider, options } = operator();
    const isWaiting = Promise.withResolvers<void>();
    const onProgress = (progress: RotationProgress) => {
      if (progress.kind === "waiting" && progress.step === "distribute") isWaiting.resolve();
    };
    const first = rotateKey(provider, { ...options, onProgress });
    first.catch(() => undefined);
    await isWaiting.promise;
    const other = operator();
    const { newKey: _, ...rest } = other.options;
    const back = rollBackRotation(other.provider, rest);
    await expectRefusal(first, "ROTATION_IN_PROGRESS");
    follow();
    expect(await back).toMatchObject({ step: "done", to: "old" });
    await expectReadable();
  });

  it("can be rolled back with a provider that can save, so that the old key is the primary again", async () => {
    const { source, inner, app, operator } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "grace" });
    await app.disconnect();
    const savable = new KeysOverOneSource(source.ring);
    const keys = savable.provider();
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys }) };
    const back = await rollBackRotation(keys, { stores, graceMs: 0, ...alone });
    expect(back).toMatchObject({ step: "done", to: "old" });
    await unregistered(inner, savable.ring).set("written", value);
    expect(await unregistered(inner, savable.ring).get("key-0")).toBe(value);
  });

  it("stops waiting for a change when its signal is aborted", async () => {
    const { operator } = await begun();
    const { provider, options } = operator();
    const stop = new AbortController();
    const instruct = () => stop.abort(new Error("stopped"));
    await expect(rotateKey(provider, { ...options, instruct, signal: stop.signal })).rejects.toThrow("stopped");
    expect(await rotationStatus(provider, options)).toMatchObject({ step: "add" });
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
  });

  it("revokes a key with the order disable-first by two changes, add and replace, and keeps the reserved space readable", async () => {
    const { source, inner, app, operator, asked, idsIn } = await begun();
    const { provider, options } = operator();
    const scoped = () => new EncryptedStore(new MemoryStore(inner), { keys: source.provider(), scope: "tenant" });
    await scoped().set("scoped", value);
    const report = await revokeKey(provider, { ...options, id: "old", order: "disable-first" });
    expect(report).toMatchObject({ step: "done", madeUnreadable: { flows: 11 } });
    expect(asked.map(({ change }) => change)).toEqual([
      { kind: "add", keyId: "new" },
      { kind: "replace", keyId: "new", former: "old" },
    ]);
    expect(source.ids).toEqual(["new"]);
    await expectRefusal(app.get("key-0"), "KEY_UNKNOWN");
    await app.set("after", value);
    expect(await app.get("after")).toBe(value);
    // The check record of the scope is readable too.
    await scoped().set("after in the scope", value);
    expect(await idsIn()).toEqual(expect.arrayContaining(["old", "new"]));
    const reserved = await inner.reserved().scan();
    expect(new Set(reserved.entries.map(({ value: stored }) => keyIdIn(stored)))).toEqual(new Set(["new"]));
  });

  it("revokes the old key with the order disable-first, even if a process with the old keys starts just before the keys are changed", async () => {
    const { source, inner, app, operator } = await begun();
    const { provider, options } = operator();
    const instruct = async ({ change }: Instruction) => {
      if (change.kind === "replace") {
        await expectRefusal(unregistered(inner, source.ring).set("started", value), "KEYRING_ROLLBACK");
      }
      source.make(change);
    };
    const revocation = { ...options, instruct, id: "old", order: "disable-first" } as const;
    expect(await revokeKey(provider, revocation)).toMatchObject({ step: "done" });
    await unregistered(inner, source.ring).set("started", value);
    await app.set("after", value);
  });

  it("rejects with REPLICA_BEHIND if a replica has another key under the id of the new key", async () => {
    const { source, inner, operator } = await begun();
    const own = new PlainKeys("new");
    const wrong = new EncryptedStore(new MemoryStore(inner), {
      keys: { freshness: { refreshMs: 20 }, load: async () => own.beside(source.ring) },
      replica: { ...replica, name: "wrong" },
    });
    onTestFinished(() => wrong.disconnect());
    await wrong.set("key", value);
    const { provider, options } = operator();
    const error = await expectRefusal(rotateKey(provider, { ...options, replicasWithinMs: 300 }), "REPLICA_BEHIND");
    expect(error.message).toMatch(/At step "distribute".*wrong/);
    expect(error.hint).toContain("after the same id, they have different keys");
  });

  it("rejects with KEYRING_ROLLBACK if its process has the keys from before another rotation that is done", async () => {
    const { source, operator } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "promote" });
    const former = source.ringWithPrimary("old");
    await rotateKey(provider, options);
    const stale = operator({ load: async () => former });
    for (const newKey of [{ id: "new" }, { id: "newer" }]) {
      await expectRefusal(rotateKey(stale.provider, { ...stale.options, newKey }), "KEYRING_ROLLBACK");
    }
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
  });

  it("can be rolled back by another operator while it waits for the removal of the old key", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "grace" });
    const isAsked = Promise.withResolvers<void>();
    const waiting = rotateKey(provider, { ...options, instruct: () => isAsked.resolve() });
    waiting.catch(() => undefined);
    await isAsked.promise;
    const other = operator();
    const { newKey: _, ...rest } = other.options;
    expect(await rollBackRotation(other.provider, rest)).toMatchObject({ step: "done", to: "old" });
    await expectRefusal(waiting, "ROTATION_IN_PROGRESS");
    await unregistered(inner, source.ring).set("written", value);
    await expectReadable();
  });

  it("continues if the operator added the new key under another id, and the next call passes that id", async () => {
    const { source, operator, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "distribute" });
    source.takeAway("new");
    source.make({ kind: "add", keyId: "k45b00e0900cd776" });
    source.make({ kind: "promote", keyId: "k45b00e0900cd776", former: "old" });
    const { hint } = await expectRefusal(rotateKey(provider, { ...options, ...alone }), "KEYRING_INVALID");
    expect(hint).toContain('newKey: { id: "k45b00e0900cd776" }');
    const renamed = { ...options, newKey: { id: "k45b00e0900cd776" } };
    expect(await rotateKey(provider, renamed)).toMatchObject({ step: "done", to: "k45b00e0900cd776" });
    expect(await idsIn()).toEqual(["k45b00e0900cd776"]);
    await expectReadable();
  });

  it("rejects with KEY_UNKNOWN if the old key was removed at the step `reencrypt`, and continues after the key was put back", async () => {
    const { source, inner, operator } = await begun();
    const before = source.ring;
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "reencrypt" });
    await writeUnder(before, inner, "late");
    const putBack = source.takeAway("old");
    const { hint } = await expectRefusal(rotateKey(provider, options), "KEY_UNKNOWN");
    expect(hint).toContain('Put key "old" back');
    putBack();
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
  });

  it("calls `instruct` with a problem if the keys were changed in another way than the instruction asks", async () => {
    const { source, operator } = await begun();
    const { provider, options } = operator();
    const problems: string[] = [];
    const instruct = ({ change, problem }: Instruction) => {
      if (problem !== undefined) problems.push(problem.message);
      const isFirst = change.kind === "add" && problem === undefined;
      source.make(isFirst ? { kind: "add", keyId: "New" } : change);
    };
    expect(await rotateKey(provider, { ...options, instruct })).toMatchObject({ step: "done" });
    expect(problems).toEqual([expect.stringContaining('the keys "old", "New", and "old" is the primary')]);
  });

  it("rejects when its signal is aborted while `instruct` waits for the operator", async () => {
    const { operator } = await begun();
    const { provider, options } = operator();
    const stop = new AbortController();
    const instruct = () => {
      stop.abort(new Error("stopped"));
      return new Promise<void>(() => undefined);
    };
    await expect(rotateKey(provider, { ...options, instruct, signal: stop.signal })).rejects.toThrow("stopped");
  });

  it("revokes a key with the order reencrypt-first, and keeps every record readable", async () => {
    const { source, operator, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    const revocation = { ...options, id: "old", order: "reencrypt-first" } as const;
    expect(await revokeKey(provider, revocation)).toMatchObject({ kind: "revoke", step: "done" });
    expect(source.ids).toEqual(["new"]);
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
  });
});

const alone = { unregistered: { waitMs: 0 } };

describe("retireKey with `instruct`", () => {
  it("counts the records, asks for the removal, and waits until no replica has the key", async () => {
    const { source, inner, app, operator, asked, expectReadable } = await begun();
    const { provider, options } = operator();
    source.make({ kind: "add", keyId: "new" });
    source.make({ kind: "promote", keyId: "new", former: "old" });
    const removal = { to: "removed", instruct: options.instruct } as const;
    await expectRefusal(retireKey(provider, options.stores, "odl", removal), "KEY_UNKNOWN");
    await expectRefusal(retireKey(provider, options.stores, "old", removal), "KEY_IN_USE");
    await expectRefusal(retireKey(provider, options.stores, "old", { instruct: options.instruct }), "VALUE_INVALID");
    expect(asked).toEqual([]);
    await expect.poll(() => replicas(app), { timeout: 10_000 }).toMatchObject([{ primary: "new" }]);
    await reencrypt(app);
    const { follow } = await lateReplica(source, inner);
    const impatient = { ...removal, replicasWithinMs: 50 };
    const error = await expectRefusal(retireKey(provider, options.stores, "old", impatient), "REPLICA_BEHIND");
    expect(error.message).toContain("late");
    follow();
    // The key is gone already, so the call only waits and counts.
    const { saved, keyring } = await retireKey(provider, options.stores, "old", removal);
    expect({ saved, ids: keyring.keys.map(({ id }) => id) }).toEqual({ saved: true, ids: ["new"] });
    expect(asked.map(({ change }) => change)).toEqual([{ kind: "remove", keyId: "old" }]);
    await expectReadable();
  });
});

/** Writes a record under the primary of `keys`, as a halted process does that resumes after its last check. */
async function writeUnder(keys: Keyring, inner: MemoryStore, key: string): Promise<void> {
  const elsewhere = new MemoryStore();
  await unregistered(elsewhere, keys).set(key, value);
  const stored = await elsewhere.get(key);
  if (stored === undefined) throw new Error("Nothing was written");
  await inner.set(key, stored);
}

/** Starts a process that keeps its present keys until `follow` is called, and that has written the record "late". */
async function lateReplica(source: PlainKeys, inner: MemoryStore) {
  const before = source.ring;
  let follows = false;
  const late = new EncryptedStore(new MemoryStore(inner), {
    keys: { load: async () => (follows ? source.ring : before), freshness: { refreshMs: 20 } },
    replica: { ...replica, name: "late" },
  });
  onTestFinished(() => late.disconnect());
  await late.set("late", value);
  const follow = () => {
    follows = true;
  };
  return { late, follow };
}
