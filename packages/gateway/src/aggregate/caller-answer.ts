import type { CallResponse } from "../relay/index.ts";

const ownHeaders = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
} as const;
const keptAliveEveryMs = 15_000;
const eventStart = Buffer.from("event: message\ndata: ");
const eventEnd = Buffer.from("\n\n");
const comment = Buffer.from(":\n\n");

/**
 * Writes the answer to one request of a caller: one JSON response, or a stream of events if an event is sent before the
 * response. Each text that is passed in is a whole JSON-RPC message.
 */
export class CallerAnswer {
  /** Fires when the caller has disconnected or the answer is complete. */
  readonly closed: AbortSignal;
  readonly #response: CallResponse;
  readonly #headers: Record<string, string>;
  #keepingAlive: NodeJS.Timeout | undefined;
  #waiting: (() => void)[] = [];
  #isEnded = false;

  constructor(response: CallResponse, callId: string) {
    this.#response = response;
    this.#headers = { ...ownHeaders, "x-request-id": callId };
    const closing = new AbortController();
    this.closed = closing.signal;
    const goOn = () => {
      for (const resolve of this.#waiting.splice(0)) resolve();
    };
    response.once("close", () => {
      clearInterval(this.#keepingAlive);
      closing.abort(new Error("The caller has left"));
      goOn();
    });
    response.on("drain", goOn);
    response.on("error", () => {});
    if (response.destroyed) closing.abort(new Error("The caller has left"));
  }

  /** True after the first event or the response was sent. */
  get hasBegun(): boolean {
    return this.#response.headersSent;
  }

  /** Begins a stream of events. */
  stream(): void {
    if (this.#response.headersSent || this.closed.aborted) return;
    this.#response.writeHead(200, {
      ...this.#headers,
      "content-type": "text/event-stream",
      "x-accel-buffering": "no",
    });
    this.#response.flushHeaders();
    this.#keepingAlive = setInterval(() => this.#response.write(comment), keptAliveEveryMs).unref();
  }

  /** Sends an event. Resolves when the connection to the caller can take the next event. */
  async send(text: string): Promise<void> {
    if (this.#isEnded || this.closed.aborted) return;
    this.stream();
    if (this.#response.write(Buffer.from(`event: message\ndata: ${text}\n\n`))) return;
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** Sends the response, and ends the answer. */
  respond(
    text: string | readonly Buffer[],
    { status = 200, headers = {} }: { status?: number; headers?: Record<string, string> } = {},
  ): void {
    if (this.#isEnded || this.closed.aborted) return;
    const pieces = typeof text === "string" ? [Buffer.from(text)] : text;
    if (this.#response.headersSent) {
      for (const piece of [eventStart, ...pieces, eventEnd]) this.#response.write(piece);
      this.end();
      return;
    }
    this.#isEnded = true;
    this.#response.writeHead(status, {
      ...this.#headers,
      ...headers,
      "content-type": "application/json",
      "content-length": String(pieces.reduce((sum, { length }) => sum + length, 0)),
    });
    // The pieces go out in one write without a copy.
    this.#response.cork();
    for (const piece of pieces) this.#response.write(piece);
    this.#response.end();
  }

  /** Answers without a body. */
  accept(status: 200 | 202 | 204 = 202): void {
    this.#isEnded = true;
    this.#response.writeHead(status, { ...this.#headers, ...(status === 204 ? {} : { "content-length": "0" }) });
    this.#response.end();
  }

  /** Ends a stream. */
  end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    clearInterval(this.#keepingAlive);
    this.#response.end();
  }

  /** Resolves when the caller has disconnected or the answer is complete. */
  async whenClosed(): Promise<void> {
    if (this.closed.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed.addEventListener("abort", () => resolve(), { once: true });
    await promise;
  }
}
