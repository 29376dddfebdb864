import { setTimeout as sleep } from "node:timers/promises";
import { type AnswerStart, type InProcessAnswer, RefusedByRelay, type Relay } from "../relay/index.ts";
import { eventsOf, jsonOf, type MessageMemory, UnreadableAnswerError } from "./answer-reader.ts";
import type { CallOrigin } from "./call-origin.ts";
import { arrayIn, type Json, type JsonObject, objectIn, textIn } from "./json.ts";
import {
  type Asking,
  askingMessage,
  codes,
  type Era,
  legacyVersions,
  logLevels,
  type Message,
  type MessageId,
  messageOf,
  metaKeys,
  modernVersion,
  newestLegacyVersion,
  type Outcome,
  RpcFailure,
  responseMessage,
  withMeta,
} from "./messages.ts";
import type { ServerEras, ServerProfile } from "./server-eras.ts";

/** Handlers for the messages that a server sends before its response. */
export interface ServerMessages {
  /** Handles a notification. The next message is read after the promise has resolved. */
  notified(asking: Asking): Promise<void> | void;
  /** Answers a request of the server. */
  asked(asking: Asking): Promise<Outcome>;
}

/** The options of a {@link ServerConnection}. */
export interface ServerConnectionOptions {
  readonly relay: Pick<Relay, "call">;
  readonly slug: string;
  /** The name of the server in `eras`, which changes when an admin changes the server. */
  readonly identity: string;
  readonly eras: ServerEras;
  /** The memory of the messages of all servers. */
  readonly memory: MessageMemory;
  /** The capabilities of the caller that the server may use. */
  readonly capabilities: JsonObject;
  /** The protocol of the caller. The connection tries this protocol first. */
  readonly prefers: Era;
  /** How long the server may take to answer `server/discover` and `initialize`, in milliseconds. Default: 30,000. */
  readonly openedWithinMs?: number | undefined;
  /** Cancels the opening of the connection. Default: only `close` cancels it. */
  readonly signal?: AbortSignal | undefined;
}

/** A request to a server. */
export interface ServerRequest extends Asking {
  readonly origin: CallOrigin;
  readonly signal: AbortSignal;
  /** Further headers of the request. */
  readonly headers?: Readonly<Record<string, string>> | undefined;
}

/** A server that has answered `initialize` or `server/discover`. */
interface Opened extends ServerProfile {
  /** The id of the session; `undefined` for a server without sessions. */
  readonly session: string | undefined;
  readonly version: string;
}

const clientInfo = { name: "keyward-gateway", version: "1" };
/** For how long a server may keep a stream open after the response, in milliseconds. */
const lingerMs = 2_000;
/** How long to wait before a stream is opened again, in milliseconds. Doubles after each stream that ended soon. */
const againMs = 1_000;
const longestAgainMs = 60_000;
const soonMs = 10_000;
/** After this many short streams in a row, the gateway stops. The next call of the caller opens the stream again. */
const maxShortStreams = 10;
/** How many requests of a server may be answered at once, and wait for the caller at once. */
const maxReplies = 4;
const maxQuestions = 10;
/** How many requests of a server are answered at once after a pause, and how long each further one waits. */
const replyBurst = 50;
const replyEveryMs = 50;
/** How long a server may take to accept an answer, or the end of its session. */
const acceptedWithinMs = 10_000;
const pathOf = (slug: string) => `/s/${slug}/mcp`;
const nothingAsked: ServerMessages = {
  notified: () => {},
  asked: async () => ({ error: { code: codes.methodNotFound, message: "The gateway answers no requests here" } }),
};

/**
 * A client of one server. Uses the server's protocol, opens a session for the first request, and opens a new session if the
 * server has ended it. Sends each request through the relay, like a request that a caller sends to the server.
 */
export class ServerConnection {
  readonly #options: ServerConnectionOptions;
  #opened: Opened | undefined;
  #opening: Promise<Opened> | undefined;
  #lastId = 0;
  #logLevel: { readonly of: Opened; readonly level: string } | undefined;
  #lastAnswer: InProcessAnswer | undefined;
  /** The last answer before that with which texts can be searched. */
  #lastSearching: InProcessAnswer | undefined;
  readonly #replies = new Set<Promise<void>>();
  #questions = 0;
  #nextReplyMs = 0;
  #isClosing = false;
  readonly #ended = new AbortController();

