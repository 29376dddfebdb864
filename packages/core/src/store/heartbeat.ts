import type { KeywardError } from "../errors/errors.ts";
import type { ReservedRecord } from "./reserved-records.ts";
import { ReservedText } from "./reserved-text.ts";

const prefix = "replica/";

/** The content of a heartbeat: the state of a replica, which it writes to the reserved space every few seconds. */
export interface Heartbeat {
  /** The name of the replica, for people. */
  readonly name: string;
  /**
   * A number that grows with each heartbeat. If it does not grow for the length of the lease, the replica has lapsed.
   */
  readonly beat: number;
  /** The generation of the keyring that the replica has in use. */
  readonly generation: number;
  /** The id of the key that the replica encrypts under. */
  readonly primary: string;
  /** The earliest generation under which a write is still in progress; `undefined` if none is. */
  readonly sealingSince?: number | undefined;
  /** When the heartbeat was written, in milliseconds since the epoch, by the clock of the replica. */
  readonly beatAtMs: number;
  /** Interval between heartbeats, in milliseconds. */
  readonly heartbeatMs: number;
  /** Time after the last heartbeat at which the replica stops writing, in milliseconds. */
  readonly lapseMs: number;
  /** Longest time between the encryption of a record and its last transmission to the store, in milliseconds. */
  readonly longestCallMs: number;
}

/** Defaults of the durations in a heartbeat, in milliseconds. */
export const heartbeatDefaults = { heartbeatMs: 2_000, lapseMs: 10_000, longestCallMs: 30_000 } as const;

/**
 * Bounds of the durations in a heartbeat, in milliseconds. The bounds limit how long a rotation waits because of a
 * forged heartbeat.
 */
export const heartbeatBounds = {
  heartbeatMs: { least: 10, most: 20_000 },
  lapseMs: { least: 30, most: 60_000 },
  longestCallMs: { least: 0, most: 60 * 60 * 1_000 },
} as const;

/** Returns the key under which a replica stores its heartbeat.
 *
 * @param scope the scope of the keyring that the application passed, if that keyring was already derived for a scope.
 */
export function heartbeatKey(id: string, scope: string | undefined): string {
  return scope === undefined ? `${prefix}${id}` : `${prefix}${id}/${scope}`;
}

/** The prefix of the keys of all heartbeats. */
export const heartbeatPrefix = prefix;

/** Parses a key that {@link heartbeatKey} made. */
export function readHeartbeatKey(key: string): { readonly id: string; readonly scope: string | undefined } {
  const [id = "", ...scope] = key.slice(prefix.length).split("/");
  return { id, scope: scope.length === 0 ? undefined : scope.join("/") };
}

/** Encodes a heartbeat as the text of a record. */
export function writeHeartbeat(heartbeat: Heartbeat): string {
  return JSON.stringify({ keyward: "replica", ...heartbeat });
}

/** The text that replaces the heartbeat of a lapsed replica, until the record expires. */
export const heartbeatTombstone = JSON.stringify({ keyward: "replica", gone: true });

/** Returns whether a value may be the name of a replica: a string of at most 255 printable characters. */
export function isReplicaName(name: unknown): name is string {
  return typeof name === "string" && name.length <= 255 && name.isWellFormed() && !/\p{C}/u.test(name);
}

/** Parses the heartbeat in a record. Returns the error if the record cannot be decrypted or is malformed. */
export function readHeartbeat({ text }: ReservedRecord): Heartbeat | KeywardError {
  return ReservedText.read("heartbeat", text, (fields) => ({
    name: fields.text("name", isReplicaName),
    beat: fields.amount("beat", { least: 1 }),
    generation: fields.amount("generation", { least: 1 }),
    primary: fields.keyId("primary"),
    sealingSince: fields.amountIfAny("sealingSince", { least: 0 }),
    beatAtMs: fields.amount("beatAtMs", { least: 0 }),
    heartbeatMs: fields.amount("heartbeatMs", heartbeatBounds.heartbeatMs),
    lapseMs: fields.amount("lapseMs", heartbeatBounds.lapseMs),
    longestCallMs: fields.amount("longestCallMs", heartbeatBounds.longestCallMs),
  }));
}
