import { PassThrough, Readable } from "node:stream";
import type { GatewayProblem } from "../problem.ts";
import type { Needles } from "../redaction/needles.ts";
import { Redactor } from "../redaction/redactor.ts";
import type { CallRequest, CallResponse } from "./call-exchange.ts";

/** A request that the gateway itself sends through the relay on behalf of a caller. */
export interface InProcessCall {
  readonly method: "GET" | "POST" | "DELETE";
  /** The path, such as `/s/github/mcp`. */
  readonly url: string;
  /** The headers of the request. The names are in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
  /** The address of the connection of the caller. */
  readonly remoteAddress: string | undefined;
}

/** The status and the headers of an answer of the relay. */
export interface AnswerStart {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
}

/** Thrown when the relay refuses or ends a request of the gateway itself. */
export class RefusedByRelay extends Error {
  override readonly name = "RefusedByRelay";
  readonly problem: GatewayProblem;
  /** The id of the call in the audit. */
  readonly callId: string;

  constructor(problem: GatewayProblem, callId: string) {
    super(problem.message, { cause: problem });
    this.problem = problem;
    this.callId = callId;
  }
}

/** Converts a call to a request that the relay can read like a request of `node:http`. */
export function inProcessRequest({ method, url, headers, body, remoteAddress }: InProcessCall): CallRequest {
  const all = body === undefined ? headers : { ...headers, "content-length": String(body.length) };
  const bytes = Readable.from(body === undefined ? [] : [body], { objectMode: false });
  // Like a request of `node:http`, which ends without an event if it has no listener.
  bytes.on("error", () => {});
  return Object.assign(bytes, {
    ...{ method, url, headers: all, rawHeaders: Object.entries(all).flat(), socket: { remoteAddress } },
    complete: true,
  });
}

/** The answer of the relay to a request of this process. Reading the stream reads the body. */
export class InProcessAnswer extends PassThrough implements CallResponse {
  readonly req: CallResponse["req"];
  /** Resolves when the answer begins. Rejects with {@link RefusedByRelay} if the call is refused. */
  readonly started: Promise<AnswerStart>;
  headersSent = false;
  shouldKeepAlive = true;
  readonly #resolve: (start: AnswerStart) => void;
  readonly #reject: (reason: unknown) => void;
  #needles: (() => Needles) | undefined;
  #found: (hits: number) => void = () => {};

  constructor(request: CallResponse["req"]) {
    super({ highWaterMark: 65_536 });
    this.req = request;
    const { promise, resolve, reject } = Promise.withResolvers<AnswerStart>();
    this.started = promise;
    this.#resolve = resolve;
    this.#reject = reject;
    // If the reader has cancelled the answer, nobody waits for this promise.
    promise.catch(() => {});
    this.once("close", () => reject(new Error("The call ended before its answer began")));
    this.on("error", () => {});
  }

  writeHead(status: number, headers: Record<string, string>): void {
    this.headersSent = true;
    this.#resolve({ status, headers });
  }

  flushHeaders(): void {}

  refuse(problem: GatewayProblem, callId: string): void {
    this.headersSent = true;
    this.#reject(new RefusedByRelay(problem, callId));
    this.end();
    this.resume();
  }

  searchFor(needles: () => Needles, found: (hits: number) => void): void {
    this.#needles = needles;
    this.#found = found;
  }

  /** True from the time at which the server was called: the values of the server are known. */
  get canSearch(): boolean {
    return this.#needles !== undefined;
  }

  /** Replaces values of the server's secrets in a text that was made from the answer. */
  redacted(text: string): string {
    const needles = this.#needles?.();
    if (needles === undefined || needles.isEmpty) return text;
    const redactor = new Redactor(needles, { framing: "bytes" });
    const pieces = [...redactor.write(Buffer.from(text)), ...redactor.end()];
    if (redactor.hits > 0) this.#found(redactor.hits);
    return Buffer.concat(pieces).toString();
  }
}
