import { setTimeout as sleep } from "node:timers/promises";
import {
  census,
  EncryptedStore,
  type KeyProvider,
  KeywardError,
  type RotationOptions,
  type RotationReport,
  replicas,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import { KeysOverOneSource, newRing } from "../rings.ts";
import { keyIdIn } from "../store/inner-stores.ts";
import { type Kill, Line } from "./line.ts";

const replica = { heartbeatMs: 10, lapseMs: 100 };
const backends = ["archive", "cache"] as const;
const keysOfEach = 5;

type Backends = Readonly<Record<(typeof backends)[number], MemoryStore>>;

/** A key source and two backends, which several processes use. Collects the problems that the processes have. */
class World {
  readonly source = new KeysOverOneSource(newRing("first").withStores(backends));
  readonly inner: Backends = { archive: new MemoryStore(), cache: new MemoryStore() };
  readonly problems: string[] = [];

  line(kill?: Kill): Line {
    return new Line((values) => {
      for (const value of values) {
        const id = typeof value === "string" || value instanceof Uint8Array ? keyIdIn(value) : "";
        const key = this.source.ring.keys.find((one) => one.id === id);
        if (key?.status !== "enabled") this.problems.push(`written under ${id}, which is ${key?.status ?? "removed"}`);
      }
    }, kill);
  }

  stores(line: Line, provider: ReturnType<KeysOverOneSource["provider"]>, registered: boolean) {
    const make = (inner: MemoryStore) =>
      new EncryptedStore(line.store(new MemoryStore(inner)), {
        keys: provider,
        ...(registered ? { replica } : {}),
      });
    return { archive: make(this.inner.archive), cache: make(this.inner.cache) };
  }
}

/** A process of the application: it writes its own records and reads all of them, until it is ended. */
class Application {
  readonly #world: World;
  readonly #name: string;
  readonly #line: Line;
  readonly #stores: Readonly<Record<(typeof backends)[number], EncryptedStore>>;
  readonly #versions = new Map<string, string>();
  readonly #working: Promise<void>;
  #ended = false;
  #paused: Promise<void> | undefined;
  #idle = Promise.withResolvers<void>();

  constructor(world: World, name: string, lagMs: number) {
    this.#world = world;
    this.#name = name;
    this.#line = world.line();
    this.#stores = world.stores(this.#line, this.#line.provider(world.source.provider(lagMs)), true);
    this.#working = this.#work();
  }

  /** Halts the process between two calls, as with SIGSTOP and SIGCONT: it writes no heartbeat and loads no keyring. */
  async halt(haltMs: number): Promise<void> {
    const paused = Promise.withResolvers<void>();
    this.#idle = Promise.withResolvers<void>();
    this.#paused = paused.promise;
    await this.#idle.promise;
    this.#line.halt();
    await sleep(haltMs);
    // As after SIGCONT, the process does its next work before a heartbeat is due.
    this.#paused = undefined;
    paused.resolve();
    this.#line.resume();
  }

  async end(): Promise<void> {
    this.#ended = true;
    await this.#working;
    for (const store of Object.values(this.#stores)) await store.disconnect();
  }

  async #work(): Promise<void> {
    for (let turn = 0; !this.#ended; turn++) {
      await sleep(1);
      if (this.#paused !== undefined) {
        for (const store of Object.values(this.#stores)) await store.settled();
        this.#idle.resolve();
        await this.#paused;
        // A write is the first call after the halt, because a write is the call that could do harm.
        turn += 6 - (turn % 6);
      }
      const backend = turn % 2 === 0 ? "archive" : "cache";
      const key = `${this.#name}-${turn % keysOfEach}`;
      try {
        if (turn % 3 === 0) {
          await this.#stores[backend].set(key, String(turn));
          this.#versions.set(`${backend} ${key}`, String(turn));
        } else {
          const found = await this.#stores[backend].get(key);
          if (found !== this.#versions.get(`${backend} ${key}`))
            this.#world.problems.push(`${key} gave ${String(found)}`);
          await this.#stores[backend].getMany(["one-0", "two-0", "three-0", "late-0"]);
        }
      } catch (error) {
        // After a halt, the process refuses to write as long as its source is behind.
        if (error instanceof KeywardError && error.message.startsWith("Nothing was written: ")) continue;
        this.#world.problems.push(`${this.#name}: ${String(error)}`);
      }
    }
  }
}

/** Runs the rotation until it is done or the operator is killed. */
async function operate(world: World, kill?: Kill): Promise<void> {
  const line = world.line(kill);
  const provider = line.provider(world.source.provider());
  const stores = world.stores(line, provider, false);
  const run = async (): Promise<void> => {
    for (;;) {
      try {
        await rotateKey(provider, { stores, graceMs: 20 });
        return;
      } catch (error) {
        // On a busy machine the leases of all replicas may lapse at the same time.
        if (!(error instanceof KeywardError) || error.code !== "NO_REPLICAS") throw error;
        await sleep(replica.lapseMs);
      }
    }
  };
  await Promise.race([run(), line.killed]);
}

/** Waits until the replicas are registered: a rotation begins only then. */
async function allRegistered(world: World, count: number): Promise<void> {
  const stores = world.stores(world.line(), world.source.provider(), false);
  await vi.waitFor(
    async () => {
      for (const backend of backends) expect(await replicas(stores[backend])).toHaveLength(count);
    },
    { timeout: 30_000, interval: 5 },
  );
}

async function isDone(world: World): Promise<boolean> {
  const provider = world.source.provider();
  const stores = world.stores(world.line(), provider, false);
  return (await rotationStatus(provider, { stores }))?.step === "done";
}

const kill = fc.record({ afterCalls: fc.integer({ min: 1, max: 200 }), arrives: fc.boolean() });
const life = fc.record({
  operators: fc.array(kill, { minLength: 1, maxLength: 2 }),
  halts: fc.option(fc.oneof(fc.integer({ min: 1, max: 200 }), fc.constant(600))),
});

it("a rotation loses no record and adds only one key, even if operators are killed, two operators run it, or replicas halt, join or leave", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(life, { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 0, max: 5 }),
      fc.integer({ min: 0, max: 5 }),
      async (lives, joinsAt, leavesAt) => {
        const world = new World();
        const applications = ["one", "two", "three"].map((name) => new Application(world, name, 40));
        const [halting, leaving] = applications;
        await allRegistered(world, applications.length);
        for (const [at, { operators, halts }] of lives.entries()) {
          if (at > 0 && (await isDone(world))) break;
          const halted = halts === null ? undefined : halting?.halt(halts);
          if (at === joinsAt) applications.push(new Application(world, "late", 0));
          if (at === leavesAt) await leaving?.end();
          await Promise.all(operators.map((one) => operate(world, one)));
          await halted;
        }
        if (!(await isDone(world))) await operate(world);
        await Promise.all(applications.map((each) => each.end()));
        expect(world.problems).toEqual([]);
        const [only] = world.source.ring.keys;
        expect(world.source.ring.keys).toEqual([expect.objectContaining({ id: world.source.ring.primary })]);
        expect(only?.id).not.toBe("first");
        expect(world.source.saves).toBe(4);
        for (const backend of backends)
          expect([...(await census(world.inner[backend])).keys.keys()]).toEqual([only?.id]);
      },
    ),
    { numRuns: 12, endOnFailure: true },
  );
}, 180_000);

describe("a run that is killed at any of its calls to stores and provider, and is then repeated,", () => {
  type Run = (provider: KeyProvider, options: RotationOptions) => Promise<RotationReport>;
  const rotate: Run = (provider, options) => rotateKey(provider, { ...options, newKey: { id: "new" } });
  const halfway: Run = (provider, options) => rotate(provider, { ...options, until: "reencrypt" });
  const rollingBack: Run = async (provider, options) => {
    await halfway(provider, options);
    return await rollBackRotation(provider, { ...options, until: "drain" });
  };
  const compromised = { id: "first", newKey: { id: "new" } };

  it.each<[string, Run | undefined, Run, readonly string[], boolean]>([
    ["replaces the key once", undefined, rotate, ["new enabled"], true],
    ["rolls back to the old key", halfway, rollBackRotation, ["first enabled"], true],
    [
      "revokes a key with reencrypt-first",
      undefined,
      (provider, options) => revokeKey(provider, { ...options, ...compromised, order: "reencrypt-first" }),
      ["new enabled"],
      true,
    ],
    [
      "revokes the key to which another run has rolled back",
      rollingBack,
      (provider, options) => revokeKey(provider, { ...options, ...compromised, order: "reencrypt-first" }),
      ["new enabled"],
      true,
    ],
    [
      "revokes a key with disable-first",
      undefined,
      (provider, options) => revokeKey(provider, { ...options, ...compromised, order: "disable-first" }),
      ["first disabled", "new enabled"],
      false,
    ],
  ])(
    "%s",
    async (_, before, run, ring, readable) => {
      let calls = 0;
      for (let done = false; !done; calls++) {
        const world = new World();
        const operator = (kill?: Kill) => {
          const line = world.line(kill);
          const provider = line.provider(world.source.provider());
          const options = { stores: world.stores(line, provider, false), graceMs: 0, unregistered: { waitMs: 0 } };
          return { line, run: (chosen: Run) => chosen(provider, options), stores: options.stores };
        };
        const { stores } = operator();
        await stores.cache.set("key", "value");
        await stores.archive.set("key", "value");
        if (before !== undefined) await operator().run(before);

        const killed = operator({ afterCalls: calls, arrives: calls % 2 === 0 });
        done = await Promise.race([killed.run(run).then(() => true), killed.line.killed.then(() => false)]);
        const report = await operator().run(run);
        expect(report.step).toBe("done");
        expect(report.keyring.keys.map(({ id, status }) => `${id} ${status}`)).toEqual(ring);
        const after = operator().stores;
        for (const store of [after.cache, after.archive]) {
          if (readable) expect(await store.get("key")).toBe("value");
          else await expect(store.get("key")).rejects.toMatchObject({ code: "KEY_DISABLED" });
          await store.set("another", "value");
        }
        expect(world.problems).toEqual([]);
      }
      expect(calls).toBeGreaterThan(20);
    },
    180_000,
  );
});
