import type { KeywardError } from "../errors/errors.ts";
import type { ReservedRecord } from "./reserved-records.ts";
import { ReservedText } from "./reserved-text.ts";

const prefix = "replica/";

/** What a process says of itself, every few seconds, in the reserved space of a store. */
export interface Heartbeat {
  readonly name: string;
  /** Grows with each heartbeat: whoever sees it unchanged for long enough knows that the process is gone or halted. */
  readonly beat: number;
  readonly generation: number;
  readonly primary: string;
  /** The earliest generation under which it is still sealing something; `undefined` when it seals nothing. */
  readonly sealingSince?: number | undefined;
  /** By the clock of the process, in ms since the epoch. */
  readonly beatAtMs: number;
  readonly heartbeatMs: number;
  readonly lapseMs: number;
  /** For how long after it was sealed something may still be sent to the store. */
  readonly longestCallMs: number;
}

/** The bounds of what a heartbeat says, in milliseconds. They bound how long a rotation waits for what it cannot verify. */
export const heartbeatBounds = {
  heartbeatMs: { least: 10, most: 20_000 },
  lapseMs: { least: 30, most: 60_000 },
  longestCallMs: { least: 0, most: 60 * 60 * 1_000 },
} as const;

/** Where the heartbeat of a process lies. `scope` is that of a ring which was handed over scoped. */
export function heartbeatKey(id: string, scope: string | undefined): string {
  return scope === undefined ? `${prefix}${id}` : `${prefix}${id}/${scope}`;
}

/** What all keys of heartbeats begin with. */
export const heartbeatPrefix = prefix;

/** What a key of {@link heartbeatKey} was made of. */
export function readHeartbeatKey(key: string): { readonly id: string; readonly scope: string | undefined } {
  const [id = "", ...scope] = key.slice(prefix.length).split("/");
  return { id, scope: scope.length === 0 ? undefined : scope.join("/") };
}

export function writeHeartbeat(heartbeat: Heartbeat): string {
  return JSON.stringify({ keyward: "replica", ...heartbeat });
}

/** The text that replaces the heartbeat of a lapsed replica, until the record expires. */
export const heartbeatTombstone = JSON.stringify({ keyward: "replica", gone: true });

/** Whether a process may go by this name, which is shown to people. */
export function isReplicaName(name: unknown): name is string {
  return typeof name === "string" && name.length <= 255 && name.isWellFormed() && !/\p{C}/u.test(name);
}

/** The heartbeat in a record, or why there is none that can be read. */
export function readHeartbeat({ text }: ReservedRecord): Heartbeat | KeywardError {
  return ReservedText.read("heartbeat", text, (said) => ({
    name: said.text("name", isReplicaName),
    beat: said.amount("beat", { least: 1 }),
    generation: said.amount("generation", { least: 1 }),
    primary: said.keyId("primary"),
    sealingSince: said.amountIfAny("sealingSince", { least: 0 }),
    beatAtMs: said.amount("beatAtMs", { least: 0 }),
    heartbeatMs: said.amount("heartbeatMs", heartbeatBounds.heartbeatMs),
    lapseMs: said.amount("lapseMs", heartbeatBounds.lapseMs),
    longestCallMs: said.amount("longestCallMs", heartbeatBounds.longestCallMs),
  }));
}
