import { Places } from "@keyward/listener";
import { GatewayProblem } from "../problem.ts";
import type { CallRequest, CallResponse, Relay, WorkspaceCall } from "../relay/index.ts";
import type { ServerStates } from "../server-states.ts";
import { MessageMemory } from "./answer-reader.ts";
import { originOf } from "./call-origin.ts";
import { CallerAnswer } from "./caller-answer.ts";
import { parseJson } from "./json.ts";
import { answerLegacy, sessionOf } from "./legacy-caller.ts";
import { type Message, messageOf, RpcFailure, responseMessage } from "./messages.ts";
import { answerModern, isModern, statusOf } from "./modern-caller.ts";
import { ServerEras } from "./server-eras.ts";
import { TokenContext } from "./token-context.ts";
import { Turns } from "./turns.ts";
import type { WorkspaceLists } from "./workspace-lists.ts";

/** The options of {@link WorkspaceEndpoint}. */
export interface WorkspaceEndpointOptions {
  readonly relay: Pick<Relay, "call" | "handleWorkspace" | "grantFor" | "serversOf">;
  /** How many requests with one token may be in progress at once. Open streams count. */
  readonly concurrentCallsOfToken: number;
  /** The memory of all messages of servers that are read whole, in bytes. */
  readonly maxMessageMemoryBytes: number;
  /** For how long a server may send nothing, in milliseconds. */
  readonly silenceMs: number;
  /** Records the state of each server. */
  readonly states: ServerStates;
  readonly onProblem: (problem: unknown) => void;
}

const maxServers = 500;
const maxTokens = 2_000;
const checkedEveryMs = 1_000;
/** The most memory that the lists of all tokens may take, in bytes. */
const maxListBytes = 256 * 1_048_576;
const longestReadMs = 10_000;
const readsAtOnce = 64;
const readsOfTokenAtOnce = 8;
/** One token may take the memory of messages divided by this number. */
const tokensInMemory = 4;
const idleTokenMs = 10 * 60_000;
const idleSessionMs = 60 * 60_000;
/** The servers of a token with open streams are read again after this number of checks. */
const checksBetweenLists = 5;

/**
 * The endpoint `/mcp`: presents all MCP servers that a token may call as one MCP server. Answers callers of both protocols (with sessions, and 2026-07-28), and
 * reaches each server through the relay.
 */
export class WorkspaceEndpoint {
  readonly #options: WorkspaceEndpointOptions;
  readonly #eras = new ServerEras();
  readonly #memory: MessageMemory;
  readonly #memoryOfToken: number;
  readonly #listMemory = new MessageMemory(maxListBytes);
  readonly #turns = new Turns(readsAtOnce, readsOfTokenAtOnce);
  readonly #places: Places;
  readonly #contexts = new Map<string, TokenContext>();
  readonly #timer: NodeJS.Timeout;
  #checks = 0;
  #isChecking = false;

  constructor(options: WorkspaceEndpointOptions) {
    this.#options = options;
    this.#memory = new MessageMemory(options.maxMessageMemoryBytes);
    this.#memoryOfToken = Math.ceil(options.maxMessageMemoryBytes / tokensInMemory);
    this.#places = new Places(options.concurrentCallsOfToken, tooMany);
    this.#timer = setInterval(() => void this.#check(), checkedEveryMs).unref();
  }

