import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { NamedStores } from "../reencryption/named-stores.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { keyLabel } from "../store/heartbeat.ts";
import { ReplicaRegistration } from "../store/replica-registration.ts";
import { pause } from "../waiting/pause.ts";
import { type Replica, ReplicaWatch, replicas } from "./replicas.ts";

/**
 * A step of a rotation that waits for other processes. `distribute` waits until these processes have loaded the changed
 * keyring. `drain` waits until they have also finished their earlier writes. In a guided rotation, `remove` waits until
 * they no longer have the old key.
 */
export type ReplicaWait = "distribute" | "drain" | "remove";

/** Options for the steps in which a rotation waits for other processes: which processes, and how long. */
export interface ReplicaWaitOptions {
  /** Every store that uses the keyring, each under the name that the keyring lists for it. */
  readonly stores: NamedStores;
  /**
   * How the steps `distribute` and `drain` wait for processes that use the stores but are not registered as replicas.
   * With `{ waitMs }`, each step waits this number of milliseconds: choose the time in which these processes load a
   * changed keyring and finish their writes. With a function, each step waits for its promise, which must resolve when
   * these processes have done both. If no other process uses the stores, pass `{ waitMs: 0 }`. Required if a store has
   * no replica except this process.
   */
  readonly unregistered?: { readonly waitMs: number } | ((wait: "distribute" | "drain") => Promise<void>);
  /**
   * Ids of replicas that have ended. The rotation does not wait for them. Never pass the id of a process that still
   * runs: it may write records under the old key, which no process can decrypt once that key is disabled.
   */
  readonly ignoreReplicas?: readonly string[];
  /**
   * Maximum time that each step waits for replicas, in milliseconds. After this time, the run rejects with
   * `REPLICA_BEHIND`. Default: ten minutes, or twice the longest lease if that is longer.
   */
  readonly replicasWithinMs?: number;
  /**
   * If this signal is aborted, the run stops, and rejects with the reason of the signal. A later run resumes the
   * rotation where this run stopped.
   */
  readonly signal?: AbortSignal;
}

/** The names of all options in {@link ReplicaWaitOptions}. */
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

/**
 * Waits for all processes that use the stores. In the step `distribute`, waits until they have loaded a changed
 * keyring. In the step `drain`, waits until they have also finished the writes that they began with an earlier keyring.
 */
export class ReplicaWaits {
  readonly #source: KeyringSource;
  readonly #options: ReplicaWaitOptions;
  /** One watch for each reserved space. Stores that share a backend also share its reserved space. */
  readonly #watches = new Map<object, { readonly store: string; readonly watch: ReplicaWatch }>();

