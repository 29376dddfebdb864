import { Buffer } from "node:buffer";
import { invalidCursor, KeywardError } from "@keyward/core";
import { type Connection, type ScannedServer, unavailable } from "./connection.ts";
import type { Deadline } from "./deadline.ts";
import { Slots, slotCount, slotOf } from "./slots.ts";

// A cursor of SCAN holds for one process of the server: another one, after a restart or a failover, hashes keys in
// another way. And in a Cluster, keys move between servers while they are scanned. So each page asks, in one transaction
// with SCAN, which process answers and which slots it serves. What a server still serves at the end of its scan is done;
// whatever it lost meanwhile is scanned where it is then. One server without a Cluster counts as serving every slot.

/** The scan of one server that is under way. */
interface Run {
  /** Its process, by its run id. */
  readonly process: string;
  /** Where its SCAN goes on. */
  cursor: string;
  /** What it is scanned for: it has served these at every page. */
  readonly slots: Slots;
  /** Those of them whose keys were on the way to another server at some page. */
  readonly unsteady: Slots;
}

/** How far a scan has come: what a cursor says. */
interface Progress {
  readonly done: Slots;
  /** Slots whose keys were on the way when their server was scanned, by the node they go to: it is scanned after it. */
  readonly following: Map<number, string>;
  readonly runs: Map<string, Run>;
}

/** What a server says of itself and, for a run, the next of its keys. */
interface Survey {
  readonly process: string;
  readonly node: string;
  readonly serves: Slots;
  /** Slots whose keys are on their way from here, by the node they go to. */
  readonly leaving: ReadonlyMap<number, string>;
  readonly arriving: Slots;
  readonly cursor: string;
  readonly keys: readonly Buffer[];
}

// A server does nothing else during one SCAN.
const mostScanned = 5_000;
// Where nothing was found, the keys are mostly those of others: small steps would only be many.
const leastScannedAgain = 500;

/** A page of keys; the last page has no cursor. */
export interface KeyPage {
  readonly cursor?: string;
  readonly keys: readonly Buffer[];
}

/** Which keys to scan for. */
export interface Wanted {
  /** For `MATCH`. */
  readonly pattern: string;
  /** The slots they lie in, as {@link rangesOfSlots} writes them; all unless given. Also without a Cluster. */
  readonly range?: string;
}

/** Ranges that share the slots. A range says the same whichever servers there are, or will be. */
export function rangesOfSlots(count: number): string[] {
  return Slots.parts(count).map(String);
}

/**
 * About `limit` keys that are wanted, from all servers at once; fewer or none where looking for them takes long. A key that is there during the whole scan is in one of
 * its pages at least, through restarts, failovers and slots that move.
 *
 * @throws KeywardError `VALUE_INVALID` for a cursor or a range that is none; `STORE_UNAVAILABLE` while slots are served by nobody.
 */
export async function scanKeys(
  connection: Connection,
  { pattern, range }: Wanted,
  cursor: string | undefined,
  limit: number,
): Promise<KeyPage> {
  const progress = parseProgress(cursor);
  const wanted = parseRange(range);
  if (!wanted.isFull) {
    for (let slot = 0; slot < slotCount; slot++) if (!wanted.has(slot)) progress.done.add(slot);
  }
  // Of the keys that SCAN returns, those in other slots fall away.
  const scanned = Math.min(Math.ceil((limit * slotCount) / wanted.size), Math.max(limit, mostScanned));
  const keys = await connection.within(async (deadline) => {
    let advanced = false;
    let count = scanned;
    for (;;) {
      const step = await new Step(connection, progress, pattern, count, deadline).take();
      advanced ||= step.advanced;
      if (step.keys.length > 0 || progress.done.isFull) return step.keys;
      if (advanced && deadline.shareOver) return [];
      if (step.searched) count = Math.max(scanned, leastScannedAgain);
      if (step.advanced) continue;
      // What this page has done is kept; without it there is nothing to tell the caller but the failure.
      if (advanced) return [];
      await connection.pause(deadline, step.error);
      if (deadline.passed) throw unreachable(step.error);
    }
  });
  return progress.done.isFull ? { keys } : { keys, cursor: writeProgress(progress) };
}

interface StepResult {
  readonly keys: readonly Buffer[];
  /** Whether the cursor says more than before. */
  readonly advanced: boolean;
  /** Whether keys were looked at; the first step on a server only finds out what it serves. */
  readonly searched: boolean;
  readonly error: unknown;
}

