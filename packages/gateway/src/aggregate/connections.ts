import type { Relay } from "../relay/index.ts";
import type { MessageMemory } from "./answer-reader.ts";
import type { CallOrigin } from "./call-origin.ts";
import type { JsonObject } from "./json.ts";
import type { Era } from "./messages.ts";
import { ServerConnection } from "./server-connection.ts";
import type { ServerEras } from "./server-eras.ts";

/** The options of {@link Connections}. */
export interface ConnectionsOptions {
  readonly relay: Pick<Relay, "call">;
  readonly eras: ServerEras;
  /** The memory of the messages of all servers. */
  readonly memory: MessageMemory;
  /** The id of the workspace. */
  readonly workspace: string;
  /** The capabilities of the caller that servers may use. */
  readonly capabilities: JsonObject;
  /** The protocol of the caller. A server is first asked for this protocol. */
  readonly prefers: Era;
}

/** The connections of one caller: one for each server that the caller has called. */
export class Connections {
  readonly #options: ConnectionsOptions;
  readonly #open = new Map<string, ServerConnection>();

  constructor(options: ConnectionsOptions) {
    this.#options = options;
  }

  /** The number of sessions at servers. */
  get sessions(): number {
    return [...this.#open.values()].filter(({ hasSession }) => hasSession).length;
  }

  /** Returns the connection to a server. The connection is opened by its first request. */
  to(slug: string): ServerConnection {
    const known = this.#open.get(slug);
    if (known !== undefined) return known;
    const { workspace, ...options } = this.#options;
    const connection = new ServerConnection({ ...options, slug, identity: `${workspace}/${slug}` });
    this.#open.set(slug, connection);
    return connection;
  }

  /** Removes the connection to a server if it was never opened. */
  forgetUnopened(slug: string): void {
    if (this.#open.get(slug)?.isOpen === false) this.#open.delete(slug);
  }

  /** Returns all connections that {@link Connections.to} has returned. */
  all(): readonly ServerConnection[] {
    return [...this.#open.values()];
  }

  /** Ends the session at each server. */
  async close(origin: CallOrigin): Promise<void> {
    const connections = this.all();
    this.#open.clear();
    await Promise.allSettled(connections.map((connection) => connection.close(origin)));
  }
}
