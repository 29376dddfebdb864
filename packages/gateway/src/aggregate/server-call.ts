import { setTimeout as sleep } from "node:timers/promises";
import { type GatewayProblemCode, problemDetails } from "../problem.ts";
import { RefusedByRelay } from "../relay/index.ts";
import { UnreadableAnswerError } from "./answer-reader.ts";
import type { CallOrigin } from "./call-origin.ts";
import type { Connections } from "./connections.ts";
import { isJson, isObject, type Json, type JsonObject, objectIn, parseJson, textIn } from "./json.ts";
import type { ListKind } from "./listed-items.ts";
import {
  type Asking,
  askingMessage,
  codes,
  type Era,
  logLevels,
  type MessageId,
  metaKeys,
  type Outcome,
  type RpcError,
  RpcFailure,
  withMeta,
} from "./messages.ts";
import { publicUri } from "./names.ts";
import { publicResult } from "./public-results.ts";
import type { ServerConnection, ServerMessages } from "./server-connection.ts";

/** The caller, as a call to a server sees it: its protocol, its capabilities, and functions that send it messages. */
export interface CallerFace {
  readonly era: Era;
  readonly connections: Connections;
  /** The capabilities of the caller that servers may use. */
  readonly capabilities: JsonObject;
  /** The lowest level of log messages that the caller wants. `undefined` if the caller has set none. */
  readonly logLevel: string | undefined;
  /** Called with the connection to a server before each call. */
  opened?(connection: ServerConnection, call: ServerCall): void;
  /** Remembers which version of a list the caller has got. */
  noteRead?(kind: ListKind, version: number): void;
  /** Sends a message, as JSON, before the response. */
  notify(text: string): Promise<void> | void;
  /** Sends a request of a server to the caller, and resolves to the answer. */
  ask(asking: Asking): Promise<Outcome>;
}

/** A call to one server, with the names that the server knows. */
export interface ServerCall extends Asking {
  readonly slug: string;
  readonly params: JsonObject;
  readonly origin: CallOrigin;
  readonly signal: AbortSignal;
  /** Headers that repeat arguments of the tool. */
  readonly headers: Readonly<Record<string, string>>;
  /** Called when the server says that its lists have changed. */
  readonly listsChanged: () => void;
  /** Called when the server could not be reached, or did not answer. */
  readonly failed: () => void;
}

/** The end of a call: the member `result` or `error` of the response, as JSON in one text or in pieces. */
export interface CallEnd {
  readonly member: string | readonly Buffer[];
  readonly error: RpcError | undefined;
}

const maxRounds = 10;
const roundPauseMs = 250;
const serverFailures: readonly GatewayProblemCode[] = ["SERVER_UNAVAILABLE", "SERVER_TIMEOUT"];
/** The capability of the caller that each request of a server needs. */
const neededFor: ReadonlyMap<string, string> = new Map([
  ["sampling/createMessage", "sampling"],
  ["elicitation/create", "elicitation"],
  ["roots/list", "roots"],
]);

/** Returns the response to a request, as JSON in one text or in pieces. */
export function responseText(id: MessageId, { member }: CallEnd): string | readonly Buffer[] {
  const head = `{"jsonrpc":"2.0","id":${JSON.stringify(id)},`;
  return typeof member === "string" ? `${head}${member}}` : [Buffer.from(head), ...member, Buffer.from("}")];
}

/** Calls a server for a caller, also between the two protocols. Throws only for a token that is no longer valid. */
export async function callServer(face: CallerFace, call: ServerCall): Promise<CallEnd> {
  const connection = face.connections.to(call.slug);
  try {
    const { era } = await connection.open(call.origin);
    if (face.logLevel !== undefined) await connection.wantLogs(face.logLevel, call);
    face.opened?.(connection, call);
    if (face.era === "modern" || era === "modern") requireStateless(call.method);
    const outcome = await untilComplete(connection, era, face, call);
    if ("error" in outcome) return endOf(connection, outcome);
    const shown = publicResult(call.method, call.slug, outcome.result);
    return endOf(connection, { result: ofEra(shown, call.method, { from: era, to: face.era }) });
  } catch (error) {
    face.connections.forgetUnopened(call.slug);
    if (error instanceof RefusedByRelay && serverFailures.includes(error.problem.code)) call.failed();
    return endOf(connection, { error: errorOf(error, call.method) });
  }
}

