import type { ReservedRecord } from "./reserved-records.ts";

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

/** What takes the place of the heartbeat of a process that is gone, until the record expires. */
export const gone = JSON.stringify({ keyward: "replica", gone: true });

/** The heartbeat in a record; `undefined` where it does not open, or is of a later release. */
export function readHeartbeat({ text }: ReservedRecord): Heartbeat | undefined {
  if (typeof text !== "string") return undefined;
  const said: unknown = JSON.parse(text);
  return isHeartbeat(said) ? said : undefined;
}

function isHeartbeat(said: unknown): said is Heartbeat {
  if (typeof said !== "object" || said === null) return false;
  const number = (field: string) => typeof Reflect.get(said, field) === "number";
  const text = (field: string) => typeof Reflect.get(said, field) === "string";
  return (
    ["beat", "generation", "beatAtMs", "heartbeatMs", "lapseMs", "longestCallMs"].every(number) &&
    ["name", "primary"].every(text) &&
    (Reflect.get(said, "sealingSince") === undefined || number("sealingSince"))
  );
}
