import { createHash } from "node:crypto";
import { Budgets } from "./budgets.ts";

const maxRemembered = 10_000;

/**
 * Limits how often a token that the store refused is checked again, so that a program with a revoked token costs the store
 * little. Only the token itself counts, and not its client's address: others at this address may have valid tokens, and
 * a valid token cannot be found by trying.
 */
export class RefusedTokens {
  readonly #refusals: Budgets;
  #hasRefused = false;

  /**
   * Sets the limit of each token.
   *
   * @param perMinute how often a minute one token may be refused.
   */
  constructor(perMinute: number) {
    this.#refusals = new Budgets({ perSecond: perMinute / 60, burst: perMinute, maxNames: maxRemembered });
  }

  /** Returns for how many seconds a token must wait before the store is asked; `undefined` if it may be checked now. */
  waitSeconds(token: string): number | undefined {
    // A process that has refused no token needs no hash.
    return this.#hasRefused ? this.#refusals.waitSeconds(hashOf(token)) : undefined;
  }

  /** Counts a refusal of a token. */
  refused(token: string): void {
    this.#hasRefused = true;
    this.#refusals.take(hashOf(token));
  }
}

function hashOf(token: string): string {
  return createHash("sha256").update(token).digest("base64");
}
