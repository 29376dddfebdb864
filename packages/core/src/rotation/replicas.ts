import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import { type EncryptedStoreOrKeyv, storeParts } from "../store/encrypted-store.ts";
import {
  type Heartbeat,
  heartbeatBounds,
  heartbeatPrefix,
  heartbeatTombstone,
  readHeartbeat,
  readHeartbeatKey,
} from "../store/heartbeat.ts";
import type { ReservedRecord, ReservedRecords } from "../store/reserved-records.ts";

/** A process that registered in a store. The fields are from its last heartbeat. Not a Redis replica. */
export interface Replica {
  /** The random id of the process. The id stays the same while the process uses the store. */
  readonly id: string;
  /**
   * The name of the process: the `name` in its option `replica`, or else its host name and process id. The same as `id`
   * if the heartbeat cannot be decrypted.
   */
  readonly name: string;
  /** The generation (version number) of the keyring that the process uses. 0 if the heartbeat cannot be decrypted. */
  readonly generation: number;
  /** The id of the key that the process encrypts with. "" if the heartbeat cannot be decrypted. */
  readonly primary: string;
  /**
   * The keys with which the process can decrypt records: the enabled keys of its keyring. Each key is written as its
   * id, a colon, and eight digits that identify its material. In a keyring that is derived for a scope, "-" replaces
   * the digits. Absent if the heartbeat cannot be decrypted, if there are more than 100 such keys, or if the process
   * runs an earlier release of Keyward.
   */
  readonly keys?: readonly string[];
  /**
   * True if the process has finished all writes that it began with an earlier keyring. False if the heartbeat cannot be
   * decrypted.
   */
  readonly drained: boolean;
  /**
   * Time of the heartbeat by the clock of the process, in milliseconds since the epoch. 0 if the heartbeat cannot be
   * decrypted.
   */
  readonly lastSeenMs: number;
  /** Duration of the lease, in milliseconds. The lease lapses if the process writes no heartbeat in this time. */
  readonly leaseMs: number;
  /**
   * True if the lease has lapsed, because the process has ended or is halted. A halted process that continues reloads
   * the keyring before it writes.
   */
  readonly lapsed: boolean;
  /**
   * The error code of the failed decryption, if the heartbeat cannot be decrypted. Absent otherwise. The reason may be
   * that the process has another keyring, or that another program wrote the heartbeat.
   */
  readonly problem?: KeywardErrorCode;
}

// Safety factor on a replica's lease, for clock drift between the replica and the observer. A write that the replica
// began just before its lease lapsed may arrive up to longestCallMs later, so longestCallMs is added to the lease.
const leaseSafetyFactor = 1.5;

/**
 * Returns the processes that registered in a store with the option `replica`. Processes that disconnected are not in
 * the list. A process that ended without disconnecting stays in the list for a day, and has `lapsed: true` after its
 * lease has lapsed.
 *
 * @throws KeywardError `STORE_INVALID` if the store is neither an `EncryptedStore` nor made by `createKeyv`, or has no
 * reserved space; `STORE_UNAVAILABLE`.
 * @example
 * for (const { name, generation, lapsed } of await replicas(sessions)) console.log(name, generation, lapsed);
 */
export async function replicas(store: EncryptedStoreOrKeyv): Promise<readonly Replica[]> {
  const { reserve } = storeParts(store);
  if (reserve === undefined) {
    throw new KeywardError(
      "STORE_INVALID",
      "The store has no reserved space, so no process can register in it as a replica",
      {
        hint: "Use a store that has `reserved()`, such as the stores of Keyward.",
      },
    );
  }
  const found = await Promise.all((await reserve.keys(heartbeatPrefix)).map((key) => readReplica(reserve, key)));
  return found
    .filter((one) => one !== undefined)
    .map(({ id, heartbeat }) =>
      replicaOf(
        id,
        heartbeat,
        !(heartbeat instanceof KeywardError) && Date.now() - heartbeat.beatAtMs > leaseOf(heartbeat),
      ),
    );
}

/**
 * Reads the heartbeats of the replicas of one store repeatedly, to find the replicas whose leases have lapsed.
 *
 * A heartbeat contains a number, its `beat`, which grows each time the process writes the heartbeat. A lease has lapsed
 * if the beat has not grown for the duration of the lease, measured by the clock of this process. So the clocks of
 * other machines do not matter, and an attacker who restores an earlier heartbeat does not renew the lease.
 *
 * A heartbeat that cannot be decrypted never renews the lease, even if it changes: a process that has a key of this
 * keyring writes heartbeats that this process can decrypt.
 */
