/** A server with the settings that it had when it was called. */
export interface CalledServer {
  /** The id of the workspace. */
  readonly workspace: string;
  /** The id of the server. If a server is deleted and added again, it gets a new id. */
  readonly id: string;
  /** Grows with each change of the server. */
  readonly revision: number;
}

/** The state of a server, as the calls of this process have shown it. Times are in milliseconds since the epoch. */
export interface ServerState {
  /**
   * - `unknown`: this process has not called the server since the last change of the server.
   * - `ready`: the server has answered.
   * - `refused`: the server has refused its credential.
   * - `failed`: the server could not be reached, did not answer in time, broke off its answer, or does not answer as MCP demands.
   */
  readonly status: "unknown" | "ready" | "refused" | "failed";
  /** When this status began: each call since then has shown it. `undefined` if the status is unknown. */
  readonly since: number | undefined;
  /** When a call last showed this status. `undefined` if the status is unknown. */
  readonly lastSeen: number | undefined;
  /** The last error, even if the server has answered since then. The reason contains no address and no text of the server. */
  readonly lastError: { readonly at: number; readonly reason: string } | undefined;
}

/**
 * What a call to a server was made for. `call`: a caller called the server. `endpoint`: the endpoint for all servers called it.
 * `lists`: the endpoint read the lists of the server.
 */
export type CallSource = "call" | "endpoint" | "lists";

interface Entry {
  workspace: string;
  revision: number;
  status: "ready" | "refused" | "failed";
  since: number;
  lastSeen: number;
  lastError: ServerState["lastError"];
  /** True if the lists could not be read. The server may answer other calls all the same. */
  isOfLists: boolean;
}

const unknown: ServerState = { status: "unknown", since: undefined, lastSeen: undefined, lastError: undefined };
const maxServers = 10_000;
/** The lists of a server that has failed are read again within this time, as long as the endpoint is used. */
const listsCountMs = 120_000;

/**
 * Remembers the state of each server, as the calls of this process have shown it. Keeps the 10,000 servers that were called
 * last. Each process has its own states.
 */
export class ServerStates {
  readonly #half: number;
  /** The servers that were called last. When this map is full, it becomes `#former`, and a new map begins. */
  #recent = new Map<string, Entry>();
  #former = new Map<string, Entry>();

  constructor({ most = maxServers }: { readonly most?: number } = {}) {
    this.#half = Math.ceil(most / 2);
  }

  /** Records that a server has answered. Allocates nothing for a server that was ready before. */
  noteReady(server: CalledServer, source: CallSource): void {
    const nowMs = Date.now();
    const known = this.#entry(server);
    if (known === undefined) {
      this.#add(server, "ready", nowMs);
      return;
    }
    if (known.revision > server.revision || (known.isOfLists && !outweighsLists(known, server, source, nowMs))) return;
    this.#see(known, server, "ready", nowMs);
    known.isOfLists = false;
  }

  /** Notes that a server has failed, or has refused its credential. */
  noteError(server: CalledServer, status: "refused" | "failed", reason: string, source: CallSource): void {
    const nowMs = Date.now();
    const known = this.#entry(server);
    // A call that began before a change of the server says nothing about the server with its current settings.
    if (known !== undefined && known.revision > server.revision) return;
    const entry = known ?? this.#add(server, status, nowMs);
    // Of a server that could not be reached, the lists cannot be read either.
    entry.isOfLists = source === "lists" && (known === undefined || known.status === "ready" || known.isOfLists);
    this.#see(entry, server, status, nowMs);
    entry.lastError = { at: nowMs, reason };
  }

  /** Returns the state of a server, as calls with its current settings have shown it. */
  of({ workspace, id, revision }: CalledServer): ServerState {
    const known = this.#recent.get(id) ?? this.#former.get(id);
    if (known === undefined || known.workspace !== workspace) return unknown;
    const { status, since, lastSeen, lastError } = known;
    return known.revision < revision ? { ...unknown, lastError } : { status, since, lastSeen, lastError };
  }

  #see(entry: Entry, { revision }: CalledServer, status: Entry["status"], nowMs: number): void {
    // After a change of the server, its state is another one, also with the same status.
    if (entry.status !== status || entry.revision !== revision) entry.since = nowMs;
    entry.status = status;
    entry.lastSeen = nowMs;
    entry.revision = revision;
  }

  #entry({ workspace, id }: CalledServer): Entry | undefined {
    const recent = this.#recent.get(id);
    const known = recent ?? this.#former.get(id);
    if (known?.workspace !== workspace) return undefined;
    if (recent === undefined) this.#keep(id, known);
    return known;
  }

  #add({ workspace, id, revision }: CalledServer, status: Entry["status"], nowMs: number): Entry {
    const times = { since: nowMs, lastSeen: nowMs, lastError: undefined };
    const entry = { workspace, revision, status, ...times, isOfLists: false };
    this.#keep(id, entry);
    return entry;
  }

  #keep(id: string, entry: Entry): void {
    if (this.#recent.size >= this.#half) {
      this.#former = this.#recent;
      this.#recent = new Map();
    }
    this.#recent.set(id, entry);
  }
}

/**
 * Returns whether an answer says more than lists that could not be read. A call that the endpoint makes does not: the
 * endpoint reads the lists again. An answer to a caller does if the endpoint has not read the lists for a while.
 */
function outweighsLists(known: Entry, { revision }: CalledServer, source: CallSource, nowMs: number): boolean {
  if (source === "lists" || revision > known.revision) return true;
  return source === "call" && nowMs - known.lastSeen > listsCountMs;
}