  constructor(options: ServerConnectionOptions) {
    this.#options = options;
  }

  /** True after the connection was opened, or while it is being opened. */
  get isOpen(): boolean {
    return this.#opened !== undefined || this.#opening !== undefined;
  }

  /** True while the server has a session for this connection. */
  get hasSession(): boolean {
    return this.#opened?.session !== undefined;
  }

  /** Opens the connection, and returns the server's profile. @throws like {@link ServerConnection.request}. */
  async open(origin: CallOrigin): Promise<ServerProfile> {
    return await this.#open(origin);
  }

  /**
   * Sends a request, and resolves to its result or error.
   *
   * @throws RefusedByRelay if the relay refuses the call or cannot reach the server; `RpcFailure`, `UnreadableAnswerError` if
   * the server answers with something else than MCP.
   */
  async request(request: ServerRequest, messages: ServerMessages = nothingAsked): Promise<Outcome> {
    const opened = await this.#open(request.origin);
    const first = await this.#send(opened, request, messages);
    if (first !== "expired") return first;
    if (this.#opened === opened) this.#opened = undefined;
    const again = await this.#send(await this.#open(request.origin), request, messages);
    if (again !== "expired") return again;
    throw new RpcFailure({
      code: codes.server,
      message: "The server did not recognize the session that it had just opened",
    });
  }

  /** Replaces values of the server's secrets in a text that the gateway made from its answers. */
  redacted(text: string): string {
    const answer = this.#lastAnswer?.canSearch === true ? this.#lastAnswer : this.#lastSearching;
    return answer?.redacted(text) ?? text;
  }

  /** Sends a notification in the session of this connection, if there is one. */
  async notify(asking: Asking, origin: CallOrigin): Promise<void> {
    const opened = this.#opened;
    if (opened === undefined || opened.era !== "legacy") return;
    const answer = this.#post(opened, askingMessage(asking), origin, {});
    await begun(answer, AbortSignal.timeout(acceptedWithinMs));
    leave(answer);
  }

  /** Asks a server with sessions to send log messages of a level and above, unless it was already asked. */
  async wantLogs(level: string, { origin, signal }: Pick<ServerRequest, "origin" | "signal">): Promise<void> {
    const opened = this.#opened;
    if (opened?.era !== "legacy" || opened.capabilities["logging"] === undefined) return;
    const known = this.#logLevel?.of === opened ? logLevels.indexOf(this.#logLevel.level) : logLevels.length;
    if (logLevels.indexOf(level) >= known) return;
    this.#logLevel = { of: opened, level };
    await this.request({ method: "logging/setLevel", params: { level }, origin, signal });
  }

  /**
   * Reads the messages of the session that belong to no request. Resolves when the signal fires, if the server has no stream
   * for them, or if the stream cannot be kept open.
   */
  async listen(messages: ServerMessages, { origin, signal }: Pick<ServerRequest, "origin" | "signal">): Promise<void> {
    for (let short = 0; short < maxShortStreams && !signal.aborted; ) {
      const opened = this.#opened;
      if (opened?.session === undefined) return;
      const beganMs = performance.now();
      const answer = this.#options.relay.call({
        ...{ method: "GET", url: pathOf(this.#options.slug), body: undefined, remoteAddress: origin.remoteAddress },
        headers: { ...origin.headers, accept: "text/event-stream", ...headersOf(opened) },
      });
      const stop = () => answer.destroy();
      signal.addEventListener("abort", stop, { once: true });
      try {
        const { status, headers } = await begun(answer, signal);
        if (status !== 200 || !isEventStream(headers)) return;
        for await (const event of eventsOf(answer, this.#options.memory)) {
          await this.#take(messageOf(event), messages, opened, origin);
        }
      } catch (error) {
        // Other errors are ignored here: the next attempt or the next request reports them.
        if (error instanceof RefusedByRelay && !error.problem.isPassing) return;
      } finally {
        signal.removeEventListener("abort", stop);
        answer.destroy();
      }
      short = performance.now() - beganMs < soonMs ? short + 1 : 0;
      const pauseMs = Math.min(longestAgainMs, againMs * 2 ** Math.max(0, short - 1));
      await sleep(pauseMs, undefined, { signal }).catch(() => {});
    }
  }

  /** Ends the session at the server. */
  async close(origin: CallOrigin): Promise<void> {
    this.#isClosing = true;
    // A server whose answer is not awaited would keep its session.
    const opening = this.#opening?.catch(() => {});
    if (opening !== undefined) await Promise.race([opening, sleep(lingerMs, undefined, { ref: false })]);
    this.#ended.abort(new Error("The session of the caller has ended"));
    await opening;
    const opened = this.#opened;
    this.#opened = undefined;
    if (opened?.session === undefined) return;
    const answer = this.#options.relay.call({
      method: "DELETE",
      url: pathOf(this.#options.slug),
      headers: { ...origin.headers, ...headersOf(opened) },
      body: undefined,
      remoteAddress: origin.remoteAddress,
    });
    await begun(answer, AbortSignal.timeout(acceptedWithinMs));
    leave(answer);
  }

  async #open(origin: CallOrigin): Promise<Opened> {
    if (this.#isClosing) throw new RpcFailure({ code: codes.server, message: "The session of the caller has ended" });
    if (this.#opened !== undefined) return this.#opened;
    this.#opening ??= this.#begin(origin).finally(() => {
      this.#opening = undefined;
    });
    return await this.#opening;
  }

