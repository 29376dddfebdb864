/** What a command fails with when it is certain that it never left. */
export class NotSent extends Error {}

/** What clients call an error that the server replied with: ioredis and iovalkey by its name, @redis/client by its class. */
const replyErrors: ReadonlySet<string> = new Set(["ReplyError", "SimpleError", "BlobError", "ErrorReply"]);

/**
 * Replies that say this connection leads to the wrong node: to one that was demoted, that is being filled, that has lost
 * its primary, its replicas or its Cluster, or that serves other slots. The command was not carried out.
 */
const fromWrongNode: ReadonlySet<string | undefined> = new Set([
  "CLUSTERDOWN",
  "LOADING",
  "MASTERDOWN",
  "MOVED",
  "NOREPLICAS",
  "READONLY",
  "UNBLOCKED",
]);

/** The word that a reply of the server begins with when it is an error; `undefined` for an error of another kind. */
export function serverCodeOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const replied = replyErrors.has(error.name) || replyErrors.has(error.constructor.name);
  return replied ? /^[A-Z]+/.exec(error.message)?.[0] : undefined;
}

/** Whether the server replied that another node has to be asked. */
export function isFromWrongNode(error: unknown): boolean {
  return fromWrongNode.has(serverCodeOf(error));
}

/** The error underneath: what clients say of a connection wraps what the system said of it. */
export function rootOf(error: unknown): unknown {
  if (error instanceof AggregateError && error.errors.length > 0) return rootOf(error.errors[0]);
  if (error instanceof Error && "lastNodeError" in error) return rootOf(error.lastNodeError);
  if (error instanceof NotSent) return rootOf(error.cause ?? new Error(error.message));
  return error;
}

/**
 * An error without what clients attach to theirs: the command with its arguments, which are keys and envelopes. Servers
 * quote arguments in some of their replies, so those end before the first quotation mark.
 */
export function bareError(error: unknown): Error {
  const root = rootOf(error);
  if (!(root instanceof Error)) return new Error("The client failed with something that is no error");
  const message = serverCodeOf(root) === undefined ? root.message : root.message.replace(/\s*['"`].*$/s, " …");
  const bare = new Error(message);
  return "code" in root && typeof root.code === "string" ? Object.assign(bare, { code: root.code }) : bare;
}
