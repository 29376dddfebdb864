import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import {
  EncryptedStore,
  Keyring,
  KeywardError,
  type ReencryptReport,
  reencrypt,
  retireKey,
  type ScannableStore,
} from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import { TestKeys } from "../store/rings.ts";
import { guardMaterial, marker } from "../store/secrets.ts";
import { keyIdIn } from "../store/store/inner-stores.ts";
import { KeyHistory, type Operation } from "./key-history.ts";
import { below, pick, type Random } from "./random.ts";
import { Gate, Progress } from "./traffic.ts";

/** A history to be lived through on a backend. */
export interface HistoryPlan {
  readonly random: Random;
  /** Calls of writers and readers that are answered before it ends; a batch is one. */
  readonly operations: number;
  /** How often a key is added, promoted, and re-encrypted to. */
  readonly rotations: number;
  /** Whether the former key is retired each time. */
  readonly retire: boolean;
  /** A store for one more actor, over the same records. */
  open(): KeyvStorageAdapter & ScannableStore;
  /** What goes wrong meanwhile. With it, calls may be answered by `STORE_UNAVAILABLE`; when it ends, all is well again. */
  readonly disturb?: (traffic: Traffic) => Promise<void>;
}

/** What goes on while a backend is disturbed. */
export interface Traffic {
  readonly progress: Progress;
  readonly gate: Gate;
}

/** How a history went. */
export interface HistoryOutcome {
  /** What no reader may see, and did; nothing if all is well. */
  readonly problems: readonly string[];
  readonly jobs: readonly ReencryptReport[];
  /** Calls whose outcome nobody knows. */
  readonly unavailable: number;
  readonly promoted: number;
  readonly retired: number;
}

const writerCount = 8;
const keysPerWriter = 5;
const readerCount = 5;
const processCount = 3;
const mostProblems = 10;
const recoveryMs = 20_000;

/**
 * Writers, deleters, expiring keys, readers that seal again and two bulk jobs, all on the same keys while keys rotate:
 * no acknowledged write may be lost, no deleted or expired record come back, no older value be read after a newer one.
 */
export async function runHistory(plan: HistoryPlan): Promise<HistoryOutcome> {
  return await new History(plan).run();
}

