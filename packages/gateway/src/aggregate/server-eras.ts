import type { JsonObject } from "./json.ts";
import type { Era } from "./messages.ts";

/** The protocol and the capabilities that a server has reported. */
export interface ServerProfile {
  readonly era: Era;
  readonly capabilities: JsonObject;
}

const maxServers = 10_000;
/** After this time, a server is asked again, because it may have been updated to another protocol. */
const keptMs = 10 * 60_000;

/** Remembers the protocol of each server, so that a new connection does not have to ask. */
export class ServerEras {
  readonly #known = new Map<string, { readonly profile: ServerProfile; readonly untilMs: number }>();

  /** Returns the profile of a server for callers that prefer a protocol; `undefined` if it is unknown or too old. */
  of(server: string, preferred: Era): ServerProfile | undefined {
    const known = this.#known.get(`${preferred} ${server}`);
    if (known === undefined || known.untilMs > performance.now()) return known?.profile;
    this.#known.delete(`${preferred} ${server}`);
    return undefined;
  }

  /** Remembers the profile of a server for clients that prefer a protocol. */
  note(server: string, preferred: Era, profile: ServerProfile): void {
    this.#known.delete(`${preferred} ${server}`);
    this.#known.set(`${preferred} ${server}`, { profile, untilMs: performance.now() + keptMs });
    const [oldest] = this.#known.keys();
    if (this.#known.size > maxServers && oldest !== undefined) this.#known.delete(oldest);
  }

  forget(server: string): void {
    for (const preferred of ["legacy", "modern"]) this.#known.delete(`${preferred} ${server}`);
  }
}
