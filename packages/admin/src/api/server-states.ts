/** A server whose state is asked for. */
export interface StatedServer {
  /** The id of the workspace. */
  readonly workspace: string;
  /** The id of the server. */
  readonly id: string;
  /** The revision of the server. What was seen before a change of the server says nothing about the server of now. */
  readonly revision: number;
}

/** How a server was when it was last called. Times are in milliseconds since the epoch. */
export interface SeenState {
  /** Whether the server has answered. `unknown` for a server that was not called since its last change. */
  readonly status: "unknown" | "ready" | "refused" | "failed";
  /** Since when each call has shown this status; `undefined` if it is unknown. */
  readonly since: number | undefined;
  /** When a call last showed this status; `undefined` if it is unknown. */
  readonly lastSeen: number | undefined;
  /** The last error, also of a server that is ready again. The reason reaches every admin of the workspace. */
  readonly lastError: { readonly at: number; readonly reason: string } | undefined;
}

/** Returns how a server was when it was last called. The gateway of the same process has such a function. */
export type StateOfServer = (server: StatedServer) => SeenState;

/** The states of a process without a gateway, which calls no server. */
export const unknownStates: StateOfServer = () => ({
  status: "unknown",
  since: undefined,
  lastSeen: undefined,
  lastError: undefined,
});
