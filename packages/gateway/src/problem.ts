/** The status and the title of each code of the gateway. `docs/calls.md` describes each code. */
export const gatewayProblems = {
  ADDRESS_REFUSED: [502, "The address of the server is refused"],
  ANSWER_REFUSED: [502, "The answer of the server is refused"],
  ANSWER_TOO_LARGE: [502, "The answer of the server is too large"],
  AUDIT_UNAVAILABLE: [503, "The audit cannot be written"],
  BODY_MALFORMED: [400, "Malformed body"],
  BODY_TOO_LARGE: [413, "The body is too large"],
  CREDENTIAL_REFUSED: [502, "The server refused its credential"],
  EXPECT_REFUSED: [417, "Expectations are not supported"],
  GUESSES_REFUSED: [403, "Too many redacted answers"],
  HEADER_MISMATCH: [400, "A header and the body differ"],
  HOST_REFUSED: [421, "Unknown host name"],
  INTERNAL_ERROR: [500, "Internal error"],
  METHOD_REFUSED: [405, "The method is not relayed"],
  NOT_ALLOWED: [403, "Not allowed"],
  ORIGIN_REFUSED: [403, "Another origin"],
  PATH_REFUSED: [400, "The path is refused"],
  RATE_LIMITED: [429, "Too many requests"],
  REQUEST_MALFORMED: [400, "Malformed request"],
  ROUTE_NOT_FOUND: [404, "Not found"],
  SECRET_UNUSABLE: [502, "A secret cannot be used"],
  SERVER_NOT_FOUND: [404, "Not found"],
  SERVER_TIMEOUT: [504, "The server does not answer"],
  SERVER_UNAVAILABLE: [502, "The server cannot be reached"],
  SERVICE_BUSY: [503, "Too many calls"],
  SERVICE_CLOSING: [503, "Closing"],
  SERVICE_UNAVAILABLE: [503, "Temporarily unavailable"],
  SESSION_NOT_FOUND: [404, "Unknown session"],
  TOKEN_REFUSED: [401, "No valid token"],
  UPGRADE_REFUSED: [400, "Upgrades are not relayed"],
} as const satisfies Readonly<Record<string, readonly [status: number, title: string]>>;

/** The code of the reason why the gateway refuses or ends a call. */
export type GatewayProblemCode = keyof typeof gatewayProblems;

const retryAfterSeconds = 5;
const retryLater: readonly GatewayProblemCode[] = [
  "AUDIT_UNAVAILABLE",
  "SERVICE_BUSY",
  "SERVICE_CLOSING",
  "SERVICE_UNAVAILABLE",
];

/** The headers of each answer that the gateway itself sends, and does not relay from a server. */
const ownHeaders = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "content-type": "application/problem+json",
  "x-content-type-options": "nosniff",
} as const;

/**
 * A call that the gateway refuses or ends. The texts never contain what the caller or the server sent.
 *
 * @example
 * const onProblem = (problem: unknown) => {
 *   if (problem instanceof GatewayProblem) console.error(problem.code, problem.message, problem.operatorDetail);
 * };
 * onProblem(new GatewayProblem("SERVER_UNAVAILABLE", "The server could not be reached", { hint: "Repeat the call later." }));
 */
export class GatewayProblem extends Error {
  override readonly name = "GatewayProblem";
  /** The code of the kind of problem. */
  readonly code: GatewayProblemCode;
  /** What the caller can do next. */
  readonly hint: string;
  /** Further details for the operator, such as the address of a server. Callers must not read this. */
  readonly operatorDetail: string | undefined;
  /** For how many seconds the caller should wait; `undefined` if waiting does not help. */
  readonly waitSeconds: number | undefined;
  /** The id of the MCP message that is refused, if the answer has the id. */
  readonly messageId: string | number | undefined;

  /**
   * Makes a problem.
   *
   * @param detail what happened.
   * @param hint what to do next.
   */
  constructor(
    code: GatewayProblemCode,
    detail: string,
    {
      hint,
      waitSeconds,
      operatorDetail,
      messageId,
      cause,
    }: {
      readonly hint: string;
      readonly waitSeconds?: number;
      readonly operatorDetail?: string | undefined;
      readonly messageId?: string | number | undefined;
      readonly cause?: unknown;
    },
  ) {
    super(detail, cause === undefined ? undefined : { cause });
    this.code = code;
    this.hint = hint;
    this.operatorDetail = operatorDetail;
    this.messageId = messageId;
    this.waitSeconds = waitSeconds ?? (retryLater.includes(code) ? retryAfterSeconds : undefined);
  }

  /** The HTTP status of the answer. */
  get status(): number {
    return gatewayProblems[this.code][0];
  }

  /** True if the same call may succeed later, without a change of the call, the token or the server. */
  get isPassing(): boolean {
    return this.status >= 500 || this.status === 429;
  }
}

/** The response to which {@link answerProblem} writes. */
interface ProblemResponse {
  readonly req: { readonly method?: string | undefined };
  writeHead(status: number, headers: Record<string, string>): unknown;
  end(body?: string): unknown;
  refuse?(problem: GatewayProblem, callId: string): void;
}

/** The code that the MCP protocol of 2026-07-28 gives to headers that differ from the body. */
const headerMismatch = -32_020;

/** Returns the problem details (RFC 9457) of a problem. */
export function problemDetails({ code, message, hint, status }: GatewayProblem, callId: string) {
  const type = `docs/calls.md#${code.toLowerCase()}`;
  return { type, title: gatewayProblems[code][1], status, detail: message, code, hint, instance: callId };
}

/**
 * Answers a request with a problem: problem details with the id of the call. Headers that differ from the body are answered
 * as the MCP protocol demands: with an error of JSON-RPC, which has the problem details as its data.
 */
export function answerProblem(response: ProblemResponse, problem: GatewayProblem, callId: string): void {
  if (response.refuse !== undefined) {
    response.refuse(problem, callId);
    return;
  }
  const { code, message, waitSeconds, status, messageId } = problem;
  const details = problemDetails(problem, callId);
  const isRpcError = code === "HEADER_MISMATCH";
  const body = JSON.stringify(
    isRpcError ? { jsonrpc: "2.0", id: messageId, error: { code: headerMismatch, message, data: details } } : details,
  );
  response.writeHead(status, {
    ...ownHeaders,
    ...(isRpcError ? { "content-type": "application/json" } : {}),
    "content-length": String(Buffer.byteLength(body)),
    "x-request-id": callId,
    ...(waitSeconds === undefined ? {} : { "retry-after": String(waitSeconds) }),
    // No `resource_metadata`: a client would begin an OAuth discovery that the gateway does not answer.
    ...(status === 401 ? { "www-authenticate": 'Bearer realm="keyward"' } : {}),
    ...(status === 405 ? { allow: "GET, HEAD, POST, PUT, PATCH, DELETE" } : {}),
  });
  response.end(response.req.method === "HEAD" ? undefined : body);
}
