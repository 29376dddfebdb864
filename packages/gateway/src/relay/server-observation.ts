import { NetworkError } from "../network/index.ts";
import type { GatewayProblem } from "../problem.ts";
import type { CalledServer, CallSource, ServerStates } from "../server-states.ts";
import type { AnswerEnd } from "./relayed-answer.ts";

/** What a problem says about a server. */
interface ServerError {
  readonly status: "refused" | "failed";
  /** Why, in a text that names neither a host nor an address. */
  readonly reason: string;
}

/** Returns what a problem of a call says about its server; `undefined` for a problem of the caller or of the gateway. */
function serverErrorOf({ code, message, cause }: GatewayProblem): ServerError | undefined {
  switch (code) {
    case "CREDENTIAL_REFUSED":
      return { status: "refused", reason: "The server refused its credential: it answered with the status 401" };
    case "ADDRESS_REFUSED":
    case "SERVER_TIMEOUT":
    case "SERVER_UNAVAILABLE":
      return { status: "failed", reason: cause instanceof NetworkError ? cause.message : message };
    default:
      return undefined;
  }
}

/**
 * Notes what the end of a call says about its server. An answer that the gateway refuses is an answer, too.
 *
 * @param options.lacksBody true if the server has a part of the request only. Then a caller that stops in the middle of its
 * body may be the reason why the server does not answer.
 */
export function noteEnd(
  states: ServerStates,
  server: CalledServer,
  { status, problem }: Pick<AnswerEnd, "status" | "problem">,
  { source, lacksBody }: { readonly source: CallSource; readonly lacksBody: boolean },
): void {
  const error = problem === undefined ? undefined : serverErrorOf(problem);
  if (error?.status === "failed" && lacksBody) return;
  if (error !== undefined) states.noteError(server, error.status, error.reason, source);
  else if (problem === undefined ? status !== undefined : isOfAnswer(problem)) states.noteReady(server, source);
}

/** Returns whether a problem is one of an answer that has arrived. */
export function isOfAnswer({ code }: GatewayProblem): boolean {
  return code === "ANSWER_REFUSED" || code === "ANSWER_TOO_LARGE";
}