/** @throws RpcFailure for subscriptions, which need a caller and a server with sessions. */
function requireStateless(method: string): void {
  if (!/^resources\/(?:un)?subscribe$/.test(method)) return;
  throw new RpcFailure({
    code: codes.methodNotFound,
    message: "The server has no sessions, so it cannot tell this caller when a resource changes",
    data: { hint: "Read the resource again, or listen at the endpoint of the server, /s/<server>/mcp." },
  });
}

/** Returns the error for a name, URI or server that does not exist or that the token may not use. */
export function unknownName(method: string): RpcError {
  const [what] = method.split("/");
  const thing = what === "tools" ? "tool" : what === "prompts" ? "prompt" : "resource";
  return {
    code: codes.invalidParams,
    message: `The token can use no such ${thing}`,
    data: { hint: "List again what the token can use. If something is missing, ask an admin of the workspace." },
  };
}

/** Returns the JSON-RPC error for a call that could not be sent to the server, or that the server did not answer. */
function errorOf(error: unknown, method: string): RpcError {
  if (error instanceof RefusedByRelay) {
    const { problem, callId } = error;
    if (problem.code === "TOKEN_REFUSED") throw problem;
    if (problem.code === "SERVER_NOT_FOUND" || problem.code === "NOT_ALLOWED") return unknownName(method);
    const { detail, code, hint, instance } = problemDetails(problem, callId);
    return { code: codes.server, message: detail, data: { code, hint, call: instance } };
  }
  if (error instanceof RpcFailure) return error.error;
  if (error instanceof UnreadableAnswerError) return { code: codes.server, message: error.message };
  return { code: codes.server, message: "The server broke off its answer, or the caller disconnected" };
}

/** While a modern server asks a legacy caller questions, sends the request again with the caller's answers. */
async function untilComplete(
  connection: ServerConnection,
  era: Era,
  face: CallerFace,
  call: ServerCall,
): Promise<Outcome> {
  let params = paramsFor(era, face, call.params);
  for (let round = 0; round < maxRounds; round++) {
    const outcome = await connection.request(
      { ...call, params },
      messagesFor(connection, face, call, objectIn(call.params, "_meta")["progressToken"]),
    );
    const isAsking = "result" in outcome && outcome.result["resultType"] === "input_required";
    if (!isAsking || face.era === "modern") return outcome;
    const requests = objectIn(outcome.result, "inputRequests");
    const responses: Record<string, Json> = {};
    for (const [key, request] of Object.entries(requests)) {
      const answered = await askCaller(connection, face, {
        method: textIn(request, "method") ?? "",
        params: objectIn(request, "params"),
      });
      if ("error" in answered) return answered;
      Object.defineProperty(responses, key, { value: answered.result, enumerable: true });
    }
    if (Object.keys(requests).length === 0) await sleep(roundPauseMs, undefined, { signal: call.signal });
    const state = outcome.result["requestState"];
    params = { ...params, inputResponses: responses, ...(state === undefined ? {} : { requestState: state }) };
  }
  return { error: { code: codes.server, message: `The server asked the caller more than ${maxRounds} times` } };
}

function paramsFor(era: Era, face: CallerFace, params: JsonObject): JsonObject {
  if (era === "legacy") {
    const { inputResponses: _, requestState: __, ...others } = params;
    return others;
  }
  return face.era === "legacy" ? withMeta(params, { [metaKeys.logLevel]: face.logLevel }) : params;
}

