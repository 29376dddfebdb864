/** The reason why the gateway refuses an MCP message. */
export type McpRefusedCode =
  /** The body has more than 4 MiB. */
  | "BODY_TOO_LARGE"
  /** The body is not JSON in UTF-8. */
  | "BODY_INVALID"
  /** The body has more than 64 levels. */
  | "BODY_TOO_DEEP"
  /** The body is an array of messages. */
  | "BATCH_REFUSED"
  /** Two keys are equal, or differ in case only, where the method and the tool are read. */
  | "KEY_AMBIGUOUS"
  /** The body is JSON, but no message of JSON-RPC. */
  | "MESSAGE_INVALID"
  /** A header names another method or another tool than the body. */
  | "HEADER_MISMATCH"
  /** A server gave its session an id that is too long, or has other characters than visible ASCII. */
  | "SESSION_ID_INVALID";

/** Thrown for a refused MCP message. Its text contains nothing that was sent, so a caller and a log may read it. */
export class McpRefusedError extends Error {
  override readonly name = "McpRefusedError";
  /** The code of the reason. */
  readonly code: McpRefusedCode;
  /** The id of the refused message. `undefined` if it has no id, or was refused before it was read to its end. */
  readonly id: string | number | undefined;

  constructor(code: McpRefusedCode, message: string, id?: string | number) {
    super(message);
    this.code = code;
    this.id = id;
  }
}
