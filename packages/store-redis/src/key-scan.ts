import { Buffer } from "node:buffer";
import { invalidCursor, KeywardError } from "@keyward/core";
import { type Connection, type ScannedServer, unavailable } from "./connection.ts";
import type { Deadline } from "./deadline.ts";
import { Slots, slotCount, slotOf } from "./slots.ts";

// A cursor of SCAN is only valid in one process of the server: after a restart or a failover, the new process hashes
// keys differently. In a Cluster, keys also move between servers during a scan. So each page asks, in one transaction
// with SCAN, which process replies and which slots it serves. The slots that a server has served throughout its scan
// are done. Slots that it lost meanwhile are scanned on the server that has them then. A single server without a
// Cluster counts as serving every slot.

/** The scan of one server, which is in progress. */
interface Run {
  /** Run id of the server's process. */
  readonly process: string;
  /** The cursor of the next SCAN. */
  cursor: string;
  /** The slots that the run scans: those that the server has served at every page of the run. */
  readonly slots: Slots;
  /** The slots of the run whose keys were moving to another server while some page was read. */
  readonly unsteady: Slots;
}

/** The state of a scan, which its cursor contains. */
interface Progress {
  readonly done: Slots;
  /**
   * Slots that were moving to another node when their server was scanned, with the id of that node. These slots are
   * scanned again on that node.
   */
  readonly following: Map<number, string>;
  readonly runs: Map<string, Run>;
}

/** The reply of a server to one step of a scan: its process, node id and slots, and the next keys of its run. */
interface Survey {
  readonly process: string;
  readonly node: string;
  readonly serves: Slots;
  /** Slots whose keys are moving away from this server, with the id of the target node. */
  readonly leaving: ReadonlyMap<number, string>;
  readonly arriving: Slots;
  readonly cursor: string;
  readonly keys: readonly Buffer[];
}

// A server does no other work during one SCAN.
const mostScanned = 5_000;
// If a step found no keys, most keys may belong to other applications, so the next step scans more. The steps grow
// gradually: a small step may find nothing by chance, and a large step after it would return far more keys than the
// caller wants.
const growth = 4;
const mostScannedAgain = 500;

/** A page of a scan: keys in Redis, and the cursor of the next page. The last page has no cursor. */
export interface KeyPage {
  readonly cursor?: string;
  readonly keys: readonly Buffer[];
}

/** Selects the keys that a scan returns. */
export interface Wanted {
  /** Pattern that the keys match, for the option `MATCH` of SCAN. */
  readonly pattern: string;
  /**
   * Slots of the keys to return, in Redis' notation, such as `0-5460,9000`. The keys of a single server have slots too.
   * Default: all slots.
   */
  readonly range?: string;
}

/** Divides all slots into `count` ranges. The ranges do not change when slots move between the servers of a Cluster. */
export function rangesOfSlots(count: number): string[] {
  return Slots.parts(count).map(String);
}

/**
 * Returns the next page of a scan of all servers, with about `limit` keys. If finding keys takes long, the page has
 * fewer keys, or none. A key that exists during the whole scan is on at least one page, even if servers restart or fail
 * over, or slots move.
 *
 * @throws KeywardError `VALUE_INVALID` if `cursor` is not a cursor of a scan, or if `range` is not a list of slots in
 * Redis' notation. `STORE_UNAVAILABLE` if some of the slots are served by no server.
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
  // Keys in other slots are dropped from the result of SCAN, so more keys are scanned.
  const scanned = Math.min(Math.ceil((limit * slotCount) / wanted.size), Math.max(limit, mostScanned));
  const keys = await connection.within(async (deadline) => {
    let advanced = false;
    let count = scanned;
    for (;;) {
      const step = await new Step(connection, progress, pattern, count, deadline).run();
      advanced ||= step.advanced;
      if (step.keys.length > 0 || progress.done.isFull) return step.keys;
      if (advanced && deadline.shareOver) return [];
      if (step.searched) count = Math.max(scanned, Math.min(count * growth, mostScannedAgain));
      if (step.advanced) continue;
      // The cursor keeps the progress of this page. A page without any progress fails.
      if (advanced) return [];
      await connection.pause(deadline, step.error);
      if (deadline.passed) throw unreachable(step.error);
    }
  });
  return progress.done.isFull ? { keys } : { keys, cursor: writeProgress(progress) };
}

interface StepResult {
  readonly keys: readonly Buffer[];
  /** Whether the step has advanced the cursor. */
  readonly advanced: boolean;
  /** Whether the step scanned keys. The first step on a server only finds out which slots that server serves. */
  readonly searched: boolean;
  readonly error: unknown;
}

/** A step of a scan: one round trip to all servers. */
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

  async run(): Promise<StepResult> {
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
      // The run continues if the server comes back. Otherwise another server will serve its slots.
      this.#error = error;
    }
    if (survey === undefined) return [];
    if (run !== undefined && run.process === survey.process) return this.#continueRun(server, run, survey);
    runs.delete(server.address);
    this.#beginRun(server, survey);
    return [];
  }

  #beginRun({ address }: ScannedServer, { process, node, serves, leaving, arriving }: Survey): void {
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

  #continueRun({ address }: ScannedServer, run: Run, survey: Survey): Buffer[] {
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

  /**
   * Asks a server for its slots and for the next keys of its run. Returns `undefined` if the server is not a primary, or
   * reports that the Cluster is down.
   */
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

/** Parses the slots in the line that CLUSTER NODES has about the replying node: `0-5460 [93->-id] [77-<-id]`. */
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
  if (!Array.isArray(reply)) throw new Error("SCAN has an unexpected reply");
  const [cursor, keys]: unknown[] = reply;
  return [textOf(cursor), Array.isArray(keys) ? keys.filter((key) => Buffer.isBuffer(key)) : []];
}

function textOf(reply: unknown): string {
  if (reply instanceof Error) throw reply;
  return Buffer.isBuffer(reply) ? reply.toString() : String(reply);
}

function unreachable(error: unknown): KeywardError {
  return unavailable(
    "Some slots of the Redis Cluster are served by no server",
    "Wait for the failover. If there is no failover, restart the missing nodes. Then continue the scan from the same cursor.",
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
  throw new KeywardError("VALUE_INVALID", 'The option "range" of scan() is not a range that ranges() returned', {
    hint: "Pass a range that `ranges()` of this store returned.",
  });
}
