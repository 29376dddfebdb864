import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import { createKeyv, EncryptedStore, Keyring, type StoredValue } from "@keyward/core";
import { Keyv, type KeyvCompressionAdapter, type KeyvOptions, type KeyvSerializationAdapter } from "keyv";
import { afterEach, describe, expect, it, vi } from "vitest";
import { BreakableAdapter } from "../store/store/inner-stores.ts";

// Keyv 6 does not publish its unit tests. The tests here have the same expectations. Each runs against a
// plain Keyv and against createKeyv, which must answer and emit the same. All differences are listed below and in docs/hosts.md.

type Options = Partial<Pick<KeyvOptions, "ttl" | "stats" | "sanitize">> & {
  readonly namespace?: string;
  readonly serialization?: KeyvSerializationAdapter;
  readonly compression?: KeyvCompressionAdapter;
};

/** A Keyv, the adapter below it, and the encrypting adapter if there is one. */
interface Subject {
  readonly keyv: Keyv;
  readonly adapter: BreakableAdapter;
  /** Stores a text under a key that the Keyv did not write. */
  put(key: string, value: StoredValue): Promise<unknown>;
}

const subjects = {
  Keyv(options: Options): Subject {
    const adapter = new BreakableAdapter(new Map());
    return { keyv: new Keyv({ store: adapter, ...options }), adapter, put: (...given) => adapter.set(...given) };
  },
  createKeyv(options: Options): Subject {
    const adapter = new BreakableAdapter(new Map());
    const keyv = createKeyv({ store: adapter, keys: Keyring.generate(), ...options });
    return { keyv, adapter, put: (...given) => keyv.encryptedStore.set(...given) };
  },
} as const;

const calls = [
  "get",
  "getMany",
  "getRaw",
  "getManyRaw",
  "set",
  "setMany",
  "setRaw",
  "setManyRaw",
  "delete",
  "deleteMany",
  "has",
  "hasMany",
  "clear",
  "disconnect",
] as const;

const figures = ["stat:hit", "stat:miss", "stat:set", "stat:delete", "stat:error"] as const;

/** Everything that a host can observe of a Keyv. */
interface Observed {
  /** The result of the call, or `rejected`. */
  readonly answer: unknown;
  readonly told: readonly unknown[];
  /** Names of hooks with their argument as text, because a hook may change its argument. */
  readonly hooks: readonly (readonly [name: string, detail: string])[];
  readonly errors: number;
  readonly stats: unknown;
  readonly kept: number;
}

type Behaviour = (subject: Subject) => Promise<unknown>;

async function observe(subject: Subject, behaviour: Behaviour): Promise<Observed> {
  const { keyv, adapter } = subject;
  const [told, errors]: [unknown[], unknown[]] = [[], []];
  const hooks: [string, string][] = [];
  for (const event of [...figures, "clear", "disconnect"]) {
    keyv.on(event, (detail: object | undefined) => told.push([event, detail && { ...detail, timestamp: "now" }]));
  }
  for (const call of calls) {
    for (const when of ["before", "after"]) {
      keyv.addHook(`${when}:${call}`, (detail: unknown) => {
        hooks.push([`${when}:${call}`, noted(detail)]);
      });
    }
  }
  keyv.on("error", (error: unknown) => errors.push(error));
  let answer: unknown;
  try {
    answer = await behaviour(subject);
  } catch {
    answer = "rejected";
  }
  const { hits, misses, sets, deletes, errors: failures, errorKeys } = keyv.stats;
  const stats = { hits, misses, sets, deletes, errors: failures, errorKeys: [...errorKeys] };
  return { answer, told, hooks, errors: errors.length, stats, kept: await countOf(adapter) };
}

function noted(detail: unknown): string {
  return inspect(detail, { depth: null, sorted: true });
}

async function countOf(adapter: BreakableAdapter): Promise<number> {
  adapter.failure = undefined;
  let count = 0;
  for await (const _ of adapter.iterator()) count++;
  return count;
}

async function drain(keyv: Keyv): Promise<unknown[]> {
  const entries: unknown[] = [];
  for await (const entry of keyv.iterator()) entries.push(entry);
  return entries;
}

