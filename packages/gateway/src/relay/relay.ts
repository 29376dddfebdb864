import type { Readable } from "node:stream";
import type { KeyProvider, Keyring, WrappableStore } from "@keyward/core";
import { Budgets, type ClientAddresses, type OwnNames, Places } from "@keyward/listener";
import { type AuditLog, SecretsError } from "@keyward/secrets";
import {
  type CallableServer,
  type CallGrant,
  type CallSecret,
  newCallId,
  RefusedCall,
  SecretsReader,
  scopesWithout,
  type WorkspaceGrant,
} from "@keyward/secrets/reader";
import { type McpHeaders, type McpMessage, openSessionId, readMcpBody, sealSessionId } from "../mcp/index.ts";
import type { ServerDispatchers } from "../network/index.ts";
import { answerProblem, GatewayProblem } from "../problem.ts";
import type { CallSource, ServerStates } from "../server-states.ts";
import { type AddressException, exceptionsOf } from "./address-exceptions.ts";
import { Admission, requirePlainHttp } from "./admission.ts";
import type { CallRequest, CallResponse } from "./call-exchange.ts";
import { problemOfDialing } from "./dialing-problem.ts";
import { InProcessAnswer, type InProcessCall, inProcessRequest } from "./in-process-call.ts";
import { injectedHeaders } from "./injection.ts";
import { busy } from "./limit-problems.ts";
import { NeedleCache } from "./needle-cache.ts";
import { type OpenCall, OpenCalls } from "./open-calls.ts";
import type { CheckedCallLimits } from "./relay-limits.ts";
import { type AnswerEnd, RelayedAnswer } from "./relayed-answer.ts";
import { BodyMemory, bodyInfo, boundedStream, callerLeft } from "./request-body.ts";
import { forwardedHeaders, listedHeaders, sessionHeader } from "./request-headers.ts";
import { noteEnd } from "./server-observation.ts";
import { auditUnavailable, problemOf } from "./service-problem.ts";
import { type CallTarget, pathAt, readTarget } from "./target.ts";

/** The options of {@link Relay}. */
export interface RelayOptions {
  /** The store of the secrets service. The code that opened the store closes it. */
  readonly store: WrappableStore;
  readonly keys: Keyring | KeyProvider;
  readonly replica: boolean;
  readonly audit: AuditLog;
  readonly names: OwnNames;
  readonly addresses: ClientAddresses;
  readonly dispatchers: ServerDispatchers;
  readonly addressExceptions: readonly AddressException[];
  readonly limits: CheckedCallLimits;
  /** The relay records the state of each server here. */
  readonly states: ServerStates;
  /** Called with each problem that an operator should know: a `GatewayProblem` with the id of its call, or another error. */
  readonly onProblem: (problem: unknown, call?: { readonly callId: string }) => void;
}

/** The facts about a call for its entry in the audit. */
interface CallFacts {
  readonly callId: string;
  readonly atMs: number;
  readonly begunMs: number;
  readonly target: CallTarget;
  readonly method: RelayedMethod;
  /** The headers of the caller that are forwarded. */
  readonly headers: Readonly<Record<string, string>>;
  /** True for a call that the gateway itself makes for a request whose rate was already counted. */
  readonly isCounted: boolean;
  mcpMethod: string | undefined;
  tool: string | undefined;
  requestBytes: number;
}

type RelayedMethod = "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";

/** Who made a call, and to which server; `undefined` if the workspace has no such server. */
type RecordedParties = Pick<RefusedCall, "caller" | "workspace" | "server">;

/** A request for all servers of a workspace, whose token and body were checked. */
export interface WorkspaceCall {
  readonly callId: string;
  readonly method: "GET" | "POST" | "DELETE";
  readonly token: string;
  readonly grant: WorkspaceGrant;
  /** The body of a request with the method POST. */
  readonly body: Buffer | undefined;
  /** The message in the body. */
  readonly message: McpMessage | undefined;
}

const maxNames = 10_000;

/** Relays calls: checks the token, puts the credentials into the request, sends it, and removes the credentials from the answer. */
export class Relay {
  readonly #options: RelayOptions;
  readonly #reader: SecretsReader;
  readonly #needles = new NeedleCache();
  readonly #memory: BodyMemory;
  readonly #open: OpenCalls;
  readonly #admission: Admission;
  readonly #redactions: Budgets;
  readonly #places: Places;
  readonly #placesOfToken: Places;
  readonly #placesOfServer: Places;
  readonly #sweeping: NodeJS.Timeout;
  /** The calls of this process that are in progress. */
  readonly #inProcess = new Set<Promise<void>>();

