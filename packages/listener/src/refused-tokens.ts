import { createHash } from "node:crypto";
import { Budgets } from "./budgets.ts";

const maxRemembered = 10_000;

/**
 * Limits how often the store is asked again about a token that it has refused, so that a program with a revoked token
 * causes little work. Refusals are counted by token and not by client address, because other clients at an address may
 * have valid tokens. An attacker cannot find a valid token by trying.
 */
export class RefusedTokens {
  readonly #refusals: Budgets;
  #hasRefused = false;

  /**
   * Sets the limit of each token.
   *
   * @param perMinute how many times a minute the store may refuse the same token.
   */
  constructor(perMinute: number) {
    this.#refusals = new Budgets({ perSecond: perMinute / 60, burst: perMinute, maxNames: maxRemembered });
  }

  /** Returns for how many seconds a token must wait before the store is asked; `undefined` if it may be checked now. */
  waitSeconds(token: string): number | undefined {
    // A process that has refused no token needs no hash.
    return this.#hasRefused ? this.#refusals.waitSeconds(hashOf(token)) : undefined;
  }

  /** Counts one refusal of a token by the store. */
  refused(token: string): void {
    this.#hasRefused = true;
    this.#refusals.take(hashOf(token));
  }
}

function hashOf(token: string): string {
  return createHash("sha256").update(token).digest("base64");
}