/** Stops the clock that Keyv, the store and the records use. */
function stopTime(): number {
  const nowMs = 1_900_000_000_000;
  vi.useFakeTimers({ toFake: ["Date"], now: nowMs });
  return nowMs;
}

afterEach(() => {
  vi.useRealTimers();
});

const base64: KeyvCompressionAdapter = {
  compress: async (text) => Buffer.from(String(text)).toString("base64"),
  decompress: async (text) => Buffer.from(String(text), "base64").toString(),
};
const marked: KeyvSerializationAdapter = {
  stringify: (value) => `marked ${JSON.stringify(value)}`,
  parse: (text) => JSON.parse(text.slice("marked ".length)),
};
const slow: KeyvSerializationAdapter = {
  stringify: async (value) => JSON.stringify(value),
  parse: async (text) => JSON.parse(text),
};

/** Calls that succeed. A plain Keyv and createKeyv answer and emit the same in every detail. */
const same: Readonly<Record<string, { readonly options?: Options; readonly behaviour: Behaviour }>> = {
  "set and get": { behaviour: async ({ keyv }) => [await keyv.set("a", { b: [1] }), await keyv.get("a")] },
  "get of an absent record": { behaviour: ({ keyv }) => keyv.get("absent") },
  "get of several": {
    behaviour: async ({ keyv }) => [await keyv.set("a", 1), await keyv.get(["a", "absent"]), await keyv.get([])],
  },
  getMany: { behaviour: async ({ keyv }) => [await keyv.set("a", 1), await keyv.getMany(["absent", "a", "a"])] },
  getRaw: {
    behaviour: async ({ keyv }) => {
      stopTime();
      await keyv.set("a", 1, 1_000);
      return [await keyv.getRaw("a"), await keyv.getRaw("absent")];
    },
  },
  getManyRaw: {
    behaviour: async ({ keyv }) => [
      await keyv.set("a", 1),
      await keyv.getManyRaw(["a", "absent"]),
      await keyv.getManyRaw([]),
    ],
  },
  setMany: {
    behaviour: async ({ keyv }) => {
      stopTime();
      const entries = [
        { key: "a", value: 1 },
        { key: "b", value: 2, ttl: 1_000 },
      ];
      return [await keyv.setMany(entries), await keyv.getManyRaw(["a", "b"]), await keyv.setMany([])];
    },
  },
  setRaw: {
    behaviour: async ({ keyv }) => {
      const nowMs = stopTime();
      await keyv.setRaw("a", { value: 1, expires: nowMs + 1_000.5 });
      await keyv.setRaw("b", { value: 2 });
      await keyv.setRaw("c", { value: 3, expires: Number.POSITIVE_INFINITY });
      return await keyv.getMany(["a", "b", "c"]);
    },
  },
  setManyRaw: {
    behaviour: async ({ keyv }) => {
      const nowMs = stopTime();
      const entries = [
        { key: "a", value: { value: 1, expires: nowMs + 1_000 } },
        { key: "b", value: { value: 2 } },
      ];
      return [await keyv.setManyRaw(entries), await keyv.getManyRaw(["a", "b"])];
    },
  },
  "has and hasMany": {
    behaviour: async ({ keyv }) => [
      await keyv.set("a", undefined),
      await keyv.has("a"),
      await keyv.has("absent"),
      await keyv.has(["a", "absent"]),
      await keyv.hasMany([]),
    ],
  },
  "delete and deleteMany": {
    behaviour: async ({ keyv }) => {
      await keyv.setMany(["a", "b", "c"].map((key) => ({ key, value: key })));
      return [
        await keyv.delete("a"),
        await keyv.delete("a"),
        await keyv.delete(["a", "b"]),
        await keyv.deleteMany(["c"]),
        await keyv.deleteMany([]),
      ];
    },
  },
  clear: { behaviour: async ({ keyv }) => [await keyv.set("a", 1), await keyv.clear(), await keyv.get("a")] },
  "clear of one namespace": {
    options: { namespace: "flows" },
    behaviour: async ({ keyv, adapter }) => {
      await keyv.set("a", 1);
      await keyv.clear();
      return [await keyv.get("a"), adapter.namespace, keyv.namespace];
    },
  },
  disconnect: { behaviour: async ({ keyv }) => [await keyv.disconnect()] },
  iterator: {
    behaviour: async ({ keyv }) => {
      await keyv.setMany(["a", "b"].map((key) => ({ key, value: { key } })));
      return await drain(keyv);
    },
  },
  "iterator of one namespace": {
    options: { namespace: "flows" },
    behaviour: async ({ keyv }) => [await keyv.set("a", 1), await drain(keyv)],
  },
  "values of every kind": {
    behaviour: async ({ keyv }) => {
      const values = [false, true, null, undefined, 0, -1.5, "", "'", '"', ":x", "täxt \0", [], {}, Buffer.of(0, 255)];
      for (const [index, value] of values.entries()) await keyv.set(`key ${index}`, value);
      await keyv.set("big", 2n ** 70n);
      await keyv.set("deep", { list: [Buffer.of(1), { none: null, gone: undefined }] });
      return await keyv.getMany([...values.map((_, index) => `key ${index}`), "big", "deep"]);
    },
  },
  "keys of every kind": {
    behaviour: async ({ keyv }) => {
      const keys = ["'", '"', "a b", "täxt", "__proto__", "a:b", "a::b", "%"];
      for (const key of keys) await keyv.set(key, key);
      return await keyv.getMany(keys);
    },
  },
  "a default ttl": {
    options: { ttl: 100 },
    behaviour: async ({ keyv }) => {
      stopTime();
      await keyv.set("default", 1);
      await keyv.set("own", 1, 1_000);
      await keyv.set("none", 1, 0);
      await keyv.set("negative", 1, -1);
      return [keyv.ttl, await keyv.getManyRaw(["default", "own", "none", "negative"])];
    },
  },
  "a ttl that is changed": {
    behaviour: async ({ keyv }) => {
      stopTime();
      keyv.ttl = 100;
      await keyv.set("a", 1);
      keyv.ttl = 0;
      await keyv.set("b", 1);
      return [keyv.ttl, await keyv.getManyRaw(["a", "b"])];
    },
  },
  "ttls that are not finite numbers": {
    behaviour: async ({ keyv }) => {
      await keyv.set("endless", 1, Number.POSITIVE_INFINITY);
      await keyv.set("nan", 1, Number.NaN);
      return await keyv.getManyRaw(["endless", "nan"]);
    },
  },
  "keys that are sanitized": {
    options: { sanitize: { keys: true } },
    behaviour: async ({ keyv }) => {
      await keyv.set("a;b--c", 1);
      await keyv.setMany([{ key: "x\ny", value: 2 }]);
      return [await keyv.get("abc"), await keyv.getMany(["x;y"]), await keyv.has("../abc"), await keyv.delete("a;bc")];
    },
  },
  "a serialization": {
    options: { serialization: marked },
    behaviour: async ({ keyv }) => [await keyv.set("a", { b: 1 }), await keyv.get("a"), await keyv.getMany(["a"])],
  },
  "an asynchronous serialization": {
    options: { serialization: slow },
    behaviour: async ({ keyv }) => [await keyv.set("a", { b: 1 }), await keyv.get("a"), await drain(keyv)],
  },
  "a compression": {
    options: { compression: base64, namespace: "flows" },
    behaviour: async ({ keyv }) => [await keyv.set("a", { b: 1 }), await keyv.get("a"), await drain(keyv)],
  },
  "figures that are off": {
    options: { stats: false },
    behaviour: async ({ keyv }) => [await keyv.set("a", 1), await keyv.get(["a", "b"]), keyv.stats.enabled],
  },
  "stats that are switched on, reset and switched off": {
    options: { stats: false },
    behaviour: async ({ keyv }) => {
      keyv.stats.enabled = true;
      await keyv.get("absent");
      const { misses } = keyv.stats;
      keyv.stats.reset();
      keyv.stats.enabled = false;
      await keyv.get("absent");
      return [misses, keyv.stats.misses];
    },
  },
  "stats by key and namespace": {
    options: { namespace: "flows" },
    behaviour: async ({ keyv }) => {
      await keyv.set("a", 1);
      await keyv.get(["a", "absent"]);
      await keyv.delete("a");
      const { setKeys, hitKeys, missKeys, deleteKeys } = keyv.stats;
      return [setKeys, hitKeys, missKeys, deleteKeys].map((keys) => [...keys]);
    },
  },
  "hooks that change a written value": {
    behaviour: async ({ keyv }) => {
      keyv.addHook("before:set", (data: { key: string; value: unknown; ttl?: number }) => {
        data.key = "b";
        data.value = `${data.value} changed`;
      });
      keyv.addHook("before:setMany", (data: { entries: { key: string; value: unknown }[] }) => {
        data.entries = data.entries.map(({ key }) => ({ key, value: "changed too" }));
      });
      await keyv.set("a", "value");
      await keyv.setMany([{ key: "c", value: 1 }]);
      return await keyv.getMany(["a", "b", "c"]);
    },
  },
  "hooks that change a read value": {
    behaviour: async ({ keyv }) => {
      await keyv.set("a", 1);
      keyv.addHook("after:getMany", (values: unknown[]) => {
        values[0] = "changed";
      });
      return await keyv.getMany(["a"]);
    },
  },
  "hooks under their former names": {
    behaviour: async ({ keyv }) => {
      keyv.on("warn", () => undefined);
      const former: unknown[] = [];
      for (const name of ["preSet", "postSet", "preGet", "postGet", "postDelete"]) {
        keyv.addHook(name, (detail: unknown) => {
          former.push([name, noted(detail)]);
        });
      }
      await keyv.set("a", 1);
      await keyv.get("a");
      await keyv.delete("a");
      return former;
    },
  },
  "a hook that reads while another call runs": {
    behaviour: async ({ keyv }) => {
      const seen: unknown[] = [];
      await keyv.set("a", 1);
      keyv.addHook("before:clear", async () => {
        seen.push(await keyv.get("a"));
      });
      await keyv.clear();
      return seen;
    },
  },
  "a record that has expired": {
    behaviour: async ({ keyv }) => {
      const nowMs = stopTime();
      await keyv.set("a", 1, 10);
      vi.setSystemTime(nowMs + 11);
      return [await keyv.has("a"), await keyv.hasMany(["a"])];
    },
  },
};

