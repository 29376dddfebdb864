import type { IncomingHttpHeaders } from "node:http";
import type { Transform } from "node:stream";
import type { Dispatcher } from "undici";
import { answerProblem, GatewayProblem } from "../problem.ts";
import type { Needles } from "../redaction/needles.ts";
import { Redactor, redactText } from "../redaction/redactor.ts";
import { type AnswerHead, addedHeaders, answerRefused, readAnswerHead } from "./answer-headers.ts";
import type { CallResponse } from "./call-exchange.ts";
import { decoderOf } from "./decoding.ts";
import { problemOfDialing } from "./dialing-problem.ts";
import { sessionHeader } from "./request-headers.ts";
import { problemOf } from "./service-problem.ts";

/** How an answer ended. */
export interface AnswerEnd {
  /** The status that the caller got. `undefined` if the caller disconnected before the answer. */
  readonly status: number | undefined;
  /** Why the gateway refused or ended the call; `undefined` if the server's answer was relayed. */
  readonly problem: GatewayProblem | undefined;
  /** The bytes of the body that were sent to the caller. */
  readonly answerBytes: number;
  /** How many values were replaced. */
  readonly redactions: number;
}

/** The options of {@link RelayedAnswer}. */
export interface RelayedAnswerOptions {
  readonly callId: string;
  readonly response: CallResponse;
  /** Returns the current needles: a new object if another call has used a new value. */
  readonly needles: () => Needles;
  /** The headers of the answer that are relayed because the settings of the server list them. In lower case. */
  readonly relayHeaders: readonly string[];
  /** Replaces the session id of an MCP server by an id for the caller. `undefined` for a server of another kind. */
  readonly sealSession: ((id: string) => string) | undefined;
  /** The largest body of an answer, in bytes, after decoding. */
  readonly maxAnswerBytes: number;
  /** Called when a stream of events begins. */
  readonly streamBegan: () => void;
  /** Records the call. The last bytes of the answer are sent when `settle` has resolved. Must be called once. */
  readonly settle: (end: AnswerEnd) => Promise<void>;
}

/** An answer of at most this size is sent after the call is recorded. */
const heldBytes = 128 * 1_024;
const keptAliveEveryMs = 15_000;
const lineFeed = 10;
const carriageReturn = 13;

/**
 * Relays the answer of a server to the caller as it arrives: decodes it, replaces values, and waits for a slow caller. A small
 * answer of known length is sent after the call is recorded. Of any other answer, only the end waits for the record.
 */
export class RelayedAnswer implements Dispatcher.DispatchHandler {
  /** Resolves when the answer has ended and was recorded. */
  readonly ended: Promise<void>;
  readonly #options: RelayedAnswerOptions;
  readonly #resolve: () => void;
  #controller: Dispatcher.DispatchController | undefined;
  #redactor: Redactor | undefined;
  #needles: Needles | undefined;
  /** The hits of former redactors. */
  #formerHits = 0;
  #lastByte: number | undefined;
  #decoder: Transform | undefined;
  #head: AnswerHead | undefined;
  #status = 0;
  #headers: Record<string, string> = {};
  #held: Uint8Array[] | undefined;
  #heldBytes = 0;
  #decodedBytes = 0;
  #answerBytes = 0;
  #headerHits = 0;
  #isEnding = false;
  #isWaitingForCaller = false;
  #endsAtBoundary = false;
  #lastBytes: readonly number[] = [lineFeed, lineFeed];
  #progressAtMs = performance.now();
  #writtenAtMs = performance.now();

