import type { CallOrigin } from "./call-origin.ts";
import type { CallerSession } from "./caller-session.ts";
import { Connections, type ConnectionsOptions } from "./connections.ts";
import type { HeldCall } from "./held-call.ts";
import type { JsonObject } from "./json.ts";
import { type ListKind, listKinds } from "./listed-items.ts";
import type { ListenStream } from "./listen-stream.ts";
import { WorkspaceLists, type WorkspaceListsOptions } from "./workspace-lists.ts";

/** The options of {@link TokenContext}. */
export interface TokenContextOptions
  extends Pick<
    WorkspaceListsOptions,
    "relay" | "eras" | "memory" | "listMemory" | "workspace" | "turns" | "readWithinMs"
  > {
  readonly tokenId: string;
  readonly origin: CallOrigin;
}

const settledMs = 100;
const idleConnectionsMs = 5 * 60_000;
/** The method of the notification for each list. */
const changeMethods: { readonly [Kind in ListKind]: string } = {
  tools: "notifications/tools/list_changed",
  prompts: "notifications/prompts/list_changed",
  resources: "notifications/resources/list_changed",
  resourceTemplates: "notifications/resources/list_changed",
};

/** What this process keeps for one token: the lists, the sessions of its callers, and connections to servers. */
export class TokenContext {
  readonly tokenId: string;
  readonly workspace: string;
  readonly lists: WorkspaceLists;
  readonly sessions = new Map<string, CallerSession>();
  readonly listens = new Set<ListenStream>();
  readonly held = new Map<string, HeldCall>();
  /** The origin of the latest request. */
  origin: CallOrigin;
  usedMs = performance.now();
  readonly #options: TokenContextOptions;
  readonly #modern = new Map<string, { readonly connections: Connections; usedMs: number; uses: number }>();
  readonly #toldVersions = new Map<ListKind, number>();
  #telling: NodeJS.Timeout | undefined;

  constructor(options: TokenContextOptions) {
    this.#options = options;
    this.tokenId = options.tokenId;
    this.workspace = options.workspace;
    this.origin = options.origin;
    this.lists = new WorkspaceLists({ ...options, origin: () => this.origin, changed: () => this.#changed() });
  }

  /** True while somebody waits for messages, so that the lists are kept fresh. */
  get hasListeners(): boolean {
    return this.listens.size > 0 || [...this.sessions.values()].some(({ isListening }) => isListening);
  }

  /** The number of open streams of servers, which belong to sessions of callers. */
  get serverStreams(): number {
    return [...this.sessions.values()].reduce((sum, session) => sum + session.serverStreams, 0);
  }

  /** True while the context has anything that must not be forgotten. */
  get isUsed(): boolean {
    return this.sessions.size > 0 || this.listens.size > 0 || this.held.size > 0;
  }

  /** Returns the options of connections of a caller with some capabilities. */
  connectionOptions(capabilities: JsonObject): ConnectionsOptions {
    const { relay, eras, memory, workspace } = this.#options;
    return { relay, eras, memory, workspace, capabilities };
  }

  /** Runs a call over connections that callers of the modern protocol with the same capabilities share. */
  async withConnections<Result>(
    capabilities: JsonObject,
    run: (connections: Connections) => Promise<Result>,
  ): Promise<Result> {
    const key = JSON.stringify(capabilities);
    const shared = this.#modern.get(key) ?? {
      connections: new Connections(this.connectionOptions(capabilities)),
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

  /** Closes what was not used for a while. */
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

  /** Ends a session and what it has opened. */
  async endSession(session: CallerSession): Promise<void> {
    this.sessions.delete(session.id);
    await session.close(this.origin);
  }

  /** Ends streams that wait for messages. Callers may open them again, at another process. */
  endStreams(): void {
    for (const session of this.sessions.values()) session.endStreams();
    for (const listen of this.listens) listen.end();
  }

  /** Ends everything. */
  async close(): Promise<void> {
    clearTimeout(this.#telling);
    this.lists.close();
    for (const listen of this.listens) listen.end();
    for (const call of this.held.values()) call.leave();
    const modern = [...this.#modern.values()];
    this.#modern.clear();
    await Promise.allSettled([
      ...[...this.sessions.values()].map((session) => this.endSession(session)),
      ...modern.map(({ connections }) => connections.close(this.origin)),
    ]);
  }

  /** Tells the callers what has changed, a moment later, because several servers often change at once. */
  #changed(): void {
    this.#telling ??= setTimeout(() => {
      this.#telling = undefined;
      const changed = listKinds.filter((kind) => this.#toldVersions.get(kind) !== this.lists.version(kind));
      for (const kind of changed) this.#toldVersions.set(kind, this.lists.version(kind));
      for (const kind of changed) {
        const version = this.lists.version(kind);
        for (const session of this.sessions.values()) session.tell(kind, version, changeMethods[kind]);
      }
      for (const method of new Set(changed.map((kind) => changeMethods[kind]))) {
        for (const listen of this.listens) listen.tell(method);
      }
    }, settledMs).unref();
  }
}