/** Calls over a store that fails. With createKeyv, each of these calls rejects. */
const failing: Readonly<Record<(typeof calls)[number] | "iterator", Behaviour>> = {
  get: ({ keyv }) => keyv.get("a"),
  getMany: ({ keyv }) => keyv.getMany(["a", "b"]),
  getRaw: ({ keyv }) => keyv.getRaw("a"),
  getManyRaw: ({ keyv }) => keyv.getManyRaw(["a", "b"]),
  set: ({ keyv }) => keyv.set("a", 1, 1_000),
  setMany: ({ keyv }) => keyv.setMany(["a", "b"].map((key) => ({ key, value: 1, ttl: 1_000 }))),
  setRaw: ({ keyv }) => keyv.setRaw("a", { value: 1, expires: Date.now() + 1_000 }),
  setManyRaw: ({ keyv }) => keyv.setManyRaw(["a", "b"].map((key) => ({ key, value: { value: 1 } }))),
  delete: ({ keyv }) => keyv.delete("a"),
  deleteMany: ({ keyv }) => keyv.deleteMany(["a", "b"]),
  has: ({ keyv }) => keyv.has("a"),
  hasMany: ({ keyv }) => keyv.hasMany(["a", "b"]),
  clear: ({ keyv }) => keyv.clear(),
  disconnect: ({ keyv }) => keyv.disconnect(),
  iterator: ({ keyv }) => drain(keyv),
};

