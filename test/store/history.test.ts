import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import {
  EncryptedStore,
  KeywardError,
  type ReencryptReport,
  type Replacement,
  reencrypt,
  type StoredValue,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import type { KeyvStorageEntry } from "keyv";
import { expect, it } from "vitest";
import { keyIdIn } from "./inner-stores.ts";
import { rotation } from "./rings.ts";
import { marker } from "./secrets.ts";

/** To run a history again: HISTORY_SEED=… with the number in the name of the test that failed. */
const seed = Number(process.env["HISTORY_SEED"] ?? Date.now() % 2 ** 31);

type Random = () => number;

/** Numbers from 0 to 1, the same for the same seed (mulberry32). */
function randomFrom(start: number): Random {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A memory store whose calls take a while before and after they happen, so that others come in between. */
class UnhurriedStore extends MemoryStore {
  #random: Random = Math.random;

  withPace(random: Random): this {
    this.#random = random;
    return this;
  }

  override namespaced(namespace: string): UnhurriedStore {
    const view = new UnhurriedStore(this).withPace(this.#random);
    view.namespace = namespace;
    return view;
  }

  override get(key: string): Promise<StoredValue | undefined> {
    return this.#amid(() => super.get(key));
  }

  override getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return this.#amid(() => super.getMany(keys));
  }

  override set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return this.#amid(() => super.set(key, value, expires));
  }

  override setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    return this.#amid(() => super.setMany(entries));
  }

  override delete(key: string): Promise<boolean> {
    return this.#amid(() => super.delete(key));
  }

  override deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return this.#amid(() => super.deleteMany(keys));
  }

  override replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    return this.#amid(() => super.replaceMany(changes));
  }

  async #amid<Result>(call: () => Promise<Result>): Promise<Result> {
    if (this.#random() < 0.2) await nextTurn();
    const result = await call();
    if (this.#random() < 0.2) await nextTurn();
    return result;
  }
}

interface Operation {
  /** What a reader finds after it; nothing after a delete. */
  readonly value?: string;
  readonly expires?: number;
}

/** Everything that was done to one key, in order: only one writer has it, and does one thing after another. */
class KeyHistory {
  readonly key: string;
  readonly #operations: Operation[] = [{}];
  #acknowledged = 0;
  #newestRead = 0;

  constructor(key: string) {
    this.key = key;
  }

  /** Begins the next operation; the returned function is called when the store has acknowledged it. */
  begin(operation: Operation): () => void {
    const index = this.#operations.push(operation) - 1;
    return () => {
      this.#acknowledged = index;
    };
  }

  nextValue(): string {
    return `${marker}${this.key}#${this.#operations.length}`;
  }

