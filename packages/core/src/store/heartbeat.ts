import type { KeywardError } from "../errors/errors.ts";
import { type Keyring, keyOf } from "../keyring/keyring.ts";
import type { ReservedRecord } from "./reserved-records.ts";
import { ReservedText } from "./reserved-text.ts";

const prefix = "replica/";

/** The content of a heartbeat, which a replica writes to the reserved space of the store every few seconds. */
export interface Heartbeat {
  /** The name of the replica, for people. */
  readonly name: string;
  /**
   * A counter that grows with each heartbeat of the replica. If the counter does not grow for the length of the lease,
   * the lease of the replica has lapsed.
   */
  readonly beat: number;
  /**
   * The generation number of the keyring that the replica uses. Each change of a keyring makes this number one higher.
   */
  readonly generation: number;
  /** The id of the primary, the key under which the replica encrypts records. */
  readonly primary: string;
  /**
   * The labels of the enabled keys, with which the replica can decrypt records. {@link keyLabel} makes the labels.
   * `undefined` if the keyring has more than {@link maxKeysInHeartbeat} of them, or if an earlier release of Keyward
   * wrote the heartbeat.
   */
  readonly keys?: readonly string[] | undefined;
  /**
   * The generation number of the keyring with which the oldest write in progress began. If this number is lower than
   * `generation`, the write began with an earlier keyring. `undefined` if no write is in progress.
   */
  readonly sealingSince?: number | undefined;
  /** The time at which the replica wrote the heartbeat, by its own clock, in milliseconds since the epoch. */
  readonly beatAtMs: number;
  /** Interval between two heartbeats of the replica, in milliseconds. */
  readonly heartbeatMs: number;
  /**
   * Length of the lease, in milliseconds. The replica stops writing records when this time has passed since its last
   * heartbeat.
   */
  readonly lapseMs: number;
  /**
   * Maximum time, in milliseconds, from the encryption of a record until the last attempt of the replica to send the
   * record to the store.
   */
  readonly longestCallMs: number;
}

/** The largest number of key ids that a heartbeat lists, so that the heartbeat stays short enough to be parsed. */
export const maxKeysInHeartbeat = 100;

const fingerprintDigits = 8;

/** Default values of the three durations in a heartbeat, in milliseconds. */
export const heartbeatDefaults = { heartbeatMs: 2_000, lapseMs: 10_000, longestCallMs: 30_000 } as const;

/**
 * Smallest and largest values of the three durations in a heartbeat, in milliseconds. The largest values limit how long
 * an attacker can make a rotation wait with a forged heartbeat.
 */
export const heartbeatBounds = {
  heartbeatMs: { least: 10, most: 20_000 },
  lapseMs: { least: 30, most: 60_000 },
  longestCallMs: { least: 0, most: 60 * 60 * 1_000 },
} as const;

/**
 * Returns the key of the record in which a replica stores its heartbeat.
 *
 * @param scope the name of the scope if the application passed a keyring that is derived for a scope, otherwise
 * `undefined`.
 */
export function heartbeatKey(id: string, scope: string | undefined): string {
  return scope === undefined ? `${prefix}${id}` : `${prefix}${id}/${scope}`;
}

/** The prefix with which the key of each heartbeat record begins. */
export const heartbeatPrefix = prefix;

/** Returns the replica id and the scope that a key made by {@link heartbeatKey} contains. */
export function readHeartbeatKey(key: string): { readonly id: string; readonly scope: string | undefined } {
  const [id = "", ...scope] = key.slice(prefix.length).split("/");
  return { id, scope: scope.length === 0 ? undefined : scope.join("/") };
}

/** Returns the fields of a heartbeat that describe the keyring of the replica. */
export function describeKeyring(keyring: Keyring): Pick<Heartbeat, "generation" | "primary" | "keys"> {
  const { generation, primary } = keyring;
  const enabled = keyring.keys.filter(({ status }) => status === "enabled").map(({ id }) => keyLabel(keyring, id));
  return { generation, primary, keys: enabled.length > maxKeysInHeartbeat ? undefined : enabled };
}

/**
 * Returns the label of a key: its id, a colon, and a fingerprint of its material. The fingerprint distinguishes
 * different keys with the same id. In a keyring that is derived for a scope, which has other material, the fingerprint
 * is "-".
 */
export function keyLabel(keyring: Keyring, id: string): string {
  const commitment = keyring.scopeName === undefined ? keyOf(keyring, id)?.root.commitment : undefined;
  return `${id}:${commitment?.toString("hex").slice(0, fingerprintDigits) ?? "-"}`;
}

/**
 * Returns whether a list of labels from {@link keyLabel} contains the key `id` with the same material as in `keyring`.
 */
export function hasSameKey(labels: readonly string[], keyring: Keyring, id: string): boolean {
  return labels.includes(keyLabel(keyring, id)) || labels.includes(`${id}:-`);
}

/** Returns whether a list of labels from {@link keyLabel} contains a key `id`, whatever its material is. */
export function hasKeyId(labels: readonly string[], id: string): boolean {
  return labels.some((label) => label.startsWith(`${id}:`));
}

function isKeyLabel(text: string): boolean {
  return /^[A-Za-z0-9_-]{1,32}:(?:-|[0-9a-f]{8})$/.test(text);
}

/** Encodes a heartbeat as JSON, the text of its record in the reserved space. */
export function writeHeartbeat(heartbeat: Heartbeat): string {
  return JSON.stringify({ keyward: "replica", ...heartbeat });
}

/**
 * The text that replaces a heartbeat after the lease of its replica has lapsed. The text stays stored until the record
 * expires.
 */
export const heartbeatTombstone = JSON.stringify({ keyward: "replica", gone: true });

/** Returns whether a value may be the name of a replica: a string of at most 255 printable characters. */
export function isReplicaName(name: unknown): name is string {
  return typeof name === "string" && name.length <= 255 && name.isWellFormed() && !/\p{C}/u.test(name);
}

/**
 * Parses the heartbeat in a record of the reserved space. Returns a `KeywardError` if the record cannot be decrypted or
 * is malformed.
 */
export function readHeartbeat({ text }: ReservedRecord): Heartbeat | KeywardError {
  return ReservedText.read("heartbeat", text, (fields) => ({
    name: fields.text("name", isReplicaName),
    beat: fields.amount("beat", { least: 1 }),
    generation: fields.amount("generation", { least: 1 }),
    primary: fields.keyId("primary"),
    keys: fields.textsIfAny("keys", { most: maxKeysInHeartbeat, isAllowed: isKeyLabel }),
    sealingSince: fields.amountIfAny("sealingSince", { least: 0 }),
    beatAtMs: fields.amount("beatAtMs", { least: 0 }),
    heartbeatMs: fields.amount("heartbeatMs", heartbeatBounds.heartbeatMs),
    lapseMs: fields.amount("lapseMs", heartbeatBounds.lapseMs),
    longestCallMs: fields.amount("longestCallMs", heartbeatBounds.longestCallMs),
  }));
}
