import { GatewayProblem } from "../problem.ts";
import type { CallOrigin } from "./call-origin.ts";
import type { CallerSession } from "./caller-session.ts";
import { Connections, type ConnectionsOptions } from "./connections.ts";
import type { HeldCall } from "./held-call.ts";
import type { JsonObject } from "./json.ts";
import { type ListKind, listKinds } from "./listed-items.ts";
import type { ListenStream } from "./listen-stream.ts";
import type { Era } from "./messages.ts";
import { WorkspaceLists, type WorkspaceListsOptions } from "./workspace-lists.ts";

/** The options of {@link TokenContext}. */
export interface TokenContextOptions
  extends Pick<
    WorkspaceListsOptions,
    "relay" | "eras" | "states" | "memory" | "listMemory" | "workspace" | "turns" | "readWithinMs"
  > {
  readonly tokenId: string;
  readonly origin: CallOrigin;
}

/** Most tokens are used by one program. */
const maxLists = 8;
const settledMs = 100;
const idleConnectionsMs = 5 * 60_000;
/** The method of the notification for each list. */
const changeMethods: { readonly [Kind in ListKind]: string } = {
  tools: "notifications/tools/list_changed",
  prompts: "notifications/prompts/list_changed",
  resources: "notifications/resources/list_changed",
  resourceTemplates: "notifications/resources/list_changed",
};

/** The state that this process keeps for one token: lists, the sessions of its callers, and connections to servers. */
export class TokenContext {
  readonly tokenId: string;
  readonly workspace: string;
  readonly sessions = new Map<string, CallerSession>();
  readonly listens = new Set<ListenStream>();
  readonly held = new Map<string, HeldCall>();
  /** The origin of the latest request. */
  origin: CallOrigin;
  usedMs = performance.now();
  readonly #options: TokenContextOptions;
  readonly #modern = new Map<string, { readonly connections: Connections; usedMs: number; uses: number }>();
  /** The lists, by the protocol and the capabilities of the callers. */
  readonly #lists = new Map<string, WorkspaceLists>();
  readonly #toldVersions = new WeakMap<WorkspaceLists, Map<ListKind, number>>();
  #telling: NodeJS.Timeout | undefined;

  constructor(options: TokenContextOptions) {
    this.#options = options;
    this.tokenId = options.tokenId;
    this.workspace = options.workspace;
    this.origin = options.origin;
  }

  /** The lists to whose changes callers listen, so that they are kept fresh. */
  get listenedLists(): ReadonlySet<WorkspaceLists> {
    const sessions = [...this.sessions.values()].filter(({ isListening }) => isListening);
    return new Set([...sessions, ...this.listens].map(({ lists }) => lists));
  }

