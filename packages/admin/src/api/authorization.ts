import { Budgets, bearerToken, RefusedTokens } from "@keyward/listener";
import { type Caller, SecretsError } from "@keyward/secrets";
import type { CheckedLimits } from "./api-limits.ts";
import { rateLimited, tokenRefused } from "./error-problems.ts";
import type { SecretsService } from "./secrets-service.ts";

const maxTokens = 10_000;

/** Checks the token of a request, and counts the requests of each token. */
export class Authorization {
  readonly #admin: SecretsService;
  readonly #refused: RefusedTokens;
  readonly #rates: Budgets;

  constructor(admin: SecretsService, limits: CheckedLimits) {
    this.#admin = admin;
    this.#refused = new RefusedTokens(limits.refusalsPerMinute);
    this.#rates = new Budgets({
      perSecond: limits.requestsPerSecond,
      burst: limits.burstRequests,
      maxNames: maxTokens,
    });
  }

  /**
   * Checks the token of a request in the store, and returns the caller to whom the token belongs.
   *
   * @throws SecretsError `TOKEN_REFUSED`; ProblemError `RATE_LIMITED` for a token that was refused too often.
   */
  async caller(header: string | undefined, address: string | undefined): Promise<Caller> {
    const token = bearerToken(header);
    if (token === undefined) throw tokenRefused();
    const waitSeconds = this.#refused.waitSeconds(token);
    if (waitSeconds !== undefined) throw rateLimited(waitSeconds, "This token was refused too often");
    try {
      return await this.#admin.authenticate(token, address === undefined ? {} : { address });
    } catch (error) {
      if (error instanceof SecretsError && error.code === "TOKEN_REFUSED") this.#refused.refused(token);
      throw error;
    }
  }

  /** Counts a request of a token. @throws ProblemError `RATE_LIMITED` if the token has sent too many requests. */
  takeFromRate({ tokenId }: Caller): void {
    const waitSeconds = this.#rates.waitSeconds(tokenId);
    if (waitSeconds !== undefined) throw rateLimited(waitSeconds, "This token sent too many requests");
    this.#rates.take(tokenId);
  }
}