/** Returns the handlers for the messages that a server sends during a call. */
export function messagesFor(
  connection: ServerConnection,
  face: CallerFace,
  { slug, listsChanged }: Pick<ServerCall, "slug" | "listsChanged">,
  progressToken?: Json,
): ServerMessages {
  const send = (asking: Asking) => {
    const text = JSON.stringify(askingMessage(asking));
    const shown = connection.redacted(text);
    return shown === text || isJson(shown) ? face.notify(shown) : undefined;
  };
  return {
    notified: async ({ method, params }: Asking) => {
      if (/^notifications\/(?:tools|prompts|resources)\/list_changed$/.test(method)) return listsChanged();
      // Tokens of progress are small numbers, so a server could report progress of a call to another server.
      const isOwn = progressToken !== undefined && params?.["progressToken"] === progressToken;
      if (method === "notifications/progress" ? isOwn : method === "notifications/elicitation/complete") {
        return await send({ method, params });
      }
      if (method === "notifications/message" && isWanted(face, textIn(params, "level"))) {
        return await send({ method, params: { ...params, logger: `${slug}: ${textIn(params, "logger") ?? "log"}` } });
      }
      const uri = textIn(params, "uri");
      if (method === "notifications/resources/updated" && uri !== undefined) {
        await send({ method, params: { ...params, uri: publicUri(slug, uri) } });
      }
    },
    asked: (asking: Asking) => askCaller(connection, face, asking),
  };
}

/** Asks the caller for a server, if the caller has the capability. The text of the server is searched for values again. */
async function askCaller(connection: ServerConnection, face: CallerFace, { method, params }: Asking): Promise<Outcome> {
  const needed = neededFor.get(method);
  if (needed === undefined) {
    return {
      error: { code: codes.methodNotFound, message: "The gateway does not pass this kind of request on to callers" },
    };
  }
  if (face.capabilities[needed] === undefined) {
    return { error: { code: codes.methodNotFound, message: `The caller does not have the capability ${needed}` } };
  }
  const searched = parseJson(connection.redacted(JSON.stringify(params ?? {})));
  return await face.ask({ method, params: isObject(searched) ? searched : {} });
}

function isWanted({ era, logLevel }: CallerFace, level: string | undefined): boolean {
  if (logLevel === undefined) return era === "legacy";
  return logLevels.indexOf(level ?? "") >= logLevels.indexOf(logLevel);
}

/** Converts a server's result to the protocol of the caller. */
function ofEra(result: JsonObject, method: string, { from, to }: { readonly from: Era; readonly to: Era }): JsonObject {
  if (to === "legacy") {
    const { resultType: _, ttlMs: __, cacheScope: ___, ...others } = result;
    return others;
  }
  if (method === "resources/read" && result["resultType"] !== "input_required") {
    const ttlMs = from === "modern" ? (result["ttlMs"] ?? 0) : 0;
    return { resultType: "complete", ...result, ttlMs, cacheScope: "private" };
  }
  return from === "modern" ? result : { ...result, resultType: "complete" };
}

/** Returns the end of a call whose answer would not be JSON without the values in it. */
function notShown(): CallEnd {
  const error = {
    code: codes.server,
    message: "The answer of the server contains a value of a secret within a number or an escape",
  };
  return { member: `"error":${JSON.stringify(error)}`, error };
}

function endOf(connection: ServerConnection, outcome: Outcome): CallEnd {
  const member =
    "result" in outcome ? `"result":${JSON.stringify(outcome.result)}` : `"error":${JSON.stringify(outcome.error)}`;
  const shown = connection.redacted(member);
  // A value may be a part of a number or of an escape. Then the rest is not JSON.
  if (shown !== member && !isJson(`{${shown}}`)) return notShown();
  return { member: shown, error: "error" in outcome ? outcome.error : undefined };
}
