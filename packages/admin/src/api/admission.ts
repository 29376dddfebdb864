import { Places } from "@keyward/listener";
import { type Caller, hasRight, type Right } from "@keyward/secrets";
import type { MiddlewareHandler } from "hono";
import type { ApiContext, ApiEnvironment } from "./api-environment.ts";
import type { CheckedLimits } from "./api-limits.ts";
import { Authorization } from "./authorization.ts";
import { readBody } from "./bounded-body.ts";
import { notAllowed, serviceBusy, tooManyAtOnce } from "./error-problems.ts";
import type { SecretsService } from "./secrets-service.ts";

/**
 * Decides which requests are handled, and when. While the body of a request arrives, the request does not count towards
 * `concurrentRequests`. When the body has arrived, the token is checked again: if the token was revoked in the meantime, the
 * request is refused.
 */
export class Admission {
  readonly #authorization: Authorization;
  readonly #maxBodyBytes: number;
  readonly #service: Places;
  readonly #workspaces: Places;
  readonly #tokens: Places;

  constructor(admin: SecretsService, limits: CheckedLimits) {
    this.#authorization = new Authorization(admin, limits);
    this.#maxBodyBytes = limits.maxBodyBytes;
    this.#service = new Places(limits.concurrentRequests, serviceBusy);
    this.#workspaces = new Places(limits.concurrentRequestsOfWorkspace, () => tooManyAtOnce("workspace"));
    this.#tokens = new Places(limits.concurrentRequestsOfToken, () => tooManyAtOnce("token"));
  }

  /** Returns middleware that handles a request only if the role of its token has the right `right`. */
  requires(
    right: Right,
    {
      hasBody,
      addressOf,
    }: { readonly hasBody: boolean; readonly addressOf: (context: ApiContext) => string | undefined },
  ): MiddlewareHandler<ApiEnvironment> {
    return async (context, next) => {
      const check = () => this.#authorization.caller(context.req.header("authorization"), addressOf(context));
      const admit = async () => {
        const caller = await check();
        this.#authorization.takeFromRate(caller);
        if (!hasRight(caller.role, right)) throw notAllowed();
        return caller;
      };
      const handle = async (caller: Caller) => {
        context.set("caller", caller);
        await next();
      };
      if (!hasBody) {
        await this.#inPlace(async () => {
          const caller = await admit();
          await this.#inShare(caller, () => handle(caller));
        });
        return;
      }
      const caller = await this.#inPlace(admit);
      await this.#inShare(caller, async () => {
        await readBody(context.req, this.#maxBodyBytes);
        await this.#inPlace(async () => handle(await check()));
      });
    };
  }

  async #inPlace<Result>(run: () => Promise<Result>): Promise<Result> {
    return await this.#service.hold("", run);
  }

  async #inShare({ tokenId, workspace = "operators" }: Caller, run: () => Promise<void>): Promise<void> {
    await this.#workspaces.hold(workspace, () => this.#tokens.hold(tokenId, run));
  }
}
