import { NetworkError } from "../network/index.ts";
import type { GatewayProblem } from "../problem.ts";
import type { CalledServer, CallSource, ServerStates } from "../server-states.ts";
import type { AnswerEnd } from "./relayed-answer.ts";

/** The status of a server, as a problem of a call has shown it. */
interface ServerError {
  readonly status: "refused" | "failed";
  /** Why, in a text that names neither a host nor an address. */
  readonly reason: string;
}

/** Returns the server's error in a problem of a call. Returns `undefined` for a problem of the caller or the gateway. */
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
 * Records the state of a server after a call. If the gateway refuses an answer, the server still counts as having answered.
 *
 * @param options.lacksBody true if only a part of the request was sent to the server. Then a failure is not recorded, because
 * the caller may have stopped in the middle of its body.
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

/** Returns true if the gateway has refused an answer of the server that has arrived. */
export function isOfAnswer({ code }: GatewayProblem): boolean {
  return code === "ANSWER_REFUSED" || code === "ANSWER_TOO_LARGE";
}
