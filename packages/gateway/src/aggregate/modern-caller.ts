import type { CallRequest } from "../relay/index.ts";
import { argumentHeaders, type CallOrigin } from "./call-origin.ts";
import type { CallerAnswer } from "./caller-answer.ts";
import { HeldCall } from "./held-call.ts";
import { isObject, type JsonObject, objectIn, textIn } from "./json.ts";
import { ListenStream } from "./listen-stream.ts";
import { codes, legacyVersions, type Message, metaKeys, modernVersion, type RpcError, RpcFailure } from "./messages.ts";
import { serverCapabilities, serverInfo, usableCapabilities } from "./profile.ts";
import { type CallEnd, responseText } from "./server-call.ts";
import type { TokenContext } from "./token-context.ts";
import type { WorkspaceLists } from "./workspace-lists.ts";
import { answerRequest, noSuchMethod } from "./workspace-requests.ts";

/** One message of a caller. */
export interface CallerMessage {
  readonly context: TokenContext;
  readonly request: CallRequest;
  readonly origin: CallOrigin;
  readonly answer: CallerAnswer;
  readonly message: Message;
  /** Reads which servers and tools the token may use, and begins to read the lists of these servers. */
  readonly refresh: (lists: WorkspaceLists) => Promise<void>;
}

const maxHeldCalls = 100;
const maxListens = 100;
const named: ReadonlyMap<string, string> = new Map([
  ["tools/call", "name"],
  ["prompts/get", "name"],
  ["resources/read", "uri"],
]);

/** Returns true if the headers or `_meta` of a request declare the modern protocol. */
export function isModern({ headers }: Pick<CallRequest, "headers">, message: Message): boolean {
  const meta = message.kind === "response" ? {} : objectIn(message.asking.params, "_meta");
  return meta[metaKeys.version] !== undefined || headers["mcp-protocol-version"] === modernVersion;
}

/** Answers a message of a caller of the modern protocol. @throws RpcFailure, GatewayProblem. */
export async function answerModern(given: CallerMessage): Promise<void> {
  const { message, answer, request } = given;
  if (message.kind === "notification") return answer.accept();
  if (message.kind === "response") {
    throw new RpcFailure({
      code: codes.invalidRequest,
      message: "In the modern protocol, a client sends no responses",
    });
  }
  const { id, asking } = message;
  const refused = refusalOf(request, asking.method, asking.params);
  if (refused !== undefined) throw new RpcFailure(refused, 400);
  const respond = (end: CallEnd) => answer.respond(responseText(id, end), { status: statusOf(end.error) });
  if (asking.method === "server/discover") {
    const result = {
      ...{ resultType: "complete", supportedVersions: [modernVersion, ...legacyVersions] },
      ...{ capabilities: serverCapabilities, ttlMs: 60_000, cacheScope: "private" },
      _meta: { [metaKeys.server]: serverInfo },
    };
    return respond({ member: `"result":${JSON.stringify(result)}`, error: undefined });
  }
  // The modern protocol has no sessions, and so no subscriptions of a session.
  if (/^resources\/(?:un)?subscribe$/.test(asking.method)) throw new RpcFailure(noSuchMethod);
  if (asking.method === "subscriptions/listen") return await listen(given, id, asking.params);
  respond(await callOf(given, asking.method, asking.params ?? {}));
}

/** Starts a call, or continues a call that waits for the caller's answers. */
async function callOf(given: CallerMessage, method: string, params: JsonObject): Promise<CallEnd> {
  const { context, answer, request, origin, refresh } = given;
  const name = `${method} ${textIn(params, "name") ?? textIn(params, "uri") ?? ""}`;
  const state = textIn(params, "requestState");
  if (state !== undefined && HeldCall.isState(state)) {
    const held = context.held.get(state);
    if (held === undefined || held.name !== name) {
      throw new RpcFailure({ code: codes.invalidParams, message: "The call waits no longer for these answers" });
    }
    held.take(objectIn(params, "inputResponses"));
    return await held.next(answer);
  }
  const meta = objectIn(params, "_meta");
  const capabilities = usableCapabilities(objectIn(meta, metaKeys.capabilities));
  const held = new HeldCall(name);
  const lists = context.listsFor("modern", capabilities);
  const run = () =>
    context.withConnections(capabilities, (connections) => {
      const face = {
        ...({ era: "modern", connections, capabilities, logLevel: textIn(meta, metaKeys.logLevel) } as const),
        notify: (text: string) => held.notify(text),
        ask: async (asking: Parameters<HeldCall["ask"]>[0]) => {
          if (context.held.size >= maxHeldCalls && !context.held.has(held.state)) {
            return { error: { code: codes.server, message: "Too many calls of the token wait for answers" } };
          }
          context.held.set(held.state, held);
          return await held.ask(asking);
        },
      };
      const headers = argumentHeaders(request);
      return answerRequest(face, {
        ...{ method, params, lists, origin, signal: held.signal, headers },
        refresh: () => refresh(lists),
      });
    });
  held.begin(run, () => context.held.delete(held.state));
  return await held.next(answer);
}

async function listen(
  { context, answer, refresh }: CallerMessage,
  id: string | number,
  params: JsonObject | undefined,
): Promise<void> {
  if (!ListenStream.isValid(params)) {
    throw new RpcFailure({ code: codes.invalidParams, message: "The request does not say what to listen to" });
  }
  if (context.listens.size >= maxListens) {
    throw new RpcFailure({ code: codes.server, message: "Too many streams of the token listen to changes" });
  }
  const capabilities = usableCapabilities(objectIn(objectIn(params, "_meta"), metaKeys.capabilities));
  const lists = context.listsFor("modern", capabilities);
  // A caller that has read no list is notified of the changes from now on.
  void refresh(lists).catch(() => {});
  const stream = new ListenStream(id, params, answer, lists);
  context.listens.add(stream);
  await answer.whenClosed();
  context.listens.delete(stream);
}

/** Returns why a request of the modern protocol is refused before it is answered. */
function refusalOf({ headers }: CallRequest, method: string, params: JsonObject | undefined): RpcError | undefined {
  const meta = objectIn(params, "_meta");
  const version = meta[metaKeys.version];
  const header = headers["mcp-protocol-version"];
  if (typeof version !== "string" || !isObject(meta[metaKeys.capabilities])) {
    return { code: codes.invalidParams, message: "The `_meta` of the request lacks the version or the capabilities" };
  }
  if (header !== version) {
    return {
      code: codes.headerMismatch,
      message: "The header mcp-protocol-version does not name the version of the body",
    };
  }
  if (version !== modernVersion) {
    const data = { supported: [modernVersion, ...legacyVersions], requested: version };
    return { code: codes.versionUnsupported, message: "The gateway does not support this version of MCP", data };
  }
  // A header that is present was already compared with the body.
  if (headers["mcp-method"] === undefined) return missing("mcp-method");
  const source = named.get(method);
  const isNamed = source !== undefined && textIn(params, source) !== undefined;
  return isNamed && headers["mcp-name"] === undefined ? missing("mcp-name") : undefined;
}

function missing(header: string): RpcError {
  return { code: codes.headerMismatch, message: `The request lacks the header ${header}` };
}

/** Returns the HTTP status of a response. For some errors, the modern protocol demands a certain status. */
export function statusOf(error: RpcError | undefined): number {
  switch (error?.code) {
    case codes.headerMismatch:
    case codes.versionUnsupported:
    case codes.capabilityMissing:
      return 400;
    case codes.methodNotFound:
      return 404;
    default:
      return 200;
  }
}
