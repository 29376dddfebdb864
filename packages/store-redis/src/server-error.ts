/** The error of a command that was certainly not sent to the server. */
export class NotSent extends Error {}

/** Names of the clients' errors for an error reply: ioredis and iovalkey set `name`, @redis/client has classes. */
const replyErrors: ReadonlySet<string> = new Set(["ReplyError", "SimpleError", "BlobError", "ErrorReply"]);

/**
 * Error replies of the wrong node: a node that was demoted, is still loading, has lost its primary, its replicas or its
 * Cluster, or serves other slots. The command was not carried out.
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

/**
 * Returns the first word of an error reply of the server, such as `READONLY`. Returns `undefined` if the error is not a
 * reply of the server.
 */
export function serverCodeOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const replied = replyErrors.has(error.name) || replyErrors.has(error.constructor.name);
  return replied ? /^[A-Z]+/.exec(error.message)?.[0] : undefined;
}

/** Returns whether the error is a reply of the wrong node, such as a node that has become a replica. */
export function isFromWrongNode(error: unknown): boolean {
  return fromWrongNode.has(serverCodeOf(error));
}

/**
 * Returns the innermost error, because client libraries wrap errors of the operating system in errors of the
 * connection.
 */
export function rootOf(error: unknown): unknown {
  if (error instanceof AggregateError && error.errors.length > 0) return rootOf(error.errors[0]);
  if (error instanceof Error && "lastNodeError" in error) return rootOf(error.lastNodeError);
  if (error instanceof NotSent) return rootOf(error.cause ?? new Error(error.message));
  return error;
}

/**
 * Returns the error without the command that a client library attaches to its errors, because the arguments of a
 * command are keys and envelopes of records. Redis quotes arguments in some error replies, so the message of an error
 * reply is cut off at the first quotation mark.
 */
export function bareError(error: unknown): Error {
  const root = rootOf(error);
  if (!(root instanceof Error)) return new Error("The client threw a value that is not an Error");
  const message = serverCodeOf(root) === undefined ? root.message : root.message.replace(/\s*['"`].*$/s, " …");
  const bare = new Error(message);
  return "code" in root && typeof root.code === "string" ? Object.assign(bare, { code: root.code }) : bare;
}