  /** Begins a read; the returned function says what is wrong with what it found, if anything. */
  beginRead(): (found: unknown) => string | undefined {
    const floor = Math.max(this.#acknowledged, this.#newestRead);
    const beganMs = Date.now();
    return (found) => {
      const possible = this.#operations.slice(floor);
      if (found === undefined) {
        const endedMs = Date.now();
        const absent = possible.some(({ value, expires }) => value === undefined || (expires ?? Infinity) <= endedMs);
        return absent ? undefined : `${this.key} was missed: nothing since operation ${floor} removed it`;
      }
      const index = possible.findIndex(({ value }) => value === found);
      if (index === -1) return `${this.key} gave ${String(found)}, older than operation ${floor}, or never written`;
      const { expires } = possible[index] ?? {};
      if (expires !== undefined && expires <= beganMs) return `${this.key} gave a value that had expired`;
      this.#newestRead = Math.max(this.#newestRead, floor + index);
      return undefined;
    };
  }
}

interface Place {
  /** A store for one more actor, over the same records. */
  open(): MemoryStore | SqliteStore;
}

async function runHistory(
  place: Place,
  random: Random,
  operationsPerWriter: number,
): Promise<{ jobs: ReencryptReport[] }> {
  const rings = rotation();
  const writerCount = 6;
  const keysPerWriter = 5;
  const problems: string[] = [];
  const histories: KeyHistory[] = [];
  let writing = writerCount;

  const pick = <Item>(items: readonly Item[]): Item => {
    const item = items[Math.floor(random() * items.length)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  };

  const operationFor = (history: KeyHistory): Operation => {
    const chance = random();
    if (chance < 0.5) return { value: history.nextValue() };
    if (chance < 0.8) return { value: history.nextValue(), expires: Date.now() + 1 + Math.floor(random() * 30) };
    // Expired from the start: a delete by another name.
    if (chance < 0.85) return { expires: Date.now() - 1 };
    return {};
  };

  async function write(own: readonly KeyHistory[], store: EncryptedStore): Promise<void> {
    for (let count = 0; count < operationsPerWriter; count++) {
      const batch = random() < 0.3 ? own.filter(() => random() < 0.5) : [pick(own)];
      const planned = batch.map((history) => ({ history, operation: operationFor(history) }));
      const writes = planned.filter(
        ({ operation }) => operation.value !== undefined || operation.expires !== undefined,
      );
      const deletes = planned.filter((one) => !writes.includes(one));
      const acknowledge = (of: typeof planned) => of.map(({ history, operation }) => history.begin(operation));
      const entryOf = ({ history, operation: { value = "", expires } }: (typeof planned)[number]) => ({
        key: history.key,
        value,
        ...(expires === undefined ? {} : { expires }),
      });
      const [only] = planned;
      if (planned.length === 1 && only !== undefined) {
        const done = acknowledge(planned);
        const { key, value, expires } = { expires: undefined, ...entryOf(only) };
        if (writes.length === 1) await store.set(key, value, expires);
        else await store.delete(key);
        for (const acknowledged of done) acknowledged();
        continue;
      }
      const written = acknowledge(writes);
      await store.setMany(writes.map(entryOf));
      for (const acknowledged of written) acknowledged();
      const deleted = acknowledge(deletes);
      await store.deleteMany(deletes.map(({ history }) => history.key));
      for (const acknowledged of deleted) acknowledged();
    }
    writing--;
  }

  async function read(store: EncryptedStore): Promise<void> {
    const note = (problem: string | undefined) => {
      if (problem !== undefined) problems.push(problem);
    };
    while (writing > 0) {
      const chance = random();
      if (chance < 0.6) {
        const history = pick(histories);
        const check = history.beginRead();
        note(check(await store.get(history.key)));
      } else if (chance < 0.95) {
        const some = histories.filter(() => random() < 0.3);
        const checks = some.map((history) => history.beginRead());
        const found = await store.getMany(some.map(({ key }) => key));
        for (const [index, check] of checks.entries()) note(check(found[index]));
      } else {
        const checks = new Map(histories.map((history) => [history.key, history.beginRead()]));
        for await (const [key, value] of store.iterator()) note(checks.get(key)?.(value));
      }
      await nextTurn();
    }
  }

  const jobs: ReencryptReport[] = [];
  async function resealAll(store: EncryptedStore): Promise<void> {
    do {
      jobs.push(await reencrypt(store, { batchSize: 1 + Math.floor(random() * 10), concurrency: 3 }));
      await nextTurn();
    } while (writing > 0);
  }

  const open = (keys = rings.promoted) => new EncryptedStore(place.open(), { keys });
  const actors: Promise<void>[] = [];
  for (let writer = 0; writer < writerCount; writer++) {
    const own = Array.from({ length: keysPerWriter }, (_, index) => new KeyHistory(`${writer}/${index}`));
    histories.push(...own);
    // Most still seal under the old key, so that there is always something to seal again.
    actors.push(write(own, open(writer % 3 === 0 ? rings.promoted : rings.staged)));
  }
  const readers = Array.from({ length: 4 }, () => open());
  for (const store of readers) actors.push(read(store));
  actors.push(resealAll(open()), resealAll(open()));
  await Promise.all(actors);
  for (const store of readers) await store.settled();

  // At the end everything lies as its last acknowledged operation left it, under the new key alone.
  const end = open(rings.promoted);
  for (const history of histories) {
    const check = history.beginRead();
    const problem = check(await end.get(history.key));
    if (problem !== undefined) problems.push(`at the end: ${problem}`);
  }
  await end.settled();
  await reencrypt(end);
  const { entries } = await place.open().scan({ limit: 1_000 });
  for (const { key, value } of entries)
    if (keyIdIn(value) !== "new") problems.push(`${key} is under ${keyIdIn(value)}`);
  expect(problems).toEqual([]);
  return { jobs };
}

function expectWorkWasDone(jobs: readonly ReencryptReport[]): void {
  const total = (count: (report: ReencryptReport) => number) => jobs.reduce((sum, report) => sum + count(report), 0);
  expect(total(({ reencrypted }) => reencrypted)).toBeGreaterThan(0);
  expect(total(({ unreadable }) => unreadable)).toBe(0);
}

it(`in memory: nothing is lost, nothing comes back, nothing older is read (seed ${seed})`, async () => {
  const random = randomFrom(seed);
  const records = new UnhurriedStore().withPace(random);
  const place: Place = { open: () => records.namespaced("flows") };
  const { jobs } = await runHistory(place, random, 4_000);
  expectWorkWasDone(jobs);
});

it(`in SQLite, over two connections: the same (seed ${seed})`, async () => {
  const random = randomFrom(seed + 1);
  const folder = await mkdtemp(join(tmpdir(), "keyward-history-"));
  const connections = [0, 1].map(() => new SqliteStore(join(folder, "records.db"), { synchronous: "normal" }));
  const [first, second = first] = connections;
  let turn = 0;
  try {
    const place: Place = {
      open: () => {
        const connection = turn++ % 2 === 0 ? first : second;
        if (connection === undefined)
          throw new KeywardError("STORE_UNAVAILABLE", "No connection", { hint: "Open one." });
        return connection.namespaced("flows");
      },
    };
    const { jobs } = await runHistory(place, random, 600);
    expectWorkWasDone(jobs);
  } finally {
    for (const connection of connections) await connection.disconnect();
    await rm(folder, { recursive: true, force: true });
  }
});
