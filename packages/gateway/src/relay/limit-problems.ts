import { GatewayProblem } from "../problem.ts";

/** Returns the problem for a call that would exceed the limit of calls in progress. */
export function busy(what: "gateway" | "token" | "server"): GatewayProblem {
  const whose = { gateway: "", token: " with this token", server: " to this server" }[what];
  return new GatewayProblem("SERVICE_BUSY", `Too many calls${whose} are in progress`, {
    hint: "Repeat the call when others have ended. An open stream counts as a call.",
  });
}

/** Returns the problem for a token that has sent too many calls. */
export function rateLimited(detail: string, waitSeconds: number): GatewayProblem {
  return new GatewayProblem("RATE_LIMITED", detail, {
    hint: "Repeat the call after the number of seconds in the header Retry-After.",
    waitSeconds,
  });
}