async function observeBoth(behaviour: Behaviour, options: Options = {}): Promise<[ours: Observed, keyvs: Observed]> {
  const given = { stats: true, ...options };
  const keyvs = await observe(subjects.Keyv(given), behaviour);
  vi.useRealTimers();
  const ours = await observe(subjects.createKeyv(given), behaviour);
  return [ours, keyvs];
}

describe("createKeyv", () => {
  it.each(Object.entries(same))(
    "returns the same results and emits the same events as Keyv: %s",
    async (_, { options, behaviour }) => {
      const [ours, keyvs] = await observeBoth(behaviour, options);
      expect(ours).toEqual(keyvs);
      expect(ours.answer).not.toBe("rejected");
    },
  );
});

describe("createKeyv over a store that fails", () => {
  const both = Object.entries(failing).flatMap(([name, call]) =>
    [undefined, "flows"].map((namespace) => [name, namespace, call] as const),
  );

  it.each(both)(
    "rejects a call of %s in the namespace %s, and emits the same events as Keyv",
    async (name, namespace, call) => {
      const behaviour: Behaviour = async (subject) => {
        stopTime();
        await subject.keyv.set("a", "there");
        subject.adapter.failure = new Error("down");
        return await call(subject);
      };
      const [ours, keyvs] = await observeBoth(behaviour, namespace === undefined ? {} : { namespace });
      expect(ours.answer).toBe("rejected");
      expect(keyvs.answer).not.toBe("rejected");
      expect({ errors: ours.errors, kept: ours.kept }).toEqual({ errors: 1, kept: 1 });
      expect(keyvs).toMatchObject({ errors: 1, kept: 1 });

      // See the deviations failed-delete and failed-set.
      if (name !== "delete") {
        expect(ours.told).toEqual(keyvs.told);
        expect(ours.stats).toEqual(keyvs.stats);
      }
      if (name !== "set") expect(ours.hooks).toEqual(keyvs.hooks);
    },
  );

  it.each(["postGet", "postSetMany", "postDelete"])(
    "runs a hook that was added under its former name %s although the call rejects",
    async (name) => {
      const { keyv, adapter } = subjects.createKeyv({});
      keyv.on("warn", () => undefined);
      const heard: unknown[] = [];
      keyv.addHook(name, (detail: unknown) => {
        heard.push(detail);
      });
      adapter.failure = new Error("down");
      const call = { postGet: "get", postSetMany: "setMany", postDelete: "delete" }[name];
      const answers = await Promise.allSettled([
        keyv.get("a"),
        keyv.setMany([{ key: "a", value: 1 }]),
        keyv.delete("a"),
      ]);
      expect(answers.map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
      expect(heard, call).toHaveLength(1);
    },
  );

  it("counts the same errors in its statistics as a plain Keyv, even with sanitized keys", async () => {
    const behaviour: Behaviour = async ({ keyv, adapter }) => {
      adapter.failure = new Error("down");
      await Promise.allSettled([keyv.get("a;b"), keyv.getMany(["c--d", "e"])]);
    };
    const [ours, keyvs] = await observeBoth(behaviour, { sanitize: { keys: true } });
    expect(ours.stats).toMatchObject({ errors: 3 });
    expect(ours.stats).toEqual(keyvs.stats);
  });

  it("counts one error for each of many concurrent calls that fail", async () => {
    const { keyv, put } = subjects.createKeyv({ stats: true });
    await keyv.set("healthy", 1);
    const sick = Array.from({ length: 20 }, (_, index) => `sick ${index}`);
    for (const key of sick) await put(key, "not JSON");
    const outcomes = await Promise.allSettled([...sick, "healthy", ...sick].map((key) => keyv.get(key)));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toEqual([{ status: "fulfilled", value: 1 }]);
    expect(keyv.stats).toMatchObject({ hits: 1, misses: 0, errors: 40 });
    expect(keyv.stats.errorKeys.get("healthy")).toBeUndefined();
  });

  it("rejects with the error of the store if a hook throws as well", async () => {
    const { keyv, adapter } = subjects.createKeyv({ stats: true });
    const heard: unknown[] = [];
    keyv.on("error", (error: unknown) => heard.push(error));
    keyv.addHook("after:get", () => {
      throw new Error("the hook fails");
    });
    adapter.failure = new Error("down");
    await expect(keyv.get("a")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(heard).toMatchObject([
      { code: "STORE_UNAVAILABLE" },
      { message: expect.stringContaining("the hook fails") },
    ]);
  });
});

/** Returns a behaviour that first makes the store fail, and then does the given behaviour. */
function down(behaviour: Behaviour): Behaviour {
  return async (subject) => {
    subject.adapter.failure = new Error("down");
    return await behaviour(subject);
  };
}

/** Every difference of createKeyv from a plain Keyv, by name. The test of a difference fails if the two no longer differ. */
const deviations: Readonly<Record<string, { readonly reason: string; readonly differs: () => Promise<void> }>> = {
  rejects: {
    reason:
      "A failed store or an undecryptable record must not look like a miss, or the caller would overwrite the record.",
    async differs() {
      const [ours, keyvs] = await observeBoth(down(({ keyv }) => keyv.get("a")));
      expect([ours.answer, keyvs.answer]).toEqual(["rejected", undefined]);
    },
  },
  undecodable: {
    reason: "The record is present.",
    async differs() {
      for (const read of ["get", "getRaw"] as const) {
        const behaviour: Behaviour = async ({ keyv, put }) => [await put("a", "not JSON"), await keyv[read]("a")];
        const [ours, keyvs] = await observeBoth(behaviour);
        expect(ours).toMatchObject({ answer: "rejected", errors: 1, stats: { misses: 0, errors: 1 } });
        expect(keyvs).toMatchObject({ answer: [true, undefined], errors: 1, stats: { misses: 1, errors: 0 } });
        expect(ours.hooks).toEqual(keyvs.hooks);
      }
      for (const read of ["getMany", "getManyRaw"] as const) {
        const behaviour: Behaviour = async ({ keyv, put }) => [
          await put("a", "not JSON"),
          await keyv[read](["a", "b"]),
        ];
        const [ours, keyvs] = await observeBoth(behaviour);
        expect(ours).toMatchObject({ answer: "rejected", errors: 1, stats: { misses: 0, errors: 2 } });
        expect(keyvs).toMatchObject({ answer: [true, [undefined, undefined]], stats: { misses: 2, errors: 0 } });
        expect(ours.hooks).toEqual(keyvs.hooks);
      }
    },
  },
  symbol: {
    reason: "Nothing was written.",
    async differs() {
      const [ours, keyvs] = await observeBoth(({ keyv }) => keyv.set("a", Symbol("value")));
      expect([ours.answer, keyvs.answer]).toEqual(["rejected", false]);
      expect(ours.told).toEqual(keyvs.told);
      expect(ours.stats).toEqual(keyvs.stats);
    },
  },
  "failed-set": {
    reason: "A call may fail before the value is encoded.",
    async differs() {
      const [ours, keyvs] = await observeBoth(down(({ keyv }) => keyv.set("a", 1)));
      const after = { key: "a", ttl: undefined };
      expect(ours.hooks.at(-1)).toEqual(["after:set", noted({ ...after, value: 1 })]);
      expect(keyvs.hooks.at(-1)).toEqual(["after:set", noted({ ...after, value: '{"value":1}' })]);
      expect(ours.hooks.slice(0, -1)).toEqual(keyvs.hooks.slice(0, -1));
    },
  },
  "failed-delete": {
    reason: "Nothing was deleted.",
    async differs() {
      const [ours, keyvs] = await observeBoth(down(({ keyv }) => keyv.delete("a")));
      expect(ours.stats).toMatchObject({ errors: 1, deletes: 0 });
      expect(keyvs.stats).toMatchObject({ errors: 1, deletes: 1 });
      expect(ours.told).toEqual(keyvs.told.slice(0, -1));
    },
  },
  "expired-stays": {
    reason: "The delete could remove a write that is newer than the read.",
    async differs() {
      const behaviour: Behaviour = async ({ keyv, adapter }) => {
        const nowMs = stopTime();
        await keyv.set("a", 1, 10);
        // The backend expires records late.
        await adapter.set("a", await adapter.get("a"));
        vi.setSystemTime(nowMs + 11);
        return [await keyv.get("a"), await keyv.getMany(["a"]), await keyv.getRaw("a"), await keyv.has("a")];
      };
      const [ours, keyvs] = await observeBoth(behaviour);
      expect(ours.answer).toEqual([undefined, [undefined], undefined, false]);
      expect(keyvs.answer).toEqual(ours.answer);
      expect([ours.kept, keyvs.kept]).toEqual([1, 0]);
    },
  },
  "empty-key": {
    reason: "A caller that ignores the answer would assume that the value was written.",
    async differs() {
      const [ours, keyvs] = await observeBoth(({ keyv }) => keyv.set("", 1));
      expect([ours.answer, keyvs.answer]).toEqual(["rejected", false]);
      expect(ours.told).toEqual(keyvs.told);
      const entries = ["", "a"].map((key) => ({ key, value: 1 }));
      const [oursOfMany, keyvsOfMany] = await observeBoth(({ keyv }) => keyv.setMany(entries));
      expect([oursOfMany.answer, keyvsOfMany.answer]).toEqual(["rejected", [false, true]]);
      expect([oursOfMany.kept, keyvsOfMany.kept]).toEqual([0, 1]);
      expect(oursOfMany.stats).toMatchObject({ errors: 1, errorKeys: [["a", 1]] });
    },
  },
  "raw-fields": {
    reason: "A raw value with other fields could not be distinguished from a record that Keyv did not write.",
    async differs() {
      const raw = { value: 1, currency: "EUR" };
      const [ours, keyvs] = await observeBoth(({ keyv }) => keyv.setRaw("a", raw));
      expect([ours.answer, keyvs.answer]).toEqual(["rejected", true]);
      expect(ours.stats).toMatchObject({ errors: 1, sets: 0 });
    },
  },
  "fixed-store": {
    reason: "Records in another store would not be encrypted.",
    async differs() {
      const [ours, keyvs] = await observeBoth(async ({ keyv }) => {
        keyv.store = new Map();
      });
      expect([ours.answer, keyvs.answer]).toEqual(["rejected", undefined]);
    },
  },
  "no-check": {
    reason: "Keyv's check deletes an expired record without comparing it, so it could delete a newer write.",
    async differs() {
      const [ours, keyvs] = await observeBoth(async ({ keyv }) => {
        Reflect.set(keyv, "checkExpired", true);
        return keyv.checkExpired;
      });
      expect([ours.answer, keyvs.answer]).toEqual(["rejected", true]);
      expect(subjects.createKeyv({}).keyv.checkExpired).toBe(false);
    },
  },
  "no-store": {
    reason: "Records would be lost when the process ends.",
    async differs() {
      const options = { store: 7, keys: Keyring.generate() };
      const refused = expect.objectContaining({ code: "STORE_INVALID" });
      expect(() => Reflect.apply(createKeyv, undefined, [options])).toThrow(refused);
      const told: unknown[] = [];
      const keyv = new Keyv();
      keyv.on("error", (error: unknown) => told.push(error));
      Reflect.set(keyv, "store", 7);
      expect(told).toHaveLength(1);
      expect(await keyv.set("a", 1)).toBe(true);
    },
  },
};

describe("the differences of createKeyv from Keyv", () => {
  it.each(Object.entries(deviations))('include the documented difference "%s"', async (_, { differs }) => {
    await differs();
  });

  it("are exactly those that docs/hosts.md lists", () => {
    const page = readFileSync(new URL("../../docs/hosts.md", import.meta.url), "utf8");
    const listed = [...page.matchAll(/^\| `([\w-]+)` \|/gm)].map(([, name]) => name);
    expect(listed).toEqual(Object.keys(deviations));
  });

  it("include that setMany of symbols rejects, and counts an error for each key", async () => {
    const { keyv, adapter } = subjects.createKeyv({ stats: true });
    const entries = ["a", "b"].map((key) => ({ key, value: Symbol(key) }));
    await expect(keyv.setMany(entries)).rejects.toMatchObject({ code: "VALUE_INVALID" });
    expect(keyv.stats).toMatchObject({ errors: 2, sets: 0 });
    expect(await countOf(adapter)).toBe(0);
  });
});

it("a plain Keyv over an EncryptedStore counts an error, and no miss, if the store fails", async () => {
  const adapter = new BreakableAdapter(new Map());
  const keyv = new Keyv({ store: new EncryptedStore(adapter, { keys: Keyring.generate() }), stats: true });
  keyv.on("error", () => undefined);
  adapter.failure = new Error("down");
  expect(await keyv.get("a")).toBeUndefined();
  expect(keyv.stats).toMatchObject({ misses: 0, errors: 1 });
});