  async #begin(origin: CallOrigin): Promise<Opened> {
    const { eras, identity, prefers, openedWithinMs = 30_000, signal: ended } = this.#options;
    const signals = [this.#ended.signal, AbortSignal.timeout(openedWithinMs)];
    const signal = AbortSignal.any(ended === undefined ? signals : [...signals, ended]);
    const known = eras.of(identity, prefers);
    const opened =
      known?.era === "modern"
        ? asModern(known)
        : prefers === "modern" && known === undefined
          ? ((await this.#discover(origin, signal)) ?? (await this.#initialize(origin, signal)))
          : await this.#initializeOrDiscover(origin, signal);
    eras.note(identity, prefers, opened);
    this.#opened = opened;
    return opened;
  }

  async #initializeOrDiscover(origin: CallOrigin, signal: AbortSignal): Promise<Opened> {
    try {
      return await this.#initialize(origin, signal);
    } catch (error) {
      if (!(error instanceof RpcFailure || error instanceof UnreadableAnswerError)) throw error;
      const modern = await this.#discover(origin, signal);
      if (modern === undefined) throw error;
      return modern;
    }
  }

  /** Asks a server for its modern profile. Returns `undefined` if the server does not support the modern protocol. */
  async #discover(origin: CallOrigin, signal: AbortSignal): Promise<Opened | undefined> {
    const asked = { era: "modern", session: undefined, version: modernVersion, capabilities: {} } as const;
    try {
      const outcome = await this.#send(asked, { method: "server/discover", params: {}, origin, signal }, nothingAsked);
      if (outcome === "expired" || !("result" in outcome)) return undefined;
      const versions = arrayIn(outcome.result, "supportedVersions");
      if (!versions.includes(modernVersion)) return undefined;
      return { ...asked, capabilities: objectIn(outcome.result, "capabilities") };
    } catch (error) {
      if (error instanceof RpcFailure || error instanceof UnreadableAnswerError) return undefined;
      throw error;
    }
  }

