import { Budgets, bearerToken, type ClientAddresses, type OwnNames, RefusedTokens } from "@keyward/listener";
import { SecretsError } from "@keyward/secrets";
import { GatewayProblem } from "../problem.ts";
import type { CallRequest } from "./call-exchange.ts";
import { busy, rateLimited } from "./limit-problems.ts";
import type { CheckedCallLimits } from "./relay-limits.ts";
import { tokenRefused } from "./service-problem.ts";

/** The caller of a request, before its token is checked: the token, and the network address of the client. */
export interface PresentedCaller {
  readonly token: string;
  readonly address: string | undefined;
}

const maxNames = 10_000;

/** Decides whether a request may be answered at all, before a server is looked up. */
export class Admission {
  readonly #names: OwnNames;
  readonly #addresses: ClientAddresses;
  readonly #refused: RefusedTokens;
  readonly #rates: Budgets;

  constructor({
    names,
    addresses,
    limits,
  }: { readonly names: OwnNames; readonly addresses: ClientAddresses; readonly limits: CheckedCallLimits }) {
    this.#names = names;
    this.#addresses = addresses;
    this.#refused = new RefusedTokens(limits.refusalsPerMinute);
    this.#rates = new Budgets({ perSecond: limits.callsPerSecond, burst: limits.burstCalls, maxNames });
  }

  /** @throws GatewayProblem `HOST_REFUSED`, `ORIGIN_REFUSED`. */
  requireOwnName({ headers }: Pick<CallRequest, "headers">): void {
    const refused = this.#names.refusal(headers.host ?? "", headers.origin);
    if (refused === "host") {
      throw new GatewayProblem("HOST_REFUSED", "The host name of the request is not one of the gateway", {
        hint: "Use localhost, or the public URL of the gateway. An operator sets the public URL when the service starts.",
      });
    }
    if (refused === "origin") {
      throw new GatewayProblem("ORIGIN_REFUSED", "The request comes from a page of another origin", {
        hint: "Send the request without a browser.",
      });
    }
  }

  /** Returns who makes a request. @throws GatewayProblem `TOKEN_REFUSED`, `RATE_LIMITED`. */
  callerOf(request: Pick<CallRequest, "headers" | "socket">): PresentedCaller {
    const caller = this.presented(request);
    const waitSeconds = this.#refused.waitSeconds(caller.token);
    if (waitSeconds !== undefined) throw rateLimited("This token was refused too often", waitSeconds);
    return caller;
  }

  /** Returns who makes a request, also with a token that was refused too often. @throws GatewayProblem `TOKEN_REFUSED`. */
  presented({ headers, socket }: Pick<CallRequest, "headers" | "socket">): PresentedCaller {
    const token = bearerToken(headers.authorization);
    if (token === undefined) throw tokenRefused();
    const forwarded = headers["x-forwarded-for"];
    const address = this.#addresses.of(
      socket.remoteAddress,
      typeof forwarded === "string" ? forwarded : forwarded?.join(","),
    );
    return { token, address };
  }

  /** Counts a token that the store has refused. */
  noteRefusal({ token }: PresentedCaller, error: unknown): void {
    if (error instanceof SecretsError && error.code === "TOKEN_REFUSED") this.#refused.refused(token);
  }

  /**
   * Counts a call of a token.
   *
   * @throws GatewayProblem `RATE_LIMITED` or `SERVICE_BUSY` if the token begins too many calls.
   */
  takeFromRate(tokenId: string, mcpMethod: string | undefined): void {
    const waitSeconds = this.#rates.waitSeconds(tokenId);
    if (waitSeconds === undefined) {
      this.#rates.take(tokenId);
      return;
    }
    // A client of the newer protocol falls back to the older protocol if it gets 429 for one of these methods.
    if (mcpMethod === "initialize" || mcpMethod === "server/discover") throw busy("token");
    throw rateLimited("This token began too many calls", waitSeconds);
  }
}

/** @throws GatewayProblem `UPGRADE_REFUSED`, `EXPECT_REFUSED`. */
export function requirePlainHttp({ headers }: Pick<CallRequest, "headers">): void {
  if (headers.upgrade !== undefined) {
    throw new GatewayProblem("UPGRADE_REFUSED", "The gateway does not relay upgrades, such as WebSockets", {
      hint: "Call the server with a transport over plain HTTP.",
    });
  }
  if (headers.expect !== undefined) {
    throw new GatewayProblem("EXPECT_REFUSED", "The gateway does not relay the header Expect", {
      hint: "Send the request without the header Expect. With curl, pass -H 'Expect:'.",
    });
  }
}
