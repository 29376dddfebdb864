/** What clients call an error that the server replied with: ioredis and iovalkey by its name, @redis/client by its class. */
const replyErrors: ReadonlySet<string> = new Set(["ReplyError", "SimpleError", "BlobError", "ErrorReply"]);

/** The word that a reply of the server begins with when it is an error; `undefined` for an error of another kind. */
export function serverCodeOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const replied = replyErrors.has(error.name) || replyErrors.has(error.constructor.name);
  return replied ? /^[A-Z]+/.exec(error.message)?.[0] : undefined;
}

/**
 * An error without what clients attach to theirs: the command with its arguments, which are keys and envelopes. Servers
 * quote arguments in some of their replies, so those end before the first quotation mark.
 */
export function bareError(error: unknown): Error {
  if (!(error instanceof Error)) return new Error("The client failed with something that is no error");
  const message = serverCodeOf(error) === undefined ? error.message : error.message.replace(/\s*['"`].*$/s, " …");
  const bare = new Error(message);
  return "code" in error && typeof error.code === "string" ? Object.assign(bare, { code: error.code }) : bare;
}
