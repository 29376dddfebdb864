import type { JsonObject } from "./json.ts";
import type { Era } from "./messages.ts";

/** What a server has said about itself. */
export interface ServerProfile {
  readonly era: Era;
  readonly capabilities: JsonObject;
}

const maxServers = 10_000;
/** A server may have learned the other protocol by then. */
const keptMs = 10 * 60_000;

/** Which protocol each server speaks, so that not every connection asks. */
export class ServerEras {
  readonly #known = new Map<string, { readonly profile: ServerProfile; readonly untilMs: number }>();

  /** Returns what is known about a server. */
  of(server: string, preferred: Era): ServerProfile | undefined {
    const known = this.#known.get(`${preferred} ${server}`);
    if (known === undefined || known.untilMs > performance.now()) return known?.profile;
    this.#known.delete(`${preferred} ${server}`);
    return undefined;
  }

  /** Notes which protocol a server speaks with a client that prefers one. */
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
