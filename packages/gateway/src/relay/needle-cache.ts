import type { CallGrant, CallSecret } from "@keyward/secrets/reader";
import { Needles } from "../redaction/needles.ts";

/** The values of one server that answers are searched for. */
interface ServerNeedles {
  /** Until when each value is searched for, by its text and kind. `Infinity` while a call uses the value. */
  readonly values: Map<string, { readonly value: string; readonly basic: boolean; calls: number; untilMs: number }>;
  needles: Needles | undefined;
  /** How many calls are in progress. */
  calls: number;
}

/** The parts of a grant that the cache reads. */
interface SearchedGrant extends Pick<CallGrant, "secrets"> {
  readonly server: Pick<CallGrant["server"], "id">;
}

/** The needles of one call. */
export interface TakenNeedles {
  /** Returns the current needles: a new object if values were added since the last call. */
  readonly needles: () => Needles;
  /** Adds values that were set since the call began. */
  readonly add: (secrets: readonly CallSecret[]) => void;
  /** Must be called when the call has ended. */
  readonly release: () => void;
}

/** For how long a former value is searched for after the last call that used it has ended. */
const keptMs = 15 * 60_000;

/**
 * The needles of each server: its current values, and former values that a call has used in the last 15 minutes. A server may
 * still send a former value in an answer.
 */
export class NeedleCache {
  readonly #servers = new Map<string, ServerNeedles>();

  /** The number of servers whose needles are in memory. */
  get size(): number {
    return this.#servers.size;
  }

  /** Returns the needles for the answer of a call. */
  take({ server, secrets }: SearchedGrant): TakenNeedles {
    const entry = this.#servers.get(server.id) ?? { values: new Map(), needles: undefined, calls: 0 };
    // Each value once, however often it is added.
    const keys = new Set<string>();
    const add = (added: readonly CallSecret[]) => {
      for (const { value, rule, redacted } of added) {
        if (!redacted) continue;
        const [text, basic] = [value.reveal(), rule.kind === "basic"];
        const key = `${basic ? "b" : "p"}${text}`;
        if (keys.has(key)) continue;
        keys.add(key);
        const kept = entry.values.get(key);
        if (kept === undefined) {
          entry.values.set(key, { value: text, basic, calls: 1, untilMs: Number.POSITIVE_INFINITY });
          entry.needles = undefined;
        } else {
          kept.calls++;
          kept.untilMs = Number.POSITIVE_INFINITY;
        }
      }
    };
    add(secrets);
    entry.calls++;
    this.#servers.set(server.id, entry);
    const release = () => {
      entry.calls--;
      for (const key of keys) {
        const kept = entry.values.get(key);
        if (kept === undefined) continue;
        kept.calls--;
        if (kept.calls === 0) kept.untilMs = performance.now() + keptMs;
      }
    };
    // Made only when the answer begins, so that they contain a value that was set during the call.
    return { needles: () => this.#needlesOf(entry), add, release };
  }

  /** Forgets values that no call has used for some minutes. */
  sweep(): void {
    const nowMs = performance.now();
    for (const [id, entry] of this.#servers) {
      for (const [key, { untilMs }] of entry.values) {
        if (untilMs > nowMs) continue;
        entry.values.delete(key);
        entry.needles = undefined;
      }
      if (entry.values.size === 0 && entry.calls === 0) this.#servers.delete(id);
    }
  }

  #needlesOf(entry: ServerNeedles): Needles {
    entry.needles ??= new Needles([...entry.values.values()].map(({ value, basic }) => ({ value, basic })));
    return entry.needles;
  }
}
