import { GatewayProblem } from "../problem.ts";

/** Returns the problem of a call for which there is no place. */
export function busy(what: "gateway" | "token" | "server"): GatewayProblem {
  const whose = { gateway: "", token: " with this token", server: " to this server" }[what];
  return new GatewayProblem("SERVICE_BUSY", `Too many calls${whose} are in progress`, {
    hint: "Repeat the call when others have ended. An open stream counts as a call.",
  });
}

/** Returns the problem of a token that calls too often. */
export function rateLimited(detail: string, waitSeconds: number): GatewayProblem {
  return new GatewayProblem("RATE_LIMITED", detail, {
    hint: "Wait as long as the header Retry-After says.",
    waitSeconds,
  });
}
