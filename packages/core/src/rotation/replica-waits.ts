import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { NamedStores } from "../reencryption/named-stores.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { ReplicaRegistration } from "../store/replica-registration.ts";
import { pause } from "../waiting/pause.ts";
import { type Replica, ReplicaWatch, replicas } from "./replicas.ts";

/** A step of a rotation that waits for other processes. */
export type ReplicaWait = "distribute" | "drain";

/** The options that determine which processes a rotation waits for, and how long. */
export interface ReplicaWaitOptions {
  /** Every store that uses the keyring, by the names that the keyring document lists. */
  readonly stores: NamedStores;
  /**
   * The wait for processes that use the stores but are not registered as replicas. Pass the time in milliseconds that
   * these processes take to load a changed keyring and finish their writes, or a function whose promise resolves when
   * they have done so. If no other process uses the stores, pass `{ waitMs: 0 }`. Required if a store has no replica
   * except this process.
   */
  readonly unregistered?: { readonly waitMs: number } | ((wait: ReplicaWait) => Promise<void>);
  /**
   * Ids of processes that have ended, and whose lease is not to be waited for. Never pass the id of a process that still
   * runs: other processes cannot decrypt the records that it writes once the old key is disabled.
   */
  readonly ignoreReplicas?: readonly string[];
  /**
   * Maximum time to wait for replicas in each of the steps `distribute` and `drain`, in milliseconds. Default: ten
   * minutes, or twice the longest lease if that is longer.
   */
  readonly replicasWithinMs?: number;
  /** Stops this run, which then rejects with the reason of the signal. Another run resumes where it stopped. */
  readonly signal?: AbortSignal;
}

/** The name of every option of the waits for replicas. */
export const replicaWaitOptionNames = {
  stores: true,
  unregistered: true,
  ignoreReplicas: true,
  replicasWithinMs: true,
  signal: true,
} as const satisfies OptionNames<ReplicaWaitOptions>;

/** A replica that a rotation waits for. */
export interface WaitingReplica extends Replica {
  /** The name of the store that the replica registered in. */
  readonly store: string;
}

const defaultReplicasWithinMs = 10 * 60 * 1_000;
const firstPollMs = 20;
const longestPollMs = 500;

/** Waits until all processes that use the stores have loaded a changed keyring, or finished their earlier writes. */
export class ReplicaWaits {
  readonly #source: KeyringSource;
  readonly #options: ReplicaWaitOptions;
  /** One watch for each reserved space, because several stores may share a backend and so a reserved space. */
  readonly #watches = new Map<object, { readonly store: string; readonly watch: ReplicaWatch }>();

  /**
   * @param source the keyring source of this process. A rotation also waits for its own process, which does not count as
   * another registered process.
   * @throws KeywardError `VALUE_INVALID` for a time that is not an integer number of milliseconds.
   */
  constructor(source: KeyringSource, options: ReplicaWaitOptions) {
    const { unregistered, replicasWithinMs } = options;
    if (replicasWithinMs !== undefined)
      requireAmount("replicasWithinMs", replicasWithinMs, "milliseconds", { least: 0 });
    if (unregistered !== undefined && typeof unregistered !== "function") {
      requireOptions("unregistered", unregistered, { waitMs: true });
      requireAmount("unregistered.waitMs", unregistered?.waitMs, "milliseconds", { least: 0 });
    }
    this.#source = source;
    this.#options = options;
    for (const [store, given] of Object.entries(options.stores)) {
      const { reserve } = storeParts(given);
      if (reserve !== undefined && !this.#watches.has(reserve.space)) {
        this.#watches.set(reserve.space, { store, watch: new ReplicaWatch(reserve) });
      }
    }
  }