  constructor(options: RelayedAnswerOptions) {
    this.#options = options;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.ended = promise;
    this.#resolve = resolve;
    const { response } = options;
    response.on("drain", () => this.#resume());
    response.once("close", () => {
      if (!this.#isEnding) void this.#finish(undefined, undefined);
    });
    // Without a listener, an error of the connection to a caller that has disconnected would end the process.
    response.on("error", () => {});
  }

  /** True after a connection to the server was made, and the request is being sent. */
  get isSent(): boolean {
    return this.#controller !== undefined;
  }

  /** True if the answer is a stream of events and its headers have arrived. */
  get isEventStream(): boolean {
    return this.#head?.isEventStream === true;
  }

  /** Returns for how long the server has sent nothing, in milliseconds. Returns 0 while the gateway waits for a slow caller. */
  silentMs(nowMs: number): number {
    return this.#isWaitingForCaller || this.#isEnding ? 0 : nowMs - this.#progressAtMs;
  }

  /** Restarts the time of {@link silentMs}, because the caller has sent a part of the request's body. */
  progressed(): void {
    this.#progressAtMs = performance.now();
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#isEnding) controller.abort(new Error("The caller has left"));
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: IncomingHttpHeaders): void {
    this.#controller = controller;
    this.#progressAtMs = performance.now();
    if (status < 200 || this.#isEnding) return;
    this.#attempt(() => this.#begin(status, headers));
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#progressAtMs = performance.now();
    if (this.#isEnding) return;
    const decoder = this.#decoderOfBody();
    if (decoder === undefined) {
      this.#attempt(() => this.#take(chunk));
    } else if (!decoder.write(chunk)) {
      controller.pause();
      decoder.once("drain", () => controller.resume());
    }
  }

  onResponseEnd(): void {
    if (this.#isEnding) return;
    if (this.#decoder === undefined) void this.#complete();
    else this.#decoder.end();
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    if (!this.#isEnding) this.fail(problemOfDialing(error));
  }

  /** Ends the call with a problem. A caller that has the beginning of the answer sees that the answer is cut off. */
  fail(problem: GatewayProblem): void {
    if (!this.#isEnding) void this.#finish(this.#options.response.headersSent ? this.#status : problem.status, problem);
  }

  /**
   * Ends a stream of events between two events, because the token may no longer be used or the process ends.
   *
   * @param mayWait false if the stream must end now, also within an event.
   */
  endStream(problem: GatewayProblem, mayWait: boolean): void {
    if (this.#isEnding) return;
    if (this.#head === undefined || !this.#isBetweenEvents()) {
      if (mayWait) this.#endsAtBoundary = true;
      else this.fail(problem);
      return;
    }
    void this.#finish(this.#status, problem, true);
  }

  /** Sends a comment if the stream of events is silent, so that proxies keep the connection. */
  keepAlive(nowMs: number): void {
    if (!this.isEventStream || this.#isEnding || this.#isWaitingForCaller) return;
    if (nowMs - this.#writtenAtMs >= keptAliveEveryMs && this.#isBetweenEvents()) this.#send([Buffer.from(":\n\n")]);
  }

  #begin(status: number, headers: IncomingHttpHeaders): void {
    const { response, relayHeaders, sealSession } = this.#options;
    const head = readAnswerHead(status, headers, relayHeaders);
    const needles = this.#options.needles();
    this.#needles = needles;
    this.#head = head;
    this.#status = status;
    this.#redactor = new Redactor(needles, { framing: head.isEventStream ? "lines" : "bytes" });
    for (const [name, value] of Object.entries(head.headers)) {
      const { text, hits } = redactText(needles, value);
      this.#headers[name] = text;
      this.#headerHits += hits;
    }
    const session = headers[sessionHeader];
    if (typeof session === "string" && sealSession !== undefined) {
      const { hits } = redactText(needles, session);
      this.#headerHits += hits;
      // The caller sees the id, and the server needs the id unchanged.
      if (hits > 0) throw answerRefused("The id of the session contains the value of a secret");
      this.#headers[sessionHeader] = sealSession(session);
    }
    Object.assign(this.#headers, addedHeaders, { "x-request-id": this.#options.callId });
    if (head.isEventStream) this.#headers["x-accel-buffering"] = "no";
    const isHeld = head.length !== undefined && head.length <= heldBytes && !head.isEventStream;
    const hasNoBody = response.req.method === "HEAD" || status === 204 || status === 304;
    if (isHeld || hasNoBody) this.#held = [];
    else this.#writeHead();
    if (head.isEventStream) this.#options.streamBegan();
  }

  /** Returns the decoder of the body, created with the first byte: without any byte, a decoder would fail. */
  #decoderOfBody(): Transform | undefined {
    const encoding = this.#head?.encoding;
    if (encoding === undefined || this.#decoder !== undefined) return this.#decoder;
    const decoder = decoderOf(encoding);
    this.#decoder = decoder;
    decoder.on("data", (chunk: Buffer) => {
      if (!this.#isEnding) this.#attempt(() => this.#take(chunk));
    });
    decoder.once("end", () => {
      if (!this.#isEnding) void this.#complete();
    });
    decoder.once("error", (cause) => this.fail(undecodable(cause)));
    return decoder;
  }

  #take(chunk: Uint8Array): void {
    this.#decodedBytes += chunk.length;
    if (this.#decodedBytes > this.#options.maxAnswerBytes) throw tooLarge();
    const pieces = this.#redacted(chunk);
    this.#lastByte = chunk.at(-1) ?? this.#lastByte;
    if (pieces.length === 0) return;
    if (this.#held === undefined) {
      this.#send(pieces);
      return;
    }
    this.#held.push(...pieces);
    this.#heldBytes += lengthOf(pieces);
    if (this.#heldBytes <= heldBytes) return;
    // A compressed answer is larger than its length says.
    const held = this.#held;
    this.#held = undefined;
    this.#writeHead();
    this.#send(held);
  }

  /** Redacts a chunk. In a stream of events, new values are searched for from the next line on. */
  #redacted(chunk: Uint8Array): Uint8Array[] {
    const needles = this.isEventStream ? this.#options.needles() : this.#needles;
    const from = needles === this.#needles ? undefined : this.#lineStart(chunk);
    if (needles === undefined || from === undefined) return this.#redactor?.write(chunk) ?? [];
    // After a whole line, nothing is held back.
    const pieces = [...(this.#redactor?.write(chunk.subarray(0, from)) ?? []), ...(this.#redactor?.end() ?? [])];
    this.#needles = needles;
    this.#formerHits += this.#redactor?.hits ?? 0;
    this.#redactor = new Redactor(needles, { framing: "lines" });
    return [...pieces, ...this.#redactor.write(chunk.subarray(from))];
  }

  /** The index of the first byte of a chunk that begins a line; `undefined` if the chunk has no line end, and none is before it. */
  #lineStart(chunk: Uint8Array): number | undefined {
    if (isLineEnd(this.#lastByte)) return 0;
    const index = chunk.findIndex(isLineEnd);
    return index === -1 ? undefined : index + 1;
  }

  #writeHead(): void {
    this.#options.response.writeHead(this.#status, this.#headers);
    if (this.isEventStream) this.#options.response.flushHeaders();
  }

  #send(pieces: readonly Uint8Array[]): void {
    this.#answerBytes += lengthOf(pieces);
    this.#writtenAtMs = performance.now();
    if (this.isEventStream) {
      for (const piece of pieces) this.#lastBytes = [...this.#lastBytes, ...piece.subarray(-3)].slice(-3);
    }
    if (!this.#write(pieces)) {
      this.#isWaitingForCaller = true;
      if (this.#decoder === undefined) this.#controller?.pause();
      else this.#decoder.pause();
    }
    if (this.#endsAtBoundary && this.#isBetweenEvents()) void this.#finish(this.#status, undefined, true);
  }

  /** Writes pieces without a copy. Returns false if the caller is slow. */
  #write(pieces: readonly Uint8Array[]): boolean {
    let isTaken = true;
    // Not corked: a corked response does not tell that the caller is slow.
    for (const piece of pieces) isTaken = this.#options.response.write(piece) && isTaken;
    return isTaken;
  }

  #resume(): void {
    if (!this.#isWaitingForCaller) return;
    this.#isWaitingForCaller = false;
    this.#progressAtMs = performance.now();
    if (this.#decoder === undefined) this.#controller?.resume();
    else this.#decoder.resume();
  }

  #isBetweenEvents(): boolean {
    const [third, second, last] = [this.#lastBytes.at(-3), this.#lastBytes.at(-2), this.#lastBytes.at(-1)];
    if (last === carriageReturn) return second === carriageReturn;
    if (last !== lineFeed) return false;
    return second === lineFeed || (second === carriageReturn && third === lineFeed);
  }

  /** Sends the rest of the answer, and ends it when the call is recorded. */
  async #complete(): Promise<void> {
    this.#isEnding = true;
    const { response } = this.#options;
    try {
      const rest = this.#redactor?.end() ?? [];
      if (this.#held === undefined) {
        this.#answerBytes += lengthOf(rest);
        this.#write(rest);
        await this.#settle(this.#status, undefined);
        response.end();
      } else {
        const pieces = [...this.#held, ...rest];
        this.#answerBytes = lengthOf(pieces);
        await this.#settle(this.#status, undefined);
        const hasLength = response.req.method !== "HEAD" && this.#status !== 204 && this.#status !== 304;
        response.writeHead(this.#status, {
          ...this.#headers,
          ...(hasLength ? { "content-length": String(this.#answerBytes) } : {}),
        });
        // The pieces go out in one write without a copy.
        response.cork();
        for (const piece of pieces) response.write(piece);
        response.end();
      }
    } catch (error) {
      this.#refuse(problemOf(error));
    } finally {
      this.#resolve();
    }
  }

  /** Ends the call before the server's answer has ended. */
  async #finish(status: number | undefined, problem: GatewayProblem | undefined, isWhole = false): Promise<void> {
    this.#isEnding = true;
    this.#controller?.abort(problem ?? new Error("The call has ended"));
    this.#decoder?.destroy();
    const { response } = this.#options;
    try {
      await this.#settle(status, problem);
      if (isWhole) response.end();
      else this.#refuse(problem);
    } catch (error) {
      this.#refuse(error instanceof GatewayProblem ? error : problem);
    } finally {
      this.#resolve();
    }
  }

  #refuse(problem: GatewayProblem | undefined): void {
    const { response, callId } = this.#options;
    if (response.headersSent || problem === undefined || response.destroyed) {
      response.destroy();
      return;
    }
    answerProblem(response, problem, callId);
  }

  async #settle(status: number | undefined, problem: GatewayProblem | undefined): Promise<void> {
    const redactions = this.#headerHits + this.#formerHits + (this.#redactor?.hits ?? 0);
    await this.#options.settle({ status, problem, answerBytes: this.#answerBytes, redactions });
  }

  #attempt(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.fail(problemOf(error));
    }
  }
}

function isLineEnd(byte: number | undefined): boolean {
  return byte === lineFeed || byte === carriageReturn;
}

function lengthOf(pieces: readonly Uint8Array[]): number {
  return pieces.reduce((sum, { length }) => sum + length, 0);
}

function tooLarge(): GatewayProblem {
  return new GatewayProblem("ANSWER_TOO_LARGE", "The answer of the server is larger than the gateway relays", {
    hint: "Ask the server for a part of the answer, if it has pages. The call may have had an effect at the server.",
  });
}

function undecodable(cause: unknown): GatewayProblem {
  return new GatewayProblem("ANSWER_REFUSED", "The answer of the server cannot be decoded", {
    hint: "Repeat the call. If the error stays, ask the operator of the server: the body is not of the encoding that its headers name.",
    cause,
  });
}