  /** Answers a request. Never rejects. */
  async handle(request: CallRequest, response: CallResponse): Promise<void> {
    await this.#options.relay.handleWorkspace(request, response, async (call) => {
      await this.#places.hold(call.grant.caller.tokenId, () => this.#answer(request, response, call));
    });
  }

  /** Ends each stream that waits for messages. Does not end the calls in progress. */
  endStreams(): void {
    for (const context of this.#contexts.values()) context.endStreams();
  }

  /** Ends all sessions, here and at the servers. */
  async close(): Promise<void> {
    clearInterval(this.#timer);
    const contexts = [...this.#contexts.values()];
    this.#contexts.clear();
    await Promise.allSettled(contexts.map((context) => context.close()));
  }

  async #answer(request: CallRequest, response: CallResponse, call: WorkspaceCall): Promise<void> {
    const context = this.#contextOf(request, call);
    const answer = new CallerAnswer(response, call.callId);
    const { body, method } = call;
    if (method === "DELETE") {
      const session = sessionOf(context, request.headers["mcp-session-id"]);
      answer.accept(204);
      return await context.endSession(session);
    }
    if (method === "GET") return await sessionOf(context, request.headers["mcp-session-id"]).listen(answer);
    const message = body === undefined ? undefined : messageOf(parseJson(body.toString()));
    if (message === undefined) throw malformed();
    const refresh = async (lists: WorkspaceLists) => {
      lists.update(await this.#options.relay.serversOf(call.grant, maxServers), call.grant.tools);
    };
    const given = { context, request, answer, message, origin: context.origin, refresh };
    const isOfModern = isModern(request, message);
    try {
      await (isOfModern ? answerModern(given) : answerLegacy(given));
    } catch (error) {
      if (!(error instanceof RpcFailure)) throw error;
      const status = isOfModern ? (error.status ?? statusOf(error.error)) : 200;
      answer.respond(JSON.stringify(errorMessage(message, error)), { status });
    }
  }

  #contextOf(request: CallRequest, { grant }: WorkspaceCall): TokenContext {
    const { tokenId } = grant.caller;
    const origin = originOf(request);
    const known = this.#contexts.get(tokenId);
    // The order of the map is the order of the last use.
    this.#contexts.delete(tokenId);
    const context =
      known ??
      new TokenContext({
        ...{ tokenId, origin, workspace: grant.workspace.id, relay: this.#options.relay, states: this.#options.states },
        ...{
          eras: this.#eras,
          memory: new MessageMemory(this.#memoryOfToken, this.#memory),
          listMemory: this.#listMemory,
          turns: this.#turns,
        },
        readWithinMs: Math.min(longestReadMs, this.#options.silenceMs),
      });
    context.origin = origin;
    context.usedMs = performance.now();
    if (known === undefined && this.#contexts.size >= maxTokens) this.#forgetOne();
    this.#contexts.set(tokenId, context);
    return context;
  }

  #forgetOne(): void {
    for (const context of this.#contexts.values()) {
      if (context.isUsed) continue;
      this.#contexts.delete(context.tokenId);
      void context.close();
      return;
    }
    throw tooMany();
  }

  async #check(): Promise<void> {
    if (this.#isChecking) return;
    this.#isChecking = true;
    this.#checks++;
    try {
      await Promise.all([...this.#contexts.values()].map((context) => this.#checkToken(context)));
    } finally {
      this.#isChecking = false;
    }
  }

  /** Closes the context of a token that is no longer valid. Otherwise closes idle sessions, and reads old lists again. */
  async #checkToken(context: TokenContext): Promise<void> {
    context.sweep(idleSessionMs);
    const nowMs = performance.now();
    if (!context.isUsed) {
      if (nowMs - context.usedMs > idleTokenMs) this.#end(context);
      return;
    }
    const { headers, remoteAddress } = context.origin;
    try {
      const grant = await this.#options.relay.grantFor({ headers, socket: { remoteAddress } }, { isUse: false });
      const listened = context.listenedLists;
      if (listened.size === 0 || this.#checks % checksBetweenLists !== 0) return;
      const servers = await this.#options.relay.serversOf(grant, maxServers);
      for (const lists of listened) lists.update(servers, grant.tools);
    } catch (error) {
      if (isRefusal(error)) this.#end(context);
      else this.#options.onProblem(error);
    }
  }

  #end(context: TokenContext): void {
    if (this.#contexts.get(context.tokenId) === context) this.#contexts.delete(context.tokenId);
    void context.close();
  }
}

/** Returns true if an error means that the token was refused. Returns false for an error that says nothing about it. */
function isRefusal(error: unknown): boolean {
  const code = typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
  return code === "TOKEN_REFUSED" || code === "NOT_ALLOWED";
}

function errorMessage(message: Message, { error }: RpcFailure): object {
  const id = message.kind === "notification" ? undefined : message.id;
  return id === undefined ? { jsonrpc: "2.0", id: null, error } : responseMessage(id, { error });
}

function malformed(): GatewayProblem {
  return new GatewayProblem("BODY_MALFORMED", "The body is no message of MCP", {
    hint: "Send one message of MCP, as JSON in UTF-8.",
  });
}

function tooMany(): GatewayProblem {
  return new GatewayProblem("SERVICE_BUSY", "Too many calls with this token are in progress", {
    hint: "Repeat the call when others have ended. An open stream counts as a call.",
  });
}