  /** Returns the replicas to wait for, and the names of the stores in which no other process is registered. */
  async planned(): Promise<{ readonly waiting: readonly WaitingReplica[]; readonly unregistered: readonly string[] }> {
    const waiting: WaitingReplica[] = [];
    for (const { store } of this.#watches.values()) {
      const given = this.#options.stores[store];
      const listed = given === undefined ? [] : await replicas(given);
      waiting.push(...listed.filter(({ lapsed }) => !lapsed).map((replica) => ({ ...replica, store })));
    }
    return { waiting, unregistered: this.#storesWithoutOthers(waiting) };
  }

  /**
   * Checks that every store has another registered process, unless the option `unregistered` is given.
   *
   * @throws KeywardError `NO_REPLICAS`.
   */
  async requireOthers(): Promise<void> {
    if (this.#options.unregistered !== undefined) return;
    await this.#listReplicas();
    this.#requireReplicas(await this.#readReplicas());
  }

  /**
   * Waits until `isReady` returns true for every replica, then for the processes that are not registered. Before you
   * call this, announce the keyring in the stores, so that a replica that registers later loads this keyring.
   *
   * @param report called with the replicas that are not ready yet, each time the list changes.
   * @throws KeywardError `REPLICA_BEHIND`; `NO_REPLICAS` if no replica is left and `unregistered` is not given.
   */
  async wait(
    step: ReplicaWait,
    keyring: Keyring,
    isReady: (replica: Replica) => boolean,
    report: (waiting: readonly WaitingReplica[]) => void,
  ): Promise<void> {
    const { ignoreReplicas = [], unregistered, signal } = this.#options;
    await this.#listReplicas();
    let reportedIds = "";
    let listed = await this.#readReplicas();
    // The wait must not fail because of a replica that ended without disconnecting: its lease has to lapse first.
    const leaseMs = Math.max(0, ...listed.map((replica) => replica.leaseMs));
    const { replicasWithinMs = Math.max(defaultReplicasWithinMs, 2 * leaseMs) } = this.#options;
    const deadlineMs = performance.now() + replicasWithinMs;
    for (let pollMs = firstPollMs; ; pollMs = Math.min(pollMs * 1.5, longestPollMs)) {
      const waiting = listed.filter(
        (replica) => !replica.lapsed && !ignoreReplicas.includes(replica.id) && !isReady(replica),
      );
      if (waiting.length === 0) break;
      if (performance.now() > deadlineMs) {
        // A process with a key of this keyring writes readable heartbeats, so an unreadable one must not end a rotation.
        const late = waiting.filter(({ problem }) => problem === undefined);
        if (late.length === 0) break;
        throw replicaBehindError(step, keyring, late);
      }
      const ids = waiting.map(({ id }) => id).join();
      if (ids !== reportedIds) report(waiting);
      reportedIds = ids;
      await pause(pollMs, signal);
      listed = await this.#readReplicas();
    }
    if (unregistered === undefined) this.#requireReplicas(listed);
    else if (typeof unregistered === "function") await unregistered(step);
    else await pause(unregistered.waitMs, signal);
  }

  /** Removes the heartbeats of replicas whose lease lapsed during a wait. */
  async removeLapsed(): Promise<void> {
    for (const { watch } of this.#watches.values()) await watch.removeLapsed();
  }

  async #listReplicas(): Promise<void> {
    for (const { watch } of this.#watches.values()) await watch.list();
  }

  async #readReplicas(): Promise<readonly WaitingReplica[]> {
    const found: WaitingReplica[] = [];
    for (const { store, watch } of this.#watches.values()) {
      for (const replica of await watch.read()) found.push({ ...replica, store });
    }
    return found;
  }

  #requireReplicas(listed: readonly WaitingReplica[]): void {
    const stores = this.#storesWithoutOthers(listed.filter(({ lapsed }) => !lapsed));
    if (stores.length === 0) return;
    throw new KeywardError("NO_REPLICAS", `No other process is registered in the stores ${stores.join(", ")}`, {
      hint:
        "The rotation waits only for processes that register. Set the option `replica` in the application and start it. " +
        "If its processes cannot register, pass `unregistered` with the time that they take to load a changed keyring. " +
        "If no other process uses the stores, pass `unregistered: { waitMs: 0 }`.",
    });
  }

  #storesWithoutOthers(alive: readonly WaitingReplica[]): string[] {
    return Object.entries(this.#options.stores)
      .filter(([, given]) => {
        const { reserve } = storeParts(given);
        const watched = reserve === undefined ? undefined : this.#watches.get(reserve.space);
        if (reserve === undefined || watched === undefined) return true;
        const own = ReplicaRegistration.idIn(reserve.space, this.#source);
        return !alive.some(({ id, store }) => store === watched.store && id !== own);
      })
      .map(([name]) => name);
  }
}

/**
 * Returns the id or name of a replica in a form that is safe to print. An attacker who can write to the store may have
 * chosen the id, which is part of the key of a heartbeat.
 */
function shown(id: string): string {
  return id.replace(/\p{C}/gu, "?").slice(0, 255);
}

function replicaBehindError(step: ReplicaWait, keyring: Keyring, waiting: readonly WaitingReplica[]): KeywardError {
  const list = waiting.slice(0, 10).map(({ id, name, store, generation, primary, problem }) => {
    const replica = `${shown(name)} [${shown(id)}] in ${store}`;
    return problem === undefined
      ? `${replica} (generation ${generation}, primary ${primary})`
      : `${replica} (${problem})`;
  });
  const replicasHave = waiting.length === 1 ? "1 replica has" : `${waiting.length} replicas have`;
  const task = `loaded generation ${keyring.generation} of the keyring`;
  const tasks = step === "drain" ? `${task} and finished the writes that they began before` : task;
  return new KeywardError("REPLICA_BEHIND", `At step "${step}", ${replicasHave} not ${tasks}: ${list.join(", ")}`, {
    counts: Object.fromEntries(
      waiting.map(({ store }) => [store, waiting.filter((one) => one.store === store).length]),
    ),
    hint:
      `Check that the key provider of these processes can load generation ${keyring.generation}. At step "drain", check ` +
      "too that their writes finish, because until then they may still write records under the old key. Repair the processes " +
      "or end them, and then run the rotation again, which resumes at this step. To skip the wait for the lease of a process that has " +
      "ended, pass its id, which is in brackets, in `ignoreReplicas`. Never pass the id of a process that still runs, because " +
      "other processes could not decrypt the records that it writes.",
  });
}