  constructor(options: RelayOptions) {
    const { limits, store, keys, replica, onProblem } = options;
    this.#options = options;
    this.#reader = new SecretsReader({ store, keys, replica, onProblem });
    this.#memory = new BodyMemory(limits.maxBodyMemoryBytes);
    this.#open = new OpenCalls(this.#reader, { silenceMs: limits.silenceMs, onProblem });
    this.#admission = new Admission(options);
    const { redactionsPerHour } = limits;
    this.#redactions = new Budgets({ perSecond: redactionsPerHour / 3_600, burst: redactionsPerHour, maxNames });
    this.#places = new Places(limits.concurrentCalls, () => busy("gateway"));
    this.#placesOfToken = new Places(limits.concurrentCallsOfToken, () => busy("token"));
    this.#placesOfServer = new Places(limits.concurrentCallsOfServer, () => busy("server"));
    this.#sweeping = setInterval(() => this.#needles.sweep(), 60_000).unref();
  }

  /** The number of calls in progress. */
  get openCalls(): number {
    return this.#open.size;
  }

  /** Answers a request. Never rejects. */
  async handle(request: CallRequest, response: CallResponse): Promise<void> {
    await this.#answer(request, response, (callId) => this.#call(request, response, callId, false));
  }

  /**
   * Sends a request of the gateway itself on behalf of a caller, whose own request was already counted. Applies the same checks,
   * limits and records as to a request from the network. Returns the answer at once, before its headers have arrived.
   */
  call(call: InProcessCall): InProcessAnswer {
    const request = inProcessRequest(call);
    const response = new InProcessAnswer(request);
    const answered = this.#answer(request, response, (callId) => this.#call(request, response, callId, true));
    this.#inProcess.add(answered);
    void answered.finally(() => this.#inProcess.delete(answered));
    return response;
  }

  /** Checks a request for all servers of a workspace, and lets `run` answer it. Never rejects. */
  async handleWorkspace(
    request: CallRequest,
    response: CallResponse,
    run: (call: WorkspaceCall) => Promise<void>,
  ): Promise<void> {
    await this.#answer(request, response, async (callId) => {
      this.#admission.requireOwnName(request);
      const method = relayedMethod(request.method);
      if (method !== "GET" && method !== "POST" && method !== "DELETE")
        throw methodRefused("An MCP server does not accept this HTTP method");
      requirePlainHttp(request);
      const headers = forwardedHeaders(request);
      this.#options.audit.requireWritable();
      const { token } = this.#admission.callerOf(request);
      const grant = await this.grantFor(request);
      const call = { callId, method, token, grant };
      if (method !== "POST") {
        if (bodyInfo(request).isPresent) throw bodyRefused();
        this.#admission.takeFromRate(grant.caller.tokenId, undefined);
        return await run({ ...call, body: undefined, message: undefined });
      }
      requireJson(request);
      await this.#memory.withBody(request, this.#options.limits.maxMcpBodyBytes, async (body) => {
        const message = readMcpBody(body, namesIn(headers));
        this.#admission.takeFromRate(grant.caller.tokenId, message.method);
        await run({ ...call, body, message });
      });
    });
  }

  /**
   * Reads which servers the token of a request may call.
   *
   * @param options.isUse false for a check that no caller asks for. The token does not count as used, and the check is never
   * refused because others present the token too often. Default: true.
   * @throws GatewayProblem, SecretsError, KeywardError.
   */
  async grantFor(
    request: Pick<CallRequest, "headers" | "socket">,
    { isUse = true }: { readonly isUse?: boolean } = {},
  ): Promise<WorkspaceGrant> {
    const presented = isUse ? this.#admission.callerOf(request) : this.#admission.presented(request);
    try {
      return await this.#reader.forWorkspace(presented.token, { address: presented.address, isUse });
    } catch (error) {
      if (isUse) this.#admission.noteRefusal(presented, error);
      throw error;
    }
  }

  /** Returns the MCP servers that a grant allows to call, by slug. */
  async serversOf(grant: WorkspaceGrant, most: number): Promise<readonly CallableServer[]> {
    return await this.#reader.serversOf(grant, most);
  }

  /** Ends each stream that was opened with GET, between two of its events. */
  endStreams(): void {
    this.#open.endStreams();
  }

  /** Waits for the calls of the gateway itself, and closes the relay's connections. Call this after the last call has ended. */
  async close(): Promise<void> {
    await Promise.all(this.#inProcess);
    this.#open.close();
    clearInterval(this.#sweeping);
    await this.#reader.close();
  }

  async #answer(request: CallRequest, response: CallResponse, run: (callId: string) => Promise<void>): Promise<void> {
    const callId = newCallId();
    try {
      await this.#places.hold("", () => run(callId));
    } catch (error) {
      const problem = problemOf(error);
      this.#report(problem, callId);
      if (response.headersSent || response.destroyed) return void response.destroy();
      // The connection of a body that was not read is closed, so the caller must not send another request on it.
      if (!request.complete) response.shouldKeepAlive = false;
      answerProblem(response, problem, callId);
    }
  }

  async #call(request: CallRequest, response: CallResponse, callId: string, isCounted: boolean): Promise<void> {
    const [atMs, begunMs] = [Date.now(), performance.now()];
    this.#admission.requireOwnName(request);
    const target = readTarget(request.url ?? "");
    const method = relayedMethod(request.method);
    requirePlainHttp(request);
    const headers = forwardedHeaders(request);
    this.#options.audit.requireWritable();
    const facts: CallFacts = {
      callId,
      atMs,
      begunMs,
      target,
      method,
      headers,
      isCounted,
      mcpMethod: undefined,
      tool: undefined,
      requestBytes: 0,
    };
    const grant = await this.#grant(request, facts);
    const call: OpenCall = {
      caller: grant.caller,
      server: grant.server,
      method,
      tool: undefined,
      answer: undefined,
      searchedRevision: grant.server.revision,
      searchFor: () => {},
      refuse: (problem) => void request.destroy(problem),
    };
    try {
      await this.#inShare(grant, () =>
        this.#open.during(call, () => this.#forward(request, response, grant, facts, call)),
      );
    } catch (error) {
      // From here on the caller is known, so a refusal is recorded. If the answer has begun, the call is already recorded.
      const problem = problemOf(error);
      if (call.answer === undefined) {
        const hasLeft = response.destroyed;
        const isRefused = !hasLeft || problem.code !== "REQUEST_MALFORMED";
        const end = { status: hasLeft ? undefined : problem.status, problem: isRefused ? problem : undefined };
        await this.#record(facts, grant, { ...end, answerBytes: 0, redactions: 0 }, []);
      }
      throw problem;
    }
  }

  /** Reads what the call needs: who calls, where the call goes, and with which values. */
  async #grant(request: CallRequest, facts: CallFacts): Promise<CallGrant> {
    const presented = this.#admission.callerOf(request);
    try {
      return await this.#reader.forCall(presented.token, facts.target.slug, presented);
    } catch (error) {
      if (error instanceof RefusedCall) {
        const problem = problemOf(error);
        await this.#record(facts, error, { status: problem.status, problem, answerBytes: 0, redactions: 0 }, []);
      }
      this.#admission.noteRefusal(presented, error);
      throw error;
    }
  }

  async #inShare({ caller, server }: CallGrant, run: () => Promise<void>): Promise<void> {
    await this.#placesOfToken.hold(caller.tokenId, () => this.#placesOfServer.hold(server.id, run));
  }

  async #forward(
    request: CallRequest,
    response: CallResponse,
    grant: CallGrant,
    facts: CallFacts,
    call: OpenCall,
  ): Promise<void> {
    const { method } = facts;
    const { limits } = this.#options;
    requireScope(grant, { method });
    const waitSeconds = this.#redactions.waitSeconds(redactionName(grant));
    if (waitSeconds !== undefined) throw guessesRefused(waitSeconds);
    if (grant.server.kind === "http" && facts.isCounted) throw noMcpServer();
    if (grant.server.kind === "http") {
      this.#takeFromRate(grant, facts);
      const onBytes = (count: number) => {
        facts.requestBytes += count;
        call.answer?.progressed();
      };
      const { isPresent, length } = bodyInfo(request);
      const body = isPresent ? boundedStream(request, limits.maxBodyBytes, onBytes) : undefined;
      return await this.#send(response, grant, facts, call, body, length);
    }
    if (!["GET", "POST", "DELETE"].includes(method))
      throw methodRefused("An MCP server does not accept this HTTP method");
    if (method !== "POST") {
      this.#takeFromRate(grant, facts);
      if (bodyInfo(request).isPresent) throw bodyRefused();
      return await this.#send(response, grant, facts, call, undefined, undefined);
    }
    requireJson(request);
    await this.#memory.withBody(request, limits.maxMcpBodyBytes, async (body) => {
      facts.requestBytes = body.length;
      const message = readMcpBody(body, namesIn(facts.headers));
      facts.mcpMethod = message.method;
      facts.tool = message.tool;
      call.tool = message.tool;
      this.#takeFromRate(grant, facts);
      requireScope(grant, { tool: message.tool });
      await this.#send(response, grant, facts, call, body, body.length);
    });
  }

  /** Sends the request to the server, and relays the answer. Resolves when the answer has ended and was recorded. */
  async #send(
    response: CallResponse,
    grant: CallGrant,
    facts: CallFacts,
    call: OpenCall,
    body: Buffer | Readable | undefined,
    length: number | undefined,
  ): Promise<void> {
    const { target, callId } = facts;
    // A caller who has left gets no answer, so no event of the response would end the call.
    if (response.destroyed) throw callerLeft();
    const { server, secrets, caller, workspace, sessionKey } = grant;
    const url = new URL(server.url);
    const path = pathAt(url, server.kind, target);
    const place = { workspace: workspace.id, server: server.id, owner: caller.owner };
    const headers: Record<string, string> = { ...facts.headers, ...listedHeaders(response.req, server.forwardHeaders) };
    const session = response.req.headers[sessionHeader];
    if (server.kind === "mcp" && session !== undefined) {
      const opened = openSessionId(sessionKey.reveal(), place, typeof session === "string" ? session : "");
      if (opened === undefined) throw unknownSession();
      headers[sessionHeader] = opened;
    }
    if (length !== undefined && body !== undefined) headers["content-length"] = String(length);
    for (const [name, value] of injectedHeaders(secrets)) headers[name.toLowerCase()] = value;
    const { needles, add, release } = this.#needles.take(grant);
    call.searchFor = add;
    const { states } = this.#options;
    const called = { workspace: workspace.id, id: server.id, revision: server.revision };
    const source: CallSource = facts.isCounted ? "endpoint" : "call";
    try {
      const answer = new RelayedAnswer({
        callId,
        response,
        needles,
        relayHeaders: server.relayHeaders,
        sealSession: server.kind === "mcp" ? (id) => sealSessionId(sessionKey.reveal(), place, id) : undefined,
        maxAnswerBytes: this.#options.limits.maxAnswerBytes,
        streamBegan: () => {
          // Such a stream may be open for hours. The stream that answers a POST may still break off.
          if (facts.method === "GET") states.noteReady(called, source);
        },
        settle: async (end) => {
          noteEnd(states, called, end, { source, lacksBody: answer.isSent && isUnfinished(body) });
          if (end.problem !== undefined) this.#report(end.problem, callId);
          this.#countRedactions(grant, end.redactions);
          await this.#record(facts, grant, end, answer.isSent ? secrets : []);
        },
      });
      call.answer = answer;
      response.searchFor?.(needles, (hits) => this.#countRedactions(grant, hits));
      const { dispatchers, addressExceptions } = this.#options;
      const allowed = exceptionsOf(addressExceptions, `${workspace.name}/${server.slug}`);
      const dialled = { key: `${workspace.id}/${server.id}`, origin: url.origin, allowed };
      try {
        dispatchers.dispatch(dialled, { path, method: facts.method, headers, body: body ?? null }, answer);
      } catch (error) {
        answer.fail(problemOfDialing(error));
      }
      await answer.ended;
    } finally {
      release();
    }
  }

  #report(problem: GatewayProblem, callId: string): void {
    if (problem.status >= 500 && problem.code !== "SERVICE_CLOSING") this.#options.onProblem(problem, { callId });
  }

  #takeFromRate({ caller }: CallGrant, { isCounted, mcpMethod }: CallFacts): void {
    if (!isCounted) this.#admission.takeFromRate(caller.tokenId, mcpMethod);
  }

  #countRedactions(grant: CallGrant, redactions: number): void {
    const counted = Math.min(redactions, this.#options.limits.redactionsPerHour);
    for (let count = 0; count < counted; count++) this.#redactions.take(redactionName(grant));
  }

  /**
   * Records a call.
   *
   * @param used the secrets of the request that was sent.
   * @throws GatewayProblem `AUDIT_UNAVAILABLE`.
   */
  async #record(
    facts: CallFacts,
    { caller, workspace, server }: RecordedParties,
    { status, problem, answerBytes, redactions }: AnswerEnd,
    used: readonly CallSecret[],
  ): Promise<void> {
    const { callId, atMs, begunMs, target, method, mcpMethod, tool, requestBytes } = facts;
    try {
      await this.#options.audit.recordCall({
        callId,
        at: atMs,
        workspace: workspace.id,
        caller,
        // The text in the place of the slug may be a value that a person has pasted.
        server: server?.slug ?? "*",
        method,
        path: target.path,
        mcpMethod,
        tool,
        status,
        reason: problem?.code,
        durationMs: performance.now() - begunMs,
        requestBytes,
        answerBytes,
        secrets: used.map(({ name, revision }) => ({ name, revision })),
        redactions,
      });
    } catch (error) {
      throw error instanceof SecretsError ? auditUnavailable(error) : error;
    }
  }
}

