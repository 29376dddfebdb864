import { randomBytes } from "node:crypto";
import type { CallOrigin } from "./call-origin.ts";
import type { CallerAnswer } from "./caller-answer.ts";
import type { Connections } from "./connections.ts";
import type { JsonObject } from "./json.ts";
import type { ListKind } from "./listed-items.ts";
import { type Asking, askingMessage, codes, type MessageId, type Outcome } from "./messages.ts";
import type { WorkspaceLists } from "./workspace-lists.ts";

/** A session of a caller of the legacy protocol. */
export class CallerSession {
  readonly id = randomBytes(32).toString("base64url");
  readonly connections: Connections;
  /** The lists that the caller sees. */
  readonly lists: WorkspaceLists;
  /** The capabilities of the caller that servers may use. */
  readonly capabilities: JsonObject;
  logLevel: string | undefined;
  usedMs = performance.now();
  readonly #questions = new Map<MessageId, (outcome: Outcome) => void>();
  readonly #running = new Map<MessageId, AbortController>();
  /** For each list, the version that the caller has read or was last notified of. */
  readonly #read = new Map<ListKind, number>();
  /** The notifications of list changes that the caller missed while it had no open stream. */
  readonly #missed = new Set<string>();
  readonly #serverStreams = new Set<string>();
  readonly #ended = new AbortController();
  #stream: CallerAnswer | undefined;
  #lastQuestion = 0;

  constructor({ connections, capabilities, lists }: Pick<CallerSession, "connections" | "capabilities" | "lists">) {
    this.connections = connections;
    this.capabilities = capabilities;
    this.lists = lists;
  }

  /** True while the caller has an open stream or a request in progress. */
  get isBusy(): boolean {
    return this.#stream !== undefined || this.#running.size > 0;
  }

  /** True while the caller has an open stream for messages that belong to no request. */
  get isListening(): boolean {
    return this.#stream !== undefined;
  }

  /** Uses `answer` as the stream for messages that belong to no request. Ends the previous stream. */
  async listen(answer: CallerAnswer): Promise<void> {
    this.#stream?.end();
    this.#stream = answer;
    answer.stream();
    for (const method of this.#missed) void answer.send(JSON.stringify(askingMessage({ method, params: undefined })));
    this.#missed.clear();
    await answer.whenClosed();
    if (this.#stream === answer) this.#stream = undefined;
  }

  /** Notes that the caller has read a version of a list. */
  noteRead(kind: ListKind, version: number): void {
    this.#read.set(kind, version);
  }

  /** Notifies the caller of a change of a list that it has read. Without an open stream, waits for the next one. */
  tell(kind: ListKind, version: number, method: string): void {
    const read = this.#read.get(kind);
    if (read === undefined || read === version) return;
    this.#read.set(kind, version);
    if (this.#stream === undefined) this.#missed.add(method);
    else void this.#stream.send(JSON.stringify(askingMessage({ method, params: undefined })));
  }

  /** Sends a JSON message to the caller on its open stream. Does nothing if no stream is open. */
  async send(text: string): Promise<void> {
    await this.#stream?.send(text);
  }

  /** The number of open streams of servers. */
  get serverStreams(): number {
    return this.#serverStreams.size;
  }

  /** Reads the stream of a server in the background, unless this session already reads it. */
  listenTo(slug: string, run: (signal: AbortSignal) => Promise<void>): void {
    if (this.#serverStreams.has(slug) || this.#ended.signal.aborted) return;
    this.#serverStreams.add(slug);
    void run(this.#ended.signal).finally(() => this.#serverStreams.delete(slug));
  }

  /** Runs a request that the caller can cancel by its id. */
  async during<Result>(
    id: MessageId,
    answer: CallerAnswer,
    run: (signal: AbortSignal) => Promise<Result>,
  ): Promise<Result> {
    const cancelling = new AbortController();
    this.#running.set(id, cancelling);
    try {
      return await run(AbortSignal.any([cancelling.signal, answer.closed]));
    } finally {
      if (this.#running.get(id) === cancelling) this.#running.delete(id);
      this.usedMs = performance.now();
    }
  }

  /** Cancels a request of the caller. */
  cancel(id: MessageId): void {
    this.#running.get(id)?.abort(new Error("The caller has cancelled the request"));
  }

  /** Sends a request to the caller, and waits for its response. */
  async ask(asking: Asking, answer: CallerAnswer | undefined, signal: AbortSignal): Promise<Outcome> {
    const to = answer ?? this.#stream;
    if (to === undefined) return { error: { code: codes.server, message: "The caller has no open stream" } };
    const id = `keyward-${++this.#lastQuestion}`;
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    const left = () => resolve({ error: { code: codes.server, message: "The caller has left" } });
    this.#questions.set(id, resolve);
    signal.addEventListener("abort", left, { once: true });
    to.closed.addEventListener("abort", left, { once: true });
    try {
      if (signal.aborted || to.closed.aborted) left();
      else void to.send(JSON.stringify(askingMessage(asking, id)));
      return await promise;
    } finally {
      this.#questions.delete(id);
      signal.removeEventListener("abort", left);
      to.closed.removeEventListener("abort", left);
    }
  }

  /** Passes on the caller's response to the {@link CallerSession.ask} that waits for it. */
  answered(id: MessageId, outcome: Outcome): void {
    this.#questions.get(id)?.(outcome);
  }

  /** Ends the caller's stream, cancels its requests, and ends its sessions at servers. */
  async close(origin: CallOrigin): Promise<void> {
    this.#ended.abort();
    for (const running of this.#running.values()) running.abort(new Error("The session has ended"));
    this.#stream?.end();
    this.#stream = undefined;
    await this.connections.close(origin);
  }

  /** Ends the streams of the caller and of servers. */
  endStreams(): void {
    this.#ended.abort();
    this.#stream?.end();
  }
}
