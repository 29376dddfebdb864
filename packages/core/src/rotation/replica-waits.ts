import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { NamedStores } from "../reencryption/retirement.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { ReplicaRegistration } from "../store/replica-registration.ts";
import { pause } from "../waiting/pause.ts";
import { type Replica, ReplicaWatch, replicas } from "./replicas.ts";

/** The two steps that wait for other processes. */
export type ReplicaWait = "distribute" | "drain";

/** For whom to wait, and how. */
export interface ReplicaWaitOptions {
  /** Every store that the ring serves, by the names that the keyring document gives them. */
  readonly stores: NamedStores;
  /**
   * For processes that use the stores and are not registered in them: how many milliseconds they take to load a changed
   * ring and to end what they were writing, or a function that resolves when they have. Needed where a store has no
   * registered process but this one; `{ waitMs: 0 }` says that there is nobody else.
   */
  readonly unregistered?: { readonly waitMs: number } | ((wait: ReplicaWait) => Promise<void>);
  /** Ids of registered processes that are not waited for. What they still seal under the old key, a census finds. */
  readonly ignoreReplicas?: readonly string[];
  /**
   * How many milliseconds to wait for registered processes in each of the two waits. Default: ten minutes, or
   * twice the longest lease where that is longer.
   */
  readonly replicasWithinMs?: number;
  /** Ends this run, which then rejects with the reason. Another run goes on where it stopped. */
  readonly signal?: AbortSignal;
}

export const replicaWaitOptionNames = {
  stores: true,
  unregistered: true,
  ignoreReplicas: true,
  replicasWithinMs: true,
  signal: true,
} as const satisfies OptionNames<ReplicaWaitOptions>;

/** A process that is waited for. */
export interface WaitingReplica extends Replica {
  /** The store that it registered in. */
  readonly store: string;
}

const defaultReplicasWithinMs = 10 * 60 * 1_000;
const firstPollMs = 20;
const longestPollMs = 500;

/** Waits until all processes that use some stores have followed a change of the ring. */
export class ReplicaWaits {
  readonly #source: KeyringSource;
  readonly #options: ReplicaWaitOptions;
  /** By the reserved space, since a backend may be given as several stores. */
  readonly #watches = new Map<object, { readonly store: string; readonly watch: ReplicaWatch }>();

  /**
   * @param source that of this process, which waits for itself like for others and counts for nobody else.
   * @throws KeywardError `VALUE_INVALID` for a time that is not a whole number of milliseconds.
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

  /** Those that would be waited for, and the stores in which nobody else is registered. */
  async planned(): Promise<{ readonly waiting: readonly WaitingReplica[]; readonly unregistered: readonly string[] }> {
    const waiting: WaitingReplica[] = [];
    for (const { store } of this.#watches.values()) {
      const given = this.#options.stores[store];
      const listed = given === undefined ? [] : await replicas(given);
      waiting.push(...listed.filter(({ lapsed }) => !lapsed).map((replica) => ({ ...replica, store })));
    }
    return { waiting, unregistered: this.#withoutOthers(waiting) };
  }

  /**
   * @throws KeywardError `VALUE_INVALID` where nobody could say when the others have followed.
   */
  async requireOthers(): Promise<void> {
    if (this.#options.unregistered !== undefined) return;
    await this.#find();
    this.#requireHeard(await this.#look());
  }

  /**
   * Resolves when every process is ready. To be called when the stores say that there is this ring: a process that is not
   * found now has yet to load its keys, and loads these.
   *
   * @throws KeywardError `REPLICA_BEHIND`; `VALUE_INVALID` when nobody else is heard of and `unregistered` is not given.
   */
  async wait(
    step: ReplicaWait,
    ring: Keyring,
    isReady: (replica: Replica) => boolean,
    tell: (waiting: readonly WaitingReplica[]) => void,
  ): Promise<void> {
    const { ignoreReplicas = [], unregistered, signal } = this.#options;
    await this.#find();
    let told = "";
    let listed = await this.#look();
    // One that ended without leaving is waited for as long as its lease, which must not be what fails.
    const leaseMs = Math.max(0, ...listed.map((replica) => replica.leaseMs));
    const { replicasWithinMs = Math.max(defaultReplicasWithinMs, 2 * leaseMs) } = this.#options;
    const deadlineMs = performance.now() + replicasWithinMs;
    for (let pollMs = firstPollMs; ; pollMs = Math.min(pollMs * 1.5, longestPollMs)) {
      const waiting = listed.filter(
        (replica) => !replica.lapsed && !ignoreReplicas.includes(replica.id) && !isReady(replica),
      );
      if (waiting.length === 0) break;
      if (performance.now() > deadlineMs) {
        // What cannot be read is no process that has a key of this ring, and must not end a rotation.
        const late = waiting.filter(({ problem }) => problem === undefined);
        if (late.length === 0) break;
        throw behind(step, ring, late);
      }
      const ids = waiting.map(({ id }) => id).join();
      if (ids !== told) tell(waiting);
      told = ids;
      await pause(pollMs, signal);
      listed = await this.#look();
    }
    if (unregistered === undefined) this.#requireHeard(listed);
    else if (typeof unregistered === "function") await unregistered(step);
    else await pause(unregistered.waitMs, signal);
  }

  /** Takes those off the lists that were waited for and have lapsed. */
  async removeLapsed(): Promise<void> {
    for (const { watch } of this.#watches.values()) await watch.removeLapsed();
  }

  async #find(): Promise<void> {
    for (const { watch } of this.#watches.values()) await watch.find();
  }

  async #look(): Promise<readonly WaitingReplica[]> {
    const found: WaitingReplica[] = [];
    for (const { store, watch } of this.#watches.values()) {
      for (const replica of await watch.look()) found.push({ ...replica, store });
    }
    return found;
  }

  #requireHeard(listed: readonly WaitingReplica[]): void {
    const silent = this.#withoutOthers(listed.filter(({ lapsed }) => !lapsed));
    if (silent.length === 0) return;
    throw new KeywardError("VALUE_INVALID", `No other process is registered in ${silent.join(", ")}`, {
      hint:
        "Give the stores of the application the option replica, so that a rotation can wait for its processes. " +
        "Or say in unregistered how long they take to follow; { waitMs: 0 } where there are none.",
    });
  }

  #withoutOthers(alive: readonly WaitingReplica[]): string[] {
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

/** The id stands in the key of a record, which whoever writes to the store may have chosen. */
function shown(id: string): string {
  return id.replace(/\p{C}/gu, "?").slice(0, 255);
}

function behind(step: ReplicaWait, ring: Keyring, waiting: readonly WaitingReplica[]): KeywardError {
  const list = waiting.slice(0, 10).map(({ id, name, store, generation, primary, problem }) => {
    const who = `${shown(name)} [${shown(id)}] in ${store}`;
    return problem === undefined ? `${who} (generation ${generation}, primary ${primary})` : `${who} (${problem})`;
  });
  const who = waiting.length === 1 ? "1 process does" : `${waiting.length} processes do`;
  return new KeywardError(
    "REPLICA_BEHIND",
    `At ${step}, ${who} not have generation ${ring.generation}: ${list.join(", ")}`,
    {
      counts: Object.fromEntries(
        waiting.map(({ store }) => [store, waiting.filter((one) => one.store === store).length]),
      ),
      hint:
        "Does their key provider follow, and are they still writing? Mend or end them and run the rotation again, which " +
        "goes on here; or name their ids in ignoreReplicas.",
    },
  );
}
