/** Identifies a server of which the API needs the state. */
export interface StatedServer {
  /** The id of the workspace. */
  readonly workspace: string;
  /** The id of the server. */
  readonly id: string;
  /** The revision of the server. If the gateway last called the server at an older revision, the state is `unknown`. */
  readonly revision: number;
}

/** The state of a server, as its last calls have shown it. Times are in milliseconds since the epoch. */
export interface SeenState {
  /** Whether the server has answered. `unknown` for a server that was not called since its last change. */
  readonly status: "unknown" | "ready" | "refused" | "failed";
  /** When this status began: each call since then has shown it. `undefined` if the status is unknown. */
  readonly since: number | undefined;
  /** When a call last showed this status. `undefined` if the status is unknown. */
  readonly lastSeen: number | undefined;
  /** The last error, even if the server has answered since then. Every admin of the workspace can read the reason. */
  readonly lastError: { readonly at: number; readonly reason: string } | undefined;
}

/** Returns the state of a server, as its last calls have shown it. The gateway of the same process provides this function. */
export type StateOfServer = (server: StatedServer) => SeenState;

/** Returns the state `unknown` for each server. For a process without a gateway, which calls no server. */
export const unknownStates: StateOfServer = () => ({
  status: "unknown",
  since: undefined,
  lastSeen: undefined,
  lastError: undefined,
});
