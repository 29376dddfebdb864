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

/** A process that registered in a store, as its last heartbeat has it. */
export interface Replica {
  /** Random, for as long as the process uses the store. */
  readonly id: string;
  /** What a person knows it by; the id where the heartbeat does not open. */
  readonly name: string;
  /** The generation of the ring that it has; 0 where the heartbeat does not open. */
  readonly generation: number;
  /** The key that it seals under; "" where the heartbeat does not open. */
  readonly primary: string;
  /** Whether all that it began to seal under earlier generations lies in the store. */
  readonly drained: boolean;
  /** When it wrote the heartbeat, by its own clock, in ms since the epoch; 0 where the heartbeat does not open. */
  readonly lastSeenMs: number;
  /** For how many milliseconds its heartbeat stands still before it is taken for gone. */
  readonly leaseMs: number;
  /** Whether it is gone, or halted: then it loads its keys anew before it seals anything. */
  readonly lapsed: boolean;
  /** Why its heartbeat does not open: its ring is another, or somebody wrote to the reserved space. */
  readonly problem?: KeywardErrorCode;
}

// By how much longer than a process does whoever watches it waits: their clocks do not run at quite the same rate. What
// the process began to send just before may come later still, by as much as it says.
const leaseSafetyFactor = 1.5;

/**
 * The processes that registered in a store, with the option `replica`. Those that left are not among them; one that ended
 * without leaving is listed for a day, as lapsed.
 *
 * @throws KeywardError `STORE_INVALID` for what is neither an `EncryptedStore` nor made by `createKeyv`, and for a store
 * without a reserved space; `STORE_UNAVAILABLE`.
 */
export async function replicas(store: EncryptedStoreOrKeyv): Promise<readonly Replica[]> {
  const { reserve } = storeParts(store);
  if (reserve === undefined) {
    throw new KeywardError("STORE_INVALID", "The store has no reserved space, so no process can register in it", {
      hint: "Use a store that has reserved(), such as those of Keyward.",
    });
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
 * Watches the processes of one store. It takes one for lapsed when its beat did not grow for long enough by the watcher's
 * own clock: what the clocks of other machines say counts for nothing. A heartbeat from before that is put back is no sign
 * of life, and neither is one that cannot be read, however often it changes: no process that has a key of this ring writes
 * one.
 */
export class ReplicaWatch {
  readonly #reserve: ReservedRecords;
  readonly #seen = new Map<string, { readonly beat: number; readonly sinceMs: number }>();
  #keys: readonly string[] = [];

  constructor(reserve: ReservedRecords) {
    this.#reserve = reserve;
  }

  /** Looks for every process. One that registers later loads its keys later, too. */
  async find(): Promise<void> {
    this.#keys = await this.#reserve.keys(heartbeatPrefix);
  }

  /** Those that were found and have not left. */
  async look(): Promise<readonly Replica[]> {
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

  /** Takes those off the list that have lapsed. One that was only halted puts itself back before it seals anything. */
  async removeLapsed(): Promise<void> {
    const lapsed = new Set((await this.look()).filter((replica) => replica.lapsed).map(({ id }) => id));
    const ring = await this.#reserve.ring();
    for (const key of this.#keys) {
      const { id, scope } = readHeartbeatKey(key);
      if (!lapsed.has(id) || scope !== undefined) continue;
      const record = await this.#reserve.read(key);
      // Deleting would take away what it may have written in between.
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
  /** Or why it cannot be read. */
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
  const { name, generation, primary, sealingSince, beatAtMs } = heartbeat;
  const drained = sealingSince === undefined || sealingSince >= generation;
  return { id, name, generation, primary, drained, lastSeenMs: beatAtMs, leaseMs: leaseOf(heartbeat), lapsed };
}
