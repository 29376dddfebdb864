import { type Caller, hasRight, type Right, SecretsError } from "@keyward/secrets";
import type { MiddlewareHandler } from "hono";
import type { ApiEnvironment } from "./api-environment.ts";
import type { CheckedLimits } from "./api-limits.ts";
import { Budgets } from "./budgets.ts";
import { notAllowed, tokenRefused } from "./error-problems.ts";
import { apiProblem, type ProblemError } from "./problem-error.ts";
import { RefusedTokens } from "./refused-tokens.ts";
import type { SecretsService } from "./secrets-service.ts";

const maxTokens = 10_000;
const bearer = /^Bearer ([\x21-\x7e]{1,256})$/i;

/** Checks the token of a request, its rate and its right, before anything else of the request is read. */
export class Authorization {
  readonly #admin: SecretsService;
  readonly #refused: RefusedTokens;
  readonly #rates: Budgets;

  constructor(admin: SecretsService, limits: CheckedLimits) {
    this.#admin = admin;
    this.#refused = new RefusedTokens(limits.refusedTokensPerMinute);
    this.#rates = new Budgets({
      perSecond: limits.requestsPerSecond,
      burst: limits.burstRequests,
      maxNames: maxTokens,
    });
  }

  /** Returns the middleware of a route that needs a right. */
  requires(right: Right, addressOf: (context: Parameters<MiddlewareHandler<ApiEnvironment>>[0]) => string | undefined) {
    const middleware: MiddlewareHandler<ApiEnvironment> = async (context, next) => {
      const caller = await this.#authenticate(context.req.header("authorization"), addressOf(context));
      const waitSeconds = this.#rates.waitSeconds(caller.tokenId);
      if (waitSeconds !== undefined) throw rateLimited(waitSeconds, "This token sent too many requests");
      this.#rates.take(caller.tokenId);
      if (!hasRight(caller.role, right)) throw notAllowed();
      context.set("caller", caller);
      await next();
    };
    return middleware;
  }

  async #authenticate(header: string | undefined, address: string | undefined): Promise<Caller> {
    const token = bearer.exec(header ?? "")?.[1];
    if (token === undefined) throw tokenRefused();
    const from = address ?? "unknown";
    const waitSeconds = this.#refused.waitSeconds(token, from);
    if (waitSeconds !== undefined) throw rateLimited(waitSeconds, "Too many tokens from this address were refused");
    try {
      const caller = await this.#admin.authenticate(token, address === undefined ? {} : { address });
      this.#refused.accepted(token);
      return caller;
    } catch (error) {
      if (error instanceof SecretsError && error.code === "TOKEN_REFUSED") this.#refused.refused(token, from);
      throw error;
    }
  }
}

function rateLimited(waitSeconds: number, detail: string): ProblemError {
  return apiProblem(
    "RATE_LIMITED",
    { title: "Too many requests", detail, hint: `Send the request again after ${waitSeconds} seconds.` },
    { "retry-after": String(waitSeconds) },
  );
}
