import type { Dispatcher } from "undici";
import type { AllowedAddress } from "./allowed-address.ts";
import { type DispatchLimits, guardedDispatcher } from "./guarded-dispatcher.ts";

/** The server that a call goes to. */
export interface DialledServer {
  /** The workspace and the id of the server, as one text. */
  readonly key: string;
  /** The origin of its URL. */
  readonly origin: string;
  readonly allowed: readonly AllowedAddress[];
}

/** A request of undici, without the origin. */
export type ServerRequest = Omit<Dispatcher.DispatchOptions, "origin">;

interface Entry {
  /** The origin and the allowed addresses for which the dispatcher was made. */
  readonly made: string;
  readonly dispatcher: Dispatcher;
}

/** The number of servers whose connections are kept. */
const maxServers = 1_000;

/**
 * Dispatches calls to servers. Servers never share connections: an exception for one server, or a credential that one
 * connection has signed in with, must not serve another server. After a change of the URL or of the exceptions, new calls
 * use new connections. Calls in progress finish on the old connections.
 */
export class ServerDispatchers {
  readonly #limits: DispatchLimits;
  readonly #maxServers: number;
  readonly #entries = new Map<string, Entry>();
  /** Dispatchers that only finish calls in progress. */
  readonly #leaving = new Set<Dispatcher>();
  #isClosed = false;

  constructor(limits: DispatchLimits & { readonly maxServers?: number } = {}) {
    this.#limits = limits;
    this.#maxServers = limits.maxServers ?? maxServers;
  }

  /** Sends a request to the origin of a server, as `dispatch` of undici. Returns false if the dispatcher is busy. */
  dispatch(server: DialledServer, options: ServerRequest, handler: Dispatcher.DispatchHandler): boolean {
    return this.#dispatcher(server).dispatch(options, handler);
  }

  /** Waits for the calls in progress, and closes all connections. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const key of [...this.#entries.keys()]) this.#leave(key);
    await Promise.all([...this.#leaving].map((dispatcher) => dispatcher.close()));
  }

  /** Ends the calls in progress with an error, and closes all connections. */
  async destroy(error: Error): Promise<void> {
    this.#isClosed = true;
    for (const key of [...this.#entries.keys()]) this.#leave(key);
    await Promise.all([...this.#leaving].map((dispatcher) => dispatcher.destroy(error)));
  }

  #dispatcher({ key, origin, allowed }: DialledServer): Dispatcher {
    if (this.#isClosed) throw new TypeError("The dispatchers are closed");
    const made = [origin, ...allowed.map(({ cidr, port }) => `${cidr} ${port}`)].join("\n");
    const known = this.#entries.get(key);
    if (known?.made === made) {
      // The server that was called last is at the end of the map.
      this.#entries.delete(key);
      this.#entries.set(key, known);
      return known.dispatcher;
    }
    const dispatcher = guardedDispatcher({ ...this.#limits, origin, allowed });
    this.#leave(key);
    this.#entries.set(key, { made, dispatcher });
    const [oldest] = this.#entries.keys();
    if (this.#entries.size > this.#maxServers && oldest !== undefined) this.#leave(oldest);
    return dispatcher;
  }

  #leave(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    const { dispatcher } = entry;
    this.#leaving.add(dispatcher);
    const end = () => this.#leaving.delete(dispatcher);
    // A dispatcher that is destroyed in the meantime rejects.
    dispatcher.close().then(end, end);
  }
}