/** Returns the headers of the protocol of 2026-07-28 that repeat what the body says. */
function namesIn(headers: Readonly<Record<string, string>>): McpHeaders {
  return { method: headers["mcp-method"], name: headers["mcp-name"] };
}

/**
 * Checks that a server reads the body of a message as the gateway does. Some servers decode another charset or encoding, in
 * which the same bytes are another message.
 *
 * @throws GatewayProblem `BODY_MALFORMED`.
 */
function requireJson({ headers }: CallRequest): void {
  const isPlain = (headers["content-encoding"] ?? "identity").trim().toLowerCase() === "identity";
  const isJson = /^application\/json\s*(?:;\s*charset\s*=\s*"?utf-8"?\s*)?$/i.test(
    headers["content-type"]?.trim() ?? "",
  );
  if (isPlain && isJson) return;
  throw new GatewayProblem("BODY_MALFORMED", "A message of MCP is not JSON in UTF-8, or is compressed", {
    hint: "Send the header Content-Type: application/json, with no other charset than utf-8, and no Content-Encoding.",
  });
}

function isUnfinished(body: Buffer | Readable | undefined): boolean {
  return body !== undefined && !Buffer.isBuffer(body) && !body.readableEnded;
}

function redactionName({ caller, server }: CallGrant): string {
  return `${caller.tokenId} ${server.id}`;
}