  async #initialize(origin: CallOrigin, signal: AbortSignal): Promise<Opened> {
    const { capabilities } = this.#options;
    const params = { protocolVersion: newestLegacyVersion, capabilities, clientInfo };
    const id = ++this.#lastId;
    const answer = this.#post(undefined, askingMessage({ method: "initialize", params }, id), origin, {});
    const [start, outcome] = await endingWith(signal, answer, async () => {
      const begins = await answer.started;
      return [begins, await this.#outcome(answer, begins, id, nothingAsked, undefined, origin)] as const;
    });
    if ("error" in outcome) throw new RpcFailure(outcome.error);
    const { result } = outcome;
    const version = textIn(result, "protocolVersion");
    if (version === undefined || !legacyVersions.includes(version)) {
      throw new RpcFailure({
        code: codes.server,
        message: "The server supports no version of MCP that the gateway supports",
      });
    }
    const session = start.headers["mcp-session-id"];
    const opened: Opened = { era: "legacy", session, version, capabilities: objectIn(result, "capabilities") };
    const ready = this.#post(
      opened,
      askingMessage({ method: "notifications/initialized", params: undefined }),
      origin,
      {},
    );
    await begun(ready, signal);
    leave(ready);
    return opened;
  }

  /** Sends a request. Returns "expired" if the server does not know the session. */
  async #send(opened: Opened, request: ServerRequest, messages: ServerMessages): Promise<Outcome | "expired"> {
    const { origin, signal, method } = request;
    const id = ++this.#lastId;
    const isModern = opened.era === "modern";
    const params = isModern ? this.#enveloped(request.params) : withoutEnvelope(request.params);
    const headers = isModern ? { ...request.headers, ...nameHeaders({ method, params }) } : {};
    const answer = this.#post(opened, askingMessage({ method, params }, id), origin, headers);
    const leaveEarly = () => {
      answer.destroy();
      if (!isModern && this.#opened === opened) this.#cancel(id, origin);
    };
    signal.addEventListener("abort", leaveEarly, { once: true });
    try {
      const start = await begun(answer, signal);
      if (start.status === 404 && opened.session !== undefined) {
        answer.resume();
        return "expired";
      }
      const outcome = await this.#outcome(answer, start, id, messages, opened, origin);
      if ("error" in outcome && outcome.error.code === codes.versionUnsupported) {
        this.#options.eras.forget(this.#options.identity);
        this.#opened = undefined;
      }
      return outcome;
    } catch (error) {
      signal.throwIfAborted();
      // By now, another server may have this slug.
      if (error instanceof RefusedByRelay && error.problem.code === "SESSION_NOT_FOUND") return "expired";
      throw error;
    } finally {
      signal.removeEventListener("abort", leaveEarly);
    }
  }

  /** Reads an answer until the JSON-RPC response is complete. */
  async #outcome(
    answer: InProcessAnswer,
    { status, headers }: AnswerStart,
    id: MessageId,
    messages: ServerMessages,
    opened: Opened | undefined,
    origin: CallOrigin,
  ): Promise<Outcome> {
    const type = headers["content-type"] ?? "";
    if (isEventStream(headers)) {
      for await (const event of eventsOf(answer, this.#options.memory)) {
        const message = messageOf(event);
        if (message?.kind === "response") {
          if (message.id !== id) continue;
          leave(answer);
          return message.outcome;
        }
        await this.#take(message, messages, opened, origin);
      }
      throw new RpcFailure({ code: codes.server, message: "The server ended its stream before the response" });
    }
    const message = /^\s*application\/json\s*(?:;|$)/i.test(type)
      ? messageOf(await jsonOf(answer, this.#options.memory))
      : undefined;
    answer.resume();
    // If the server could not read the message, its error may have no id.
    if (message?.kind === "response" && (message.id === id || (status >= 400 && "error" in message.outcome))) {
      return message.outcome;
    }
    throw new RpcFailure({
      code: codes.server,
      message:
        status >= 400 ? `The server answered with the status ${status}` : "The server answered with no message of MCP",
    });
  }

  async #take(
    message: Message | undefined,
    messages: ServerMessages,
    opened: Opened | undefined,
    origin: CallOrigin,
  ): Promise<void> {
    if (message?.kind === "notification") await messages.notified(message.asking);
    if (message?.kind !== "request" || opened === undefined) return;
    const { id, asking } = message;
    if (asking.method === "ping") return await this.#reply(opened, responseMessage(id, { result: {} }), origin);
    if (this.#questions >= maxQuestions) {
      const error = {
        code: codes.server,
        message: `More than ${maxQuestions} requests of the server wait for the caller`,
      };
      return await this.#reply(opened, responseMessage(id, { error }), origin);
    }
    // The stream goes on meanwhile: the server may cancel its request.
    this.#questions++;
    void messages
      .asked(asking)
      .then((outcome) => this.#reply(opened, responseMessage(id, outcome), origin))
      .catch(() => {})
      .finally(() => this.#questions--);
  }

  /** Answers a request of the server. Waits while the server asks too much, so that its stream is not read meanwhile. */
  async #reply(opened: Opened, response: JsonObject, origin: CallOrigin): Promise<void> {
    while (this.#replies.size >= maxReplies) await Promise.race(this.#replies);
    const nowMs = performance.now();
    this.#nextReplyMs = Math.max(this.#nextReplyMs, nowMs - replyBurst * replyEveryMs) + replyEveryMs;
    if (this.#nextReplyMs > nowMs) {
      await sleep(this.#nextReplyMs - nowMs, undefined, { signal: this.#ended.signal }).catch(() => {});
    }
    const reply = this.#accepted(opened, response, origin).finally(() => this.#replies.delete(reply));
    this.#replies.add(reply);
  }

  async #accepted(opened: Opened, response: JsonObject, origin: CallOrigin): Promise<void> {
    if (this.#ended.signal.aborted) return;
    try {
      const answer = this.#post(opened, response, origin, {});
      await begun(answer, AbortSignal.any([this.#ended.signal, AbortSignal.timeout(acceptedWithinMs)]));
      leave(answer);
    } catch {
      // The server sees that its request has no answer.
    }
  }

  #cancel(requestId: MessageId, origin: CallOrigin): void {
    const params = { requestId, reason: "The caller has cancelled the request or has left" };
    void this.notify({ method: "notifications/cancelled", params }, origin).catch(() => {});
  }

  #post(
    opened: Opened | undefined,
    message: JsonObject,
    origin: CallOrigin,
    headers: Readonly<Record<string, string>>,
  ): InProcessAnswer {
    const answer = this.#options.relay.call({
      method: "POST",
      url: pathOf(this.#options.slug),
      headers: {
        ...origin.headers,
        accept: "application/json, text/event-stream",
        "content-type": "application/json",
        ...headers,
        ...(opened === undefined ? {} : headersOf(opened)),
      },
      body: Buffer.from(JSON.stringify(message)),
      remoteAddress: origin.remoteAddress,
    });
    if (this.#lastAnswer?.canSearch === true) this.#lastSearching = this.#lastAnswer;
    this.#lastAnswer = answer;
    return answer;
  }

  #enveloped(params: JsonObject | undefined): JsonObject {
    return withMeta(params, {
      [metaKeys.version]: modernVersion,
      [metaKeys.client]: clientInfo,
      [metaKeys.capabilities]: this.#options.capabilities,
    });
  }
}

/** Waits until the headers of an answer arrive. Cancels the answer if the signal fires first. */
async function begun(answer: InProcessAnswer, signal: AbortSignal): Promise<AnswerStart> {
  return await endingWith(signal, answer, () => answer.started);
}

/** Runs a function. If the signal fires meanwhile, cancels the answer and throws the signal's reason. */
async function endingWith<Result>(
  signal: AbortSignal,
  answer: InProcessAnswer,
  run: () => Promise<Result>,
): Promise<Result> {
  if (signal.aborted) answer.destroy();
  const stop = () => answer.destroy();
  signal.addEventListener("abort", stop, { once: true });
  try {
    return await run();
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/** Discards the rest of an answer. Closes it if it does not end within {@link lingerMs}. */
function leave(answer: InProcessAnswer): void {
  answer.resume();
  const late = setTimeout(() => answer.destroy(), lingerMs).unref();
  answer.once("close", () => clearTimeout(late));
}

function isEventStream(headers: AnswerStart["headers"]): boolean {
  return /^\s*text\/event-stream\s*(?:;|$)/i.test(headers["content-type"] ?? "");
}

function asModern({ capabilities }: ServerProfile): Opened {
  return { era: "modern", capabilities, session: undefined, version: modernVersion };
}

function headersOf({ era, session, version }: Opened): Record<string, string> {
  if (era === "modern" || session === undefined) return { "mcp-protocol-version": version };
  return { "mcp-protocol-version": version, "mcp-session-id": session };
}

/** Returns the headers that repeat the method and the name of a message, as the modern protocol demands. */
function nameHeaders({ method, params }: Asking): Record<string, string> {
  const name = method === "resources/read" ? textIn(params, "uri") : textIn(params, "name");
  const named = ["tools/call", "prompts/get", "resources/read"].includes(method) && name !== undefined;
  return { "mcp-method": method, ...(named ? { "mcp-name": headerText(name) } : {}) };
}

/** Encodes a text for a header as the modern protocol demands: base64, unless it is plain ASCII. */
export function headerText(text: string): string {
  const isPlain = /^[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?$/.test(text) && !/^=\?base64\?.*\?=$/.test(text);
  return isPlain ? text : `=?base64?${Buffer.from(text).toString("base64")}?=`;
}

function withoutEnvelope(params: JsonObject | undefined): JsonObject | undefined {
  if (params === undefined) return undefined;
  const removed: Record<string, Json | undefined> = {
    [metaKeys.version]: undefined,
    [metaKeys.client]: undefined,
    [metaKeys.capabilities]: undefined,
    [metaKeys.logLevel]: undefined,
  };
  return withMeta(params, removed);
}