  /** Returns the lists for callers with a protocol and some capabilities. */
  listsFor(era: Era, capabilities: JsonObject): WorkspaceLists {
    const key = `${era} ${JSON.stringify(capabilities)}`;
    const known = this.#lists.get(key);
    // The order of the map is the order of the last use.
    this.#lists.delete(key);
    if (known === undefined && this.#lists.size >= maxLists) this.#forgetLists();
    const lists =
      known ??
      new WorkspaceLists({
        ...this.#options,
        ...{ era, capabilities, origin: () => this.origin, changed: () => this.#changed() },
      });
    this.#lists.set(key, lists);
    return lists;
  }

  /** The number of open streams of servers, which belong to sessions of callers. */
  get serverStreams(): number {
    return [...this.sessions.values()].reduce((sum, session) => sum + session.serverStreams, 0);
  }

  /** True while the context has a session, a listening stream or a held call, so that it must not be removed. */
  get isUsed(): boolean {
    return this.sessions.size > 0 || this.listens.size > 0 || this.held.size > 0;
  }

  /** Returns the options of connections of a caller with some capabilities. */
  connectionOptions(prefers: Era, capabilities: JsonObject): ConnectionsOptions {
    const { relay, eras, memory, workspace } = this.#options;
    return { relay, eras, memory, workspace, prefers, capabilities };
  }

  /** Runs a call over connections that callers of the modern protocol with the same capabilities share. */
  async withConnections<Result>(
    capabilities: JsonObject,
    run: (connections: Connections) => Promise<Result>,
  ): Promise<Result> {
    const key = JSON.stringify(capabilities);
    const known = this.#modern.get(key);
    if (known === undefined && this.#modern.size >= maxLists) this.#closeOneUnused();
    const shared = known ?? {
      connections: new Connections(this.connectionOptions("modern", capabilities)),
      usedMs: 0,
      uses: 0,
    };
    this.#modern.set(key, shared);
    shared.uses++;
    try {
      return await run(shared.connections);
    } finally {
      shared.uses--;
      shared.usedMs = performance.now();
    }
  }

  /** Closes the connections that were unused for longest, if some are unused. */
  #closeOneUnused(): void {
    const [oldest] = [...this.#modern]
      .filter(([, { uses }]) => uses === 0)
      .sort(([, one], [, other]) => one.usedMs - other.usedMs);
    if (oldest === undefined) throw tooManyCapabilities();
    const [key, { connections }] = oldest;
    this.#modern.delete(key);
    void connections.close(this.origin);
  }

  /** Closes idle connections and idle sessions. */
  sweep(idleSessionMs: number): void {
    const nowMs = performance.now();
    for (const [key, { connections, usedMs, uses }] of this.#modern) {
      if (uses > 0 || nowMs - usedMs < idleConnectionsMs) continue;
      this.#modern.delete(key);
      void connections.close(this.origin);
    }
    for (const session of this.sessions.values()) {
      if (session.isBusy || nowMs - session.usedMs < idleSessionMs) continue;
      void this.endSession(session);
    }
  }

  /** Ends a session, and the streams and server sessions that it has opened. */
  async endSession(session: CallerSession): Promise<void> {
    this.sessions.delete(session.id);
    await session.close(this.origin);
  }

  /** Ends streams that wait for messages. Callers may open them again, at another process. */
  endStreams(): void {
    for (const session of this.sessions.values()) session.endStreams();
    for (const listen of this.listens) listen.end();
  }

  /** Ends all streams, sessions, held calls and connections of the token. */
  async close(): Promise<void> {
    clearTimeout(this.#telling);
    for (const listen of this.listens) listen.end();
    for (const call of this.held.values()) call.leave();
    const modern = [...this.#modern.values()];
    this.#modern.clear();
    await Promise.allSettled([
      ...[...this.#lists.values()].map((lists) => lists.close()),
      ...[...this.sessions.values()].map((session) => this.endSession(session)),
      ...modern.map(({ connections }) => connections.close(this.origin)),
    ]);
  }

  /** Notifies the callers of changed lists after a short delay, because several servers often change at once. */
  #changed(): void {
    this.#telling ??= setTimeout(() => {
      this.#telling = undefined;
      for (const lists of this.#lists.values()) this.#tell(lists);
    }, settledMs).unref();
  }

  #tell(lists: WorkspaceLists): void {
    const told = this.#toldVersions.get(lists) ?? new Map<ListKind, number>();
    this.#toldVersions.set(lists, told);
    const changed = listKinds.filter((kind) => told.get(kind) !== lists.version(kind));
    for (const kind of changed) {
      const version = lists.version(kind);
      told.set(kind, version);
      for (const session of this.sessions.values()) {
        if (session.lists === lists) session.tell(kind, version, changeMethods[kind]);
      }
    }
    for (const method of new Set(changed.map((kind) => changeMethods[kind]))) {
      for (const listen of this.listens) if (listen.lists === lists) listen.tell(method);
    }
  }

  /** Forgets the lists that were used longest ago, among those of no session and no listener. */
  #forgetLists(): void {
    const used = new Set([...this.sessions.values(), ...this.listens].map(({ lists }) => lists));
    for (const [key, lists] of this.#lists) {
      if (used.has(lists)) continue;
      this.#lists.delete(key);
      void lists.close();
      return;
    }
    throw tooManyCapabilities();
  }
}

function tooManyCapabilities(): GatewayProblem {
  return new GatewayProblem("SERVICE_BUSY", "Callers with too many different capabilities use this token", {
    hint: "Use another token for other programs.",
  });
}