function relayedMethod(method: string | undefined): RelayedMethod {
  switch (method) {
    case "GET":
    case "HEAD":
    case "POST":
    case "PUT":
    case "PATCH":
    case "DELETE":
      return method;
    default:
      throw methodRefused("The gateway does not relay this method");
  }
}

function methodRefused(detail: string): GatewayProblem {
  return new GatewayProblem("METHOD_REFUSED", detail, {
    hint: "An MCP server is called with GET, POST and DELETE, another server also with HEAD, PUT and PATCH.",
  });
}

function bodyRefused(): GatewayProblem {
  return new GatewayProblem("BODY_MALFORMED", "Only a request with the method POST has a body for an MCP server", {
    hint: "Leave the body out.",
  });
}

/** @throws GatewayProblem `NOT_ALLOWED` if the scopes of the token do not allow the method or the tool. */
function requireScope(
  { server, tools, methods }: CallGrant,
  target: { readonly method?: string; readonly tool?: string | undefined },
): void {
  const [outside] = scopesWithout({ tools, methods }, { ...target, server: server.slug, kind: server.kind });
  if (outside === undefined) return;
  if (outside === "tool" && server.kind === "http") {
    throw new GatewayProblem("NOT_ALLOWED", "This token may call only tools, and this server has none", {
      hint: "Ask an admin of the workspace for a token that also has the HTTP methods that you need.",
    });
  }
  throw new GatewayProblem("NOT_ALLOWED", `This token may not use this ${outside} of the server`, {
    hint: "Ask an admin of the workspace for a token with a wider scope.",
  });
}

/** Returns the problem of a call from the endpoint of all MCP servers to a server of another kind. */
function noMcpServer(): GatewayProblem {
  return new GatewayProblem("SERVER_NOT_FOUND", "The server is no MCP server", {
    hint: "Call the server by its own path, /s/<server>/<path>.",
  });
}

function unknownSession(): GatewayProblem {
  return new GatewayProblem("SESSION_NOT_FOUND", "The session does not belong to the owner of this token", {
    hint: "Begin a new session with the request `initialize`.",
  });
}

function guessesRefused(waitSeconds: number): GatewayProblem {
  return new GatewayProblem(
    "GUESSES_REFUSED",
    "The answers of this server to this token had too many values of secrets",
    {
      hint: "Ask an admin of the workspace why the server repeats its credentials. Calls are relayed again after the time of Retry-After.",
      waitSeconds,
    },
  );
}
