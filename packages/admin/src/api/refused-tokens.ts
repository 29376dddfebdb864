import { createHash } from "node:crypto";
import { Budgets } from "./budgets.ts";
import { networkOf } from "./client-address.ts";

const maxRemembered = 10_000;
const maxAccepted = 1_000;

/**
 * Limits how often a client address may present tokens that are refused. A token that was accepted before is not held
 * back by what others at the same address do, and a token that is refused again and again counts once for the address.
 */
export class RefusedTokens {
  readonly #byAddress: Budgets;
  readonly #byToken: Budgets;
  readonly #refused = new Set<string>();
  readonly #accepted = new Set<string>();

  constructor(perMinute: number) {
    const budget = { perSecond: perMinute / 60, burst: perMinute, maxNames: maxRemembered };
    this.#byAddress = new Budgets(budget);
    this.#byToken = new Budgets(budget);
  }

  /** Returns for how many seconds a token must wait before the store is asked; `undefined` if it may be checked now. */
  waitSeconds(token: string, address: string): number | undefined {
    const hash = hashOf(token);
    if (this.#accepted.has(hash)) return undefined;
    const ofToken = this.#byToken.waitSeconds(hash);
    return ofToken ?? (this.#refused.has(hash) ? undefined : this.#byAddress.waitSeconds(networkOf(address)));
  }

  /** Remembers that a token was accepted. */
  accepted(token: string): void {
    const hash = hashOf(token);
    this.#refused.delete(hash);
    remember(this.#accepted, hash, maxAccepted);
  }

  /** Counts a token that was refused. */
  refused(token: string, address: string): void {
    const hash = hashOf(token);
    this.#accepted.delete(hash);
    this.#byToken.take(hash);
    if (this.#refused.has(hash)) return;
    remember(this.#refused, hash, maxRemembered);
    this.#byAddress.take(networkOf(address));
  }
}

function remember(names: Set<string>, name: string, most: number): void {
  names.delete(name);
  names.add(name);
  if (names.size <= most) return;
  for (const oldest of names) {
    names.delete(oldest);
    return;
  }
}

function hashOf(token: string): string {
  return createHash("sha256").update(token).digest("base64");
}