class History {
  readonly #plan: HistoryPlan;
  readonly #random: Random;
  readonly #progress = new Progress();
  readonly #gate = new Gate();
  readonly #histories = Array.from(
    { length: writerCount * keysPerWriter },
    (_, index) => new KeyHistory(`${marker}${index % writerCount}/${Math.floor(index / writerCount)}`),
  );
  readonly #problems: string[] = [];
  readonly #jobs: ReencryptReport[] = [];
  readonly #stores: EncryptedStore[] = [];
  #ring = guardMaterial(Keyring.generate("key-0"));
  /** Processes that take over a ring at different times, each with a store to see by that it did. */
  readonly #processes: readonly { readonly keys: TestKeys; readonly store: EncryptedStore }[];
  #disturbed: boolean;
  #rotating = true;
  #unavailable = 0;
  #promoted = 0;
  #retired = 0;
  #latestExpiry = 0;

  constructor(plan: HistoryPlan) {
    this.#plan = plan;
    this.#random = plan.random;
    this.#disturbed = plan.disturb !== undefined;
    this.#processes = Array.from({ length: processCount }, () => {
      const keys = new TestKeys(this.#ring);
      return { keys, store: this.#open(keys) };
    });
  }

  async run(): Promise<HistoryOutcome> {
    const { disturb } = this.#plan;
    const disturbance = disturb?.({ progress: this.#progress, gate: this.#gate }).finally(() => {
      this.#disturbed = false;
    });
    // Its failure is told at the end, when nothing else runs.
    disturbance?.catch(() => undefined);
    // On a busy machine the first connection may take longer than the plan's stores wait.
    for (const { store } of this.#processes) {
      while ((await this.#attempt(() => store.get("nothing"))) === undefined && this.#problems.length === 0);
    }
    const readers: EncryptedStore[] = [];
    const actors: Promise<void>[] = [];
    for (let writer = 0; writer < writerCount; writer++) {
      const own = this.#histories.filter((_, index) => index % writerCount === writer);
      actors.push(this.#write(own, this.#openIn(writer)));
    }
    for (let reader = 0; reader < readerCount; reader++) {
      const store = this.#openIn(reader);
      readers.push(store);
      actors.push(this.#read(store));
    }
    for (let job = 0; job < 2; job++) actors.push(this.#reencrypt(this.#openIn(job)));
    actors.push(this.#rotate());
    const results = await Promise.allSettled(actors.map((actor) => this.#endsAll(actor)));
    this.#progress.stop();
    await disturbance;
    for (const result of results) if (result.status === "rejected") throw result.reason;
    for (const store of readers) await store.settled();
    await this.#examineEnd();
    return {
      problems: this.#problems,
      jobs: this.#jobs,
      unavailable: this.#unavailable,
      promoted: this.#promoted,
      retired: this.#retired,
    };
  }

  get #over(): boolean {
    if (this.#problems.length >= mostProblems) return true;
    return this.#progress.count >= this.#plan.operations && !this.#disturbed && !this.#rotating;
  }

  /** An actor that fails takes the others with it, so that the failure is seen at once. */
  async #endsAll(actor: Promise<void>): Promise<void> {
    try {
      await actor;
    } catch (error) {
      while (this.#problems.length < mostProblems) this.#problems.push(`An actor failed: ${String(error)}`);
      throw error;
    } finally {
      if (this.#over) this.#progress.stop();
    }
  }

  #open(keys: TestKeys): EncryptedStore {
    const store = new EncryptedStore(this.#plan.open(), { keys });
    this.#stores.push(store);
    return store;
  }

  #openIn(process: number): EncryptedStore {
    return this.#open(this.#processOf(process).keys);
  }

  #processOf(index: number): { readonly keys: TestKeys; readonly store: EncryptedStore } {
    const process = this.#processes[index % processCount];
    if (process === undefined) throw new Error("There is no such process");
    return process;
  }

  /** What a call gives, or nothing where that is unknown. */
  async #attempt<Result>(call: () => Promise<Result>): Promise<{ readonly result: Result } | undefined> {
    try {
      const result = await this.#gate.pass(call);
      this.#progress.advance();
      return { result };
    } catch (error) {
      await this.#excuse(error);
      return undefined;
    }
  }

  async #excuse(error: unknown): Promise<void> {
    if (this.#plan.disturb !== undefined && error instanceof KeywardError && error.code === "STORE_UNAVAILABLE") {
      this.#unavailable++;
    } else {
      this.#note(`A call failed: ${String(error)}${error instanceof Error ? ` (${String(error.cause)})` : ""}`);
    }
    await nextTurn();
  }

  #note(problem: string | undefined): void {
    if (problem !== undefined && this.#problems.length < mostProblems) this.#problems.push(problem);
  }

  #nextOperation(history: KeyHistory): Operation {
    const chance = this.#random();
    if (chance < 0.5) return { value: history.nextValue() };
    if (chance < 0.8) {
      // Most expire while others are at it, some only later.
      const expires = Date.now() + 1 + Math.floor(this.#random() ** 3 * 300);
      this.#latestExpiry = Math.max(this.#latestExpiry, expires);
      return { value: history.nextValue(), expires };
    }
    // Expired from the start: a delete by another name.
    if (chance < 0.85) return { expires: Date.now() - 1 };
    return {};
  }

  async #write(own: readonly KeyHistory[], store: EncryptedStore): Promise<void> {
    while (!this.#over) {
      const batch = this.#random() < 0.3 ? own.filter(() => this.#random() < 0.5) : [pick(this.#random, own)];
      const planned = batch.map((history) => ({ history, operation: this.#nextOperation(history) }));
      const isWrite = ({ operation: { value, expires } }: (typeof planned)[number]) =>
        value !== undefined || expires !== undefined;
      const writes = planned.filter(isWrite);
      const deletes = planned.filter((one) => !isWrite(one));
      const entries = writes.map(({ history: { key }, operation: { value = "", expires } }) => ({
        key,
        value,
        ...(expires === undefined ? {} : { expires }),
      }));
      const keys = deletes.map(({ history: { key } }) => key);
      const [entry] = entries;
      const [key] = keys;
      if (entry !== undefined) {
        await this.#acknowledged(writes, async () => {
          if (planned.length > 1) return await store.setMany(entries);
          return [await store.set(entry.key, entry.value, entry.expires)];
        });
      }
      if (key !== undefined) {
        await this.#acknowledged(deletes, async () => {
          if (planned.length > 1) await store.deleteMany(keys);
          else await store.delete(key);
          return keys.map(() => true);
        });
      }
    }
  }

  async #acknowledged(
    planned: readonly { readonly history: KeyHistory; readonly operation: Operation }[],
    call: () => Promise<readonly boolean[]>,
  ): Promise<void> {
    const begun: (() => void)[] = [];
    // Only once the gate lets it through: what is held back has not begun.
    const answer = await this.#attempt(async () => {
      for (const { history, operation } of planned) begun.push(history.begin(operation));
      return await call();
    });
    for (const [index, acknowledge] of begun.entries()) {
      if (answer?.result[index] === true) acknowledge();
      else if (answer !== undefined)
        this.#note(`A write of ${planned[index]?.history.key} was refused without an error`);
    }
  }

  async #read(store: EncryptedStore): Promise<void> {
    while (!this.#over) {
      const chance = this.#random();
      if (chance < 0.6) await this.#readOne(store, pick(this.#random, this.#histories));
      else if (chance < 0.97) await this.#readMany(store);
      else await this.#readAll(store);
      // While somebody waits for it, re-encryption behind reads takes no rest: as much of it as there can be.
      void store.settled();
      await nextTurn();
    }
  }

  async #readOne(store: EncryptedStore, history: KeyHistory): Promise<void> {
    const check = history.beginRead();
    const answer = await this.#attempt(() => store.get(history.key));
    if (answer !== undefined) this.#note(check(answer.result));
  }

  async #readMany(store: EncryptedStore): Promise<void> {
    const some = this.#histories.filter(() => this.#random() < 0.3);
    const checks = some.map((history) => history.beginRead());
    const answer = await this.#attempt(() => store.getMany(some.map(({ key }) => key)));
    if (answer === undefined) return;
    for (const [index, check] of checks.entries()) this.#note(check(answer.result[index]));
  }

  async #readAll(store: EncryptedStore): Promise<void> {
    const checks = new Map(this.#histories.map((history) => [history.key, history.beginRead()]));
    const answer = await this.#attempt(async () => {
      const found: [string, unknown][] = [];
      for await (const entry of store.iterator()) found.push(entry);
      return found;
    });
    for (const [key, value] of answer?.result ?? []) this.#note(checks.get(key)?.(value));
  }

  async #reencrypt(store: EncryptedStore): Promise<void> {
    while (!this.#over) {
      try {
        this.#jobs.push(await reencrypt(store, { batchSize: 1 + below(this.#random, 10), concurrency: 3 }));
      } catch (error) {
        await this.#excuse(error);
      }
      await this.#progress.reached(this.#progress.count + 20);
    }
  }

  /** Add everywhere, promote one process after the other, re-encrypt, retire. */
  async #rotate(): Promise<void> {
    const { operations, rotations, retire } = this.#plan;
    const step = operations / (rotations * 4 + 1);
    for (let rotation = 1; rotation <= rotations && !this.#over; rotation++) {
      const begin = (rotation - 1) * 4 * step;
      await this.#progress.reached(begin + step);
      await this.#spread(guardMaterial(this.#ring.add({ id: `key-${rotation}` })), step / processCount);
      await this.#progress.reached(begin + 2 * step);
      await this.#spread(this.#ring.promote(`key-${rotation}`), step / processCount);
      this.#promoted++;
      await this.#progress.reached(begin + 3 * step);
      if (retire) await this.#retire(`key-${rotation - 1}`);
    }
    this.#rotating = false;
  }

  async #spread(ring: Keyring, between: number): Promise<void> {
    this.#ring = ring;
    for (const { keys, store } of this.#processes) {
      const changed = Promise.withResolvers<void>();
      store.once("keyring:changed", () => changed.resolve());
      keys.push(ring);
      await changed.promise;
      await this.#progress.reached(this.#progress.count + between);
    }
  }

  async #retire(id: string): Promise<void> {
    // What another process began to seal before the promotion has to be there before the census is asked.
    await this.#gate.hold(async () => undefined);
    const { keys, store } = this.#processOf(0);
    for (let attempt = 1; ; attempt++) {
      await reencrypt(store);
      try {
        const { keyring: ring } = await retireKey(keys, { flows: store }, id);
        await this.#spread(ring, 0);
        break;
      } catch (error) {
        if (!(error instanceof KeywardError && error.code === "KEY_IN_USE") || attempt === 10) throw error;
      }
    }
    const { keyring: ring } = await retireKey(keys, { flows: store }, id, { to: "removed" });
    await this.#spread(ring, 0);
    this.#retired++;
  }

  /** Everything lies as its last operation left it, under the primary alone, and nothing else lies there. */
  async #examineEnd(): Promise<void> {
    const end = this.#openIn(0);
    await this.#recovered(async () => {
      for (const history of this.#histories) {
        const check = history.beginRead();
        const problem = check(await end.get(history.key));
        if (problem !== undefined) this.#note(`At the end: ${problem}`);
      }
    });
    await end.settled();
    await this.#recovered(() => reencrypt(end));
    const waitMs = this.#latestExpiry - Date.now();
    if (waitMs >= 0) await sleep(waitMs + 1);
    const byKey = new Map(this.#histories.map((history) => [history.key, history]));
    const inner = this.#plan.open();
    let cursor: string | undefined;
    do {
      const from = cursor === undefined ? {} : { cursor };
      const page = await this.#recovered(() => inner.scan({ limit: 100, ...from }));
      for (const { key, value } of page.entries) {
        if (keyIdIn(value) !== this.#ring.primary) this.#note(`At the end: ${key} is under ${keyIdIn(value)}`);
        if (byKey.get(key)?.mayBeThere() !== true) this.#note(`At the end: ${key} lies in the store, and should not`);
      }
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  /** Again until the store is back, where it was disturbed. */
  async #recovered<Result>(call: () => Promise<Result>): Promise<Result> {
    const deadlineMs = Date.now() + recoveryMs;
    for (;;) {
      try {
        return await call();
      } catch (error) {
        const patient = this.#plan.disturb !== undefined && Date.now() < deadlineMs;
        if (!(patient && error instanceof KeywardError && error.code === "STORE_UNAVAILABLE")) throw error;
        await sleep(50);
      }
    }
  }
}