  /**
   * @param source loads the keyring of this process. Also identifies the replica that is this process: a rotation waits
   * for it, too, but does not count it as another registered process.
   * @throws KeywardError `VALUE_INVALID` if `replicasWithinMs` or `waitMs` is not an integer of at least 0.
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
   * Checks that a process other than this one is registered in every store. Checks nothing if the option `unregistered`
   * is given.
   *
   * @throws KeywardError `NO_REPLICAS` if a store has no other registered process.
   */
  async requireOthers(): Promise<void> {
    if (this.#options.unregistered !== undefined) return;
    await this.#listReplicas();
    this.#requireReplicas(await this.#readReplicas());
  }

  /**
   * Waits until `isReady` returns true for every replica whose lease has not lapsed. Then waits for the processes that
   * are not registered, as the option `unregistered` requires. The step `remove` waits only for replicas. Announce
   * `keyring` in the stores before you call `wait`, so that a replica that registers during the wait loads `keyring`.
   *
   * @param report called with the list of replicas that are not ready yet, each time the list changes.
   * @param registersLate true to wait also for replicas that register during the wait. A guided rotation needs this:
   * the former keyring may have the announced generation number too, so such a replica may not have loaded `keyring`.
   * @param requireCurrent must throw if another run has taken the rotation over, which ends the wait.
   * @throws KeywardError `REPLICA_BEHIND` if a replica is not ready within `replicasWithinMs`; `NO_REPLICAS` if
   * `unregistered` is omitted and a store has no replica except this process. The step `remove` does not throw
   * `NO_REPLICAS`.
   */
  async wait(
    step: ReplicaWait,
    keyring: Keyring,
    isReady: (replica: Replica) => boolean,
    report: (waiting: readonly WaitingReplica[]) => void,
    {
      registersLate,
      requireCurrent,
    }: { readonly registersLate: boolean; readonly requireCurrent?: () => Promise<void> },
  ): Promise<void> {
    const { ignoreReplicas = [], unregistered, signal } = this.#options;
    const waitingIn = (all: readonly WaitingReplica[]) =>
      all.filter((replica) => !replica.lapsed && !ignoreReplicas.includes(replica.id) && !isReady(replica));
    await this.#listReplicas();
    let reportedIds = "";
    let listed = await this.#readReplicas();
    // Wait longer than the longest lease, so that the lease of a replica that ended without disconnecting can lapse.
    const leaseMs = Math.max(0, ...listed.map((replica) => replica.leaseMs));
    const { replicasWithinMs = Math.max(defaultReplicasWithinMs, 2 * leaseMs) } = this.#options;
    const deadlineMs = performance.now() + replicasWithinMs;
    for (let pollMs = firstPollMs; ; pollMs = Math.min(pollMs * 1.5, longestPollMs)) {
      let waiting = waitingIn(listed);
      if (waiting.length === 0 && registersLate) {
        await this.#listReplicas();
        listed = await this.#readReplicas();
        waiting = waitingIn(listed);
      }
      if (waiting.length === 0) break;
      if (performance.now() > deadlineMs) {
        // A process with a key of this keyring writes heartbeats that can be decrypted. So a heartbeat that cannot be
        // decrypted must not make the rotation fail.
        const late = waiting.filter(({ problem }) => problem === undefined);
        if (late.length === 0) break;
        throw replicaBehindError(step, keyring, late);
      }
      const ids = waiting.map(({ id }) => id).join();
      if (ids !== reportedIds) report(waiting);
      reportedIds = ids;
      await pause(pollMs, signal);
      await requireCurrent?.();
      listed = await this.#readReplicas();
    }
    if (step === "remove") return;
    if (unregistered === undefined) this.#requireReplicas(listed);
    else if (typeof unregistered === "function") await unregistered(step);
    else await pause(unregistered.waitMs, signal);
  }

  /** Removes the heartbeats of replicas whose lease lapsed while the rotation waited for them. */
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
    throw new KeywardError(
      "NO_REPLICAS",
      `No process except this one is registered as a replica in the stores ${stores.join(", ")}`,
      {
        hint:
          "If the processes of your application can register, set the option `replica` of their stores and start " +
          "them, because a rotation waits only for registered processes. If they cannot register, pass " +
          "`unregistered: { waitMs }` with the milliseconds that they take to load a changed keyring and finish " +
          "their writes. If no other process uses these stores, pass `unregistered: { waitMs: 0 }`.",
      },
    );
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
 * Makes the id or name of a replica safe to print: replaces control characters, and cuts the text to 255 characters. An
 * attacker who can write to the store may have chosen the id.
 */
function shown(id: string): string {
  return id.replace(/\p{C}/gu, "?").slice(0, 255);
}

function replicaBehindError(step: ReplicaWait, keyring: Keyring, waiting: readonly WaitingReplica[]): KeywardError {
  const list = waiting.slice(0, 10).map(({ id, name, store, generation, primary, keys, problem }) => {
    const replica = `${shown(name)} [${shown(id)}] in ${store}`;
    return problem === undefined
      ? `${replica} (generation ${generation}, primary ${primary}, keys ${keys?.join(" ") ?? "not listed"})`
      : `${replica} (${problem})`;
  });
  const replicasHave = waiting.length === 1 ? "1 replica has" : `${waiting.length} replicas have`;
  return new KeywardError(
    "REPLICA_BEHIND",
    `At step "${step}", ${replicasHave} not ${taskOf(step, keyring)}: ${list.join(", ")}`,
    {
      counts: Object.fromEntries(
        waiting.map(({ store }) => [store, waiting.filter((one) => one.store === store).length]),
      ),
      hint:
        "Check that the key provider of each replica in this message can load this keyring. If its keys are in " +
        "environment variables, restart the replica with the changed variables. A provider that reports no changes needs " +
        "`refreshMs`, or a restart of its process. The digits after a key id identify the key. If two replicas show " +
        "different digits after the same id, they have different keys: give all replicas the same key. " +
        (step === "drain"
          ? "Check too that the writes of these replicas finish, because until then a replica may write records under the " +
            "old key. "
          : "") +
        "Then run the rotation again, which resumes at this step. If a replica has ended, pass its id in `ignoreReplicas`, " +
        "so that the rotation does not wait for its lease. The ids are in brackets in this message. Never pass the id of a " +
        "process that still runs. Such a process may write records under the old key, and no process can decrypt these " +
        "records once the old key is disabled or removed.",
    },
  );
}

function taskOf(step: ReplicaWait, keyring: Keyring): string {
  const task = `loaded the keyring with the ${keysOf(keyring)} (generation ${keyring.generation})`;
  switch (step) {
    case "distribute":
    case "remove":
      return task;
    case "drain":
      return `${task}, or not finished writes that began with an earlier keyring`;
  }
}

function keysOf(keyring: Keyring): string {
  const { keys, primary } = keyring;
  return `primary ${primary} and the keys ${keys.map(({ id }) => keyLabel(keyring, id)).join(" ")}`;
}