export class ReplicaWatch {
  readonly #reserve: ReservedRecords;
  readonly #seen = new Map<string, { readonly beat: number; readonly sinceMs: number }>();
  #keys: readonly string[] = [];

  constructor(reserve: ReservedRecords) {
    this.#reserve = reserve;
  }

  /**
   * Lists the heartbeats of the store, which later calls of {@link ReplicaWatch.read} read. A replica that registers
   * after this call need not be watched: it loads the keyring after it has registered, so it has the latest keyring.
   */
  async list(): Promise<void> {
    this.#keys = await this.#reserve.keys(heartbeatPrefix);
  }

  /**
   * Returns the replicas whose heartbeats `list` found, except replicas that have disconnected since `list` was called.
   */
  async read(): Promise<readonly Replica[]> {
    const askedAtMs = performance.now();
    const read = await Promise.all(
      this.#keys.map(async (key) => ({ key, found: await readReplica(this.#reserve, key) })),
    );
    const readAtMs = performance.now();
    const present: Replica[] = [];
    for (const { key, found } of read) {
      if (found === undefined) {
        this.#seen.delete(key);
        continue;
      }
      const { id, heartbeat } = found;
      const beat = heartbeat instanceof KeywardError ? 0 : heartbeat.beat;
      const seen = this.#seen.get(key);
      const hasGrown = seen === undefined || beat > seen.beat;
      if (hasGrown) this.#seen.set(key, { beat, sinceMs: readAtMs });
      present.push(replicaOf(id, heartbeat, !hasGrown && askedAtMs - seen.sinceMs > leaseOf(heartbeat)));
    }
    return present;
  }

  /**
   * Removes the heartbeats of replicas whose lease has lapsed. A replica that was only halted registers again before it
   * writes.
   */
  async removeLapsed(): Promise<void> {
    const lapsed = new Set((await this.read()).filter((replica) => replica.lapsed).map(({ id }) => id));
    const ring = await this.#reserve.ring();
    for (const key of this.#keys) {
      const { id, scope } = readHeartbeatKey(key);
      if (!lapsed.has(id) || scope !== undefined) continue;
      const record = await this.#reserve.read(key);
      // Replace the heartbeat instead of deleting it: a deletion would also remove a heartbeat that the replica writes
      // in between.
      if (record !== undefined && this.#isAsSeen(key, record))
        await this.#reserve.replace(ring, key, record, heartbeatTombstone);
    }
  }

  #isAsSeen(key: string, record: ReservedRecord): boolean {
    const heartbeat = readHeartbeat(record);
    return !(heartbeat instanceof KeywardError) && this.#seen.get(key)?.beat === heartbeat.beat;
  }
}

interface FoundReplica {
  readonly id: string;
  /** The heartbeat, or the error of its decryption. */
  readonly heartbeat: Heartbeat | KeywardError;
}

async function readReplica(reserve: ReservedRecords, key: string): Promise<FoundReplica | undefined> {
  const { id, scope } = readHeartbeatKey(key);
  const record = await reserve.read(key, scope);
  return record === undefined || record.text === heartbeatTombstone
    ? undefined
    : { id, heartbeat: readHeartbeat(record) };
}

function leaseOf(heartbeat: Heartbeat | KeywardError): number {
  if (heartbeat instanceof KeywardError) return leaseSafetyFactor * heartbeatBounds.lapseMs.most;
  return leaseSafetyFactor * heartbeat.lapseMs + heartbeat.longestCallMs;
}

function replicaOf(id: string, heartbeat: Heartbeat | KeywardError, lapsed: boolean): Replica {
  if (heartbeat instanceof KeywardError) {
    const problem = heartbeat.code;
    const unknown = { name: id, generation: 0, primary: "", drained: false, lastSeenMs: 0 } as const;
    return { id, ...unknown, leaseMs: leaseOf(heartbeat), lapsed, problem };
  }
  const { name, generation, primary, keys, sealingSince, beatAtMs } = heartbeat;
  const drained = sealingSince === undefined || sealingSince >= generation;
  const times = { lastSeenMs: beatAtMs, leaseMs: leaseOf(heartbeat), lapsed };
  return { id, name, generation, primary, ...(keys === undefined ? {} : { keys }), drained, ...times };
}