/** One round trip to all servers that still have something to scan. */
class Step {
  readonly #connection: Connection;
  readonly #progress: Progress;
  readonly #pattern: string;
  readonly #limit: number;
  readonly #deadline: Deadline;
  #advanced = false;
  #searched = false;
  #error: unknown;

  constructor(connection: Connection, progress: Progress, pattern: string, limit: number, deadline: Deadline) {
    this.#connection = connection;
    this.#progress = progress;
    this.#pattern = pattern;
    this.#limit = limit;
    this.#deadline = deadline;
  }

  async take(): Promise<StepResult> {
    const servers = await this.#connection.servers(this.#deadline);
    const addresses = new Set(servers.map(({ address }) => address));
    for (const address of this.#progress.runs.keys()) {
      if (!addresses.has(address)) this.#progress.runs.delete(address);
    }
    const count = String(Math.max(1, Math.ceil(this.#limit / Math.max(1, servers.length))));
    const found = await Promise.all(servers.map((server) => this.#scan(server, count)));
    return { keys: found.flat(), advanced: this.#advanced, searched: this.#searched, error: this.#error };
  }

  async #scan(server: ScannedServer, count: string): Promise<readonly Buffer[]> {
    const { runs } = this.#progress;
    const run = runs.get(server.address);
    let survey: Survey | undefined;
    try {
      survey = await this.#survey(server, run, count);
    } catch (error) {
      // It may come back, and its run goes on; or its slots turn up elsewhere.
      this.#error = error;
    }
    if (survey === undefined) return [];
    if (run !== undefined && run.process === survey.process) return this.#goOn(server, run, survey);
    runs.delete(server.address);
    this.#begin(server, survey);
    return [];
  }

  #begin({ address }: ScannedServer, { process, node, serves, leaving, arriving }: Survey): void {
    const { done, following, runs } = this.#progress;
    const slots = new Slots();
    for (const slot of serves) {
      const goesTo = following.get(slot);
      if (done.has(slot) || (goesTo !== undefined && goesTo !== node && leaving.get(slot) === goesTo)) continue;
      if (goesTo !== node) following.delete(slot);
      slots.add(slot);
    }
    for (const slot of arriving) if (following.get(slot) === node) slots.add(slot);
    if (slots.isEmpty) return;
    runs.set(address, { process, cursor: "0", slots, unsteady: new Slots() });
    this.#advanced = true;
  }

  #goOn({ address }: ScannedServer, run: Run, survey: Survey): Buffer[] {
    const { done, following, runs } = this.#progress;
    const { serves, leaving, arriving, node } = survey;
    const servesAll = serves.isFull && leaving.size === 0;
    for (const slot of servesAll ? [] : run.slots) {
      const follows = arriving.has(slot) && following.get(slot) === node;
      if (!serves.has(slot) && !follows) run.slots.delete(slot);
      else if (leaving.has(slot)) run.unsteady.add(slot);
    }
    const keys = run.slots.isFull ? [...survey.keys] : survey.keys.filter((key) => run.slots.has(slotOf(key)));
    this.#advanced = true;
    this.#searched = true;
    run.cursor = survey.cursor;
    if (run.cursor !== "0") return keys;
    runs.delete(address);
    for (const slot of run.slots) {
      const goesTo = leaving.get(slot);
      if (goesTo !== undefined) following.set(slot, goesTo);
      else if (!run.unsteady.has(slot)) {
        done.add(slot);
        following.delete(slot);
      }
    }
    return keys;
  }

  /** `undefined` where the server is no primary, or has lost the others. */
  async #survey(server: ScannedServer, run: Run | undefined, count: string): Promise<Survey | undefined> {
    const asked = [
      ["INFO", "server"],
      ...(run === undefined ? [] : [["SCAN", run.cursor, "MATCH", this.#pattern, "COUNT", count]]),
      ...(this.#connection.isCluster
        ? [
            ["CLUSTER", "INFO"],
            ["CLUSTER", "NODES"],
          ]
        : []),
    ];
    const replies = [...(await server.transaction(asked, this.#deadline))];
    const information = textOf(replies.shift());
    const [cursor, keys] = run === undefined ? ["0", []] : readScan(replies.shift());
    const [, process = ""] = /^run_id:(\w+)/m.exec(information) ?? [];
    if (!this.#connection.isCluster) {
      const all = new Slots();
      all.addRange(0, slotCount - 1);
      return { process, node: "", serves: all, leaving: new Map(), arriving: new Slots(), cursor, keys };
    }
    const [state, nodes] = replies.map(textOf);
    if (state === undefined || nodes === undefined) throw new Error("A reply of the Cluster is missing");
    const own = nodes.split("\n").find((line) => line.split(" ")[2]?.split(",").includes("myself"));
    const [node = "", , flags = "", , , , , , ...served] = own?.trim().split(" ") ?? [];
    if (!flags.split(",").includes("master") || !/^cluster_state:ok/m.test(state)) return undefined;
    return { process, node, ...readServed(served), cursor, keys };
  }
}

/** The slots at the end of a node's own line of CLUSTER NODES: `0-5460 [93->-id] [77-<-id]`. */
function readServed(words: readonly string[]): Pick<Survey, "serves" | "leaving" | "arriving"> {
  const [serves, arriving, leaving] = [new Slots(), new Slots(), new Map<number, string>()];
  for (const word of words) {
    const [, slot, direction, other = ""] = /^\[(\d+)-([<>])-(\w+)\]$/.exec(word) ?? [];
    if (slot === undefined) {
      const [first, last = first] = word.split("-").map(Number);
      if (first !== undefined && last !== undefined) serves.addRange(first, last);
    } else if (direction === ">") leaving.set(Number(slot), other);
    else arriving.add(Number(slot));
  }
  return { serves, leaving, arriving };
}

function readScan(reply: unknown): [cursor: string, keys: Buffer[]] {
  if (reply instanceof Error) throw reply;
  if (!Array.isArray(reply)) throw new Error("SCAN was not answered as it should be");
  const [cursor, keys]: unknown[] = reply;
  return [textOf(cursor), Array.isArray(keys) ? keys.filter((key) => Buffer.isBuffer(key)) : []];
}

function textOf(reply: unknown): string {
  if (reply instanceof Error) throw reply;
  return Buffer.isBuffer(reply) ? reply.toString() : String(reply);
}

function unreachable(error: unknown): KeywardError {
  return unavailable(
    "Some of the keys are served by nobody",
    "Wait for the Cluster to be well again, then go on from the same cursor.",
    error,
  );
}

interface WrittenProgress {
  readonly done: string;
  readonly following: readonly (readonly [slot: number, node: string])[];
  readonly runs: readonly (readonly [
    address: string,
    process: string,
    cursor: string,
    slots: string,
    unsteady: string,
  ])[];
}

function writeProgress({ done, following, runs }: Progress): string {
  const written: WrittenProgress = {
    done: String(done),
    following: [...following],
    runs: [...runs].map(([address, { process, cursor, slots, unsteady }]) => [
      address,
      process,
      cursor,
      String(slots),
      String(unsteady),
    ]),
  };
  return JSON.stringify(written);
}

function parseProgress(cursor: string | undefined): Progress {
  const progress: Progress = { done: new Slots(), following: new Map(), runs: new Map() };
  if (cursor === undefined) return progress;
  const written = parseWritten(cursor);
  for (const slot of requireSlots(written.done)) progress.done.add(slot);
  for (const [slot, node] of written.following) progress.following.set(slot, node);
  for (const [address, process, at, slots, unsteady] of written.runs) {
    progress.runs.set(address, { process, cursor: at, slots: requireSlots(slots), unsteady: requireSlots(unsteady) });
  }
  return progress;
}

function parseWritten(cursor: string): WrittenProgress {
  let written: unknown;
  try {
    written = JSON.parse(cursor);
  } catch {
    throw invalidCursor();
  }
  if (!isWritten(written)) throw invalidCursor();
  return written;
}

function isWritten(written: unknown): written is WrittenProgress {
  if (typeof written !== "object" || written === null) return false;
  if (!("done" in written && "following" in written && "runs" in written)) return false;
  const { done, following, runs } = written;
  return (
    typeof done === "string" &&
    Array.isArray(following) &&
    following.every((each) => Array.isArray(each) && Number.isInteger(each[0]) && typeof each[1] === "string") &&
    Array.isArray(runs) &&
    runs.every(
      (run) =>
        Array.isArray(run) &&
        run.length === 5 &&
        run.every((part) => typeof part === "string") &&
        /^\d+$/.test(String(run[2])),
    )
  );
}

function requireSlots(text: string): Slots {
  const slots = Slots.parse(text);
  if (slots === undefined) throw invalidCursor();
  return slots;
}

function parseRange(range: string | undefined): Slots {
  const slots = Slots.parse(range ?? `0-${slotCount - 1}`);
  if (slots !== undefined && !slots.isEmpty) return slots;
  throw new KeywardError("VALUE_INVALID", "The range is not one of those that this store gave", {
    hint: "Ask the store for its ranges().",
  });
}
