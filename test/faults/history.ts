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

/** Plan of a history: a sequence of concurrent calls and key rotations on a backend. */
export interface HistoryPlan {
  readonly random: Random;
  /** Number of answered calls of writers and readers after which the history ends. A batch is one call. */
  readonly operations: number;
  /** Number of rotations: a key is added, promoted, and all records are re-encrypted under it. */
  readonly rotations: number;
  /** True if each rotation also retires the former key. */
  readonly retire: boolean;
  /** Opens a store for another actor, over the same records. */
  open(): KeyvStorageAdapter & ScannableStore;
  /** Disturbs the backend. Calls may then reject with `STORE_UNAVAILABLE`. When it ends, the backend works again. */
  readonly disturb?: (traffic: Traffic) => Promise<void>;
}

/** The calls of a history, which continue while the backend is disturbed. */
export interface Traffic {
  readonly progress: Progress;
  readonly gate: Gate;
}

/** Outcome of a history. */
export interface HistoryOutcome {
  /** Observations that a correct store does not allow. Empty if the history is correct. */
  readonly problems: readonly string[];
  readonly jobs: readonly ReencryptReport[];
  /** Number of calls with an unknown outcome. */
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
 * Runs a history: writers, deleters, expiring records, readers that re-encrypt lazily and two bulk jobs, all on the same
 * records while keys rotate. Reports a problem in these cases:
 * - an acknowledged write is lost
 * - a deleted or expired record comes back
 * - an older value is read after a newer one
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
  /** Processes that load a keyring at different times. Each has a store that shows which keyring it uses. */
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
    // A failure is reported when all other calls have finished.
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

  /** Runs an actor. If the actor fails, the others stop, so that the failure is reported at once. */
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

  /** Returns the result of a call, or `undefined` if its outcome is unknown. */
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
      // Most records expire while other calls use them, and some expire later.
      const expires = Date.now() + 1 + Math.floor(this.#random() ** 3 * 300);
      this.#latestExpiry = Math.max(this.#latestExpiry, expires);
      return { value: history.nextValue(), expires };
    }
    // The record has expired already when it is written, so the write has the effect of a delete.
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
    // The operation begins when the gate lets it through. A call that is held back has not begun.
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
      // While a caller waits for `settled()`, lazy re-encryption makes no pauses, so there is as much of it as possible.
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

  /** Adds a key in all processes, promotes it in one process after the other, re-encrypts, and retires the former key. */
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
    // Writes that another process began before the promotion must be stored before the census.
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

  /** Checks that every record is as its last operation left it, only under the primary, and that no other record is stored. */
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
        if (byKey.get(key)?.mayBeThere() !== true) this.#note(`At the end: ${key} is in the store, and should not be`);
      }
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  /** Repeats a call until a disturbed store works again. */
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
