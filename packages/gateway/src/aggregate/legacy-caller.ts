import { GatewayProblem } from "../problem.ts";
import { CallerSession } from "./caller-session.ts";
import { Connections } from "./connections.ts";
import { objectIn, textIn } from "./json.ts";
import type { ListKind } from "./listed-items.ts";
import {
  type Asking,
  codes,
  legacyVersions,
  logLevels,
  type MessageId,
  newestLegacyVersion,
  RpcFailure,
  responseMessage,
} from "./messages.ts";
import type { CallerMessage } from "./modern-caller.ts";
import { instructions, legacyCapabilities, serverInfo, usableCapabilities } from "./profile.ts";
import { messagesFor, responseText, type ServerCall } from "./server-call.ts";
import type { ServerConnection } from "./server-connection.ts";
import type { TokenContext } from "./token-context.ts";
import { answerRequest } from "./workspace-requests.ts";

const maxSessions = 100;
/** A stream counts as a call in progress. The limit leaves room for the token's other calls. */
const maxServerStreams = 50;

/** Answers a message of a caller of the legacy protocol. @throws RpcFailure, GatewayProblem. */
export async function answerLegacy(given: CallerMessage): Promise<void> {
  const { context, request, message, answer, origin } = given;
  if (message.kind === "request" && message.asking.method === "initialize") {
    return initialize(given, message.id, message.asking);
  }
  const session = sessionOf(context, request.headers["mcp-session-id"]);
  session.usedMs = performance.now();
  if (message.kind === "response") {
    session.answered(message.id, message.outcome);
    return answer.accept();
  }
  if (message.kind === "notification") {
    const { method, params } = message.asking;
    const id = params?.["requestId"];
    if (method === "notifications/cancelled" && (typeof id === "string" || typeof id === "number")) session.cancel(id);
    if (method === "notifications/roots/list_changed") {
      for (const connection of session.connections.all())
        void connection.notify(message.asking, origin).catch(() => {});
    }
    return answer.accept();
  }
  const { id, asking } = message;
  if (asking.method === "ping") return answer.respond(JSON.stringify(responseMessage(id, { result: {} })));
  if (asking.method === "logging/setLevel") {
    setLevel(session, asking);
    return answer.respond(JSON.stringify(responseMessage(id, { result: {} })));
  }
  const end = await session.during(id, answer, (signal) => {
    const { connections, capabilities, logLevel } = session;
    const face = {
      ...({ era: "legacy", connections, capabilities, logLevel } as const),
      noteRead: (kind: ListKind, version: number) => session.noteRead(kind, version),
      notify: (text: string) => answer.send(text),
      ask: (question: Asking) => session.ask(question, answer, signal),
      opened: (connection: ServerConnection, call: ServerCall) => listenTo(connection, call, session, context),
    };
    const { lists } = session;
    const refresh = () => given.refresh(lists);
    return answerRequest(face, { ...asking, lists, origin, signal, headers: {}, refresh });
  });
  answer.respond(responseText(id, end));
}

/** Relays the messages that a server sends outside of calls, unless the token already has too many such streams. */
function listenTo(connection: ServerConnection, call: ServerCall, session: CallerSession, context: TokenContext): void {
  if (!connection.hasSession || context.serverStreams >= maxServerStreams) return;
  session.listenTo(call.slug, (signal) => {
    const { connections, capabilities } = session;
    const face = {
      ...({ era: "legacy", connections, capabilities } as const),
      // Uses the log level at the time at which the message arrives.
      get logLevel() {
        return session.logLevel;
      },
      notify: (text: string) => session.send(text),
      ask: (question: Asking) => session.ask(question, undefined, signal),
    };
    const { origin } = call;
    return connection.listen(messagesFor(connection, face, call), { origin, signal });
  });
}

/** Returns a session of the token. @throws GatewayProblem `SESSION_NOT_FOUND`, `BODY_MALFORMED`. */
export function sessionOf(context: TokenContext, id: string | readonly string[] | undefined): CallerSession {
  if (id === undefined) {
    throw new GatewayProblem("BODY_MALFORMED", "The request has no session", {
      hint: "Begin a session with the request `initialize`, and send its id in the header Mcp-Session-Id.",
    });
  }
  const session = typeof id === "string" ? context.sessions.get(id) : undefined;
  if (session !== undefined) return session;
  throw new GatewayProblem("SESSION_NOT_FOUND", "This process of the gateway has no such session of the token", {
    hint: "Begin a new session with the request `initialize`.",
  });
}

function initialize({ context, answer, refresh }: CallerMessage, id: MessageId, { params }: Asking): void {
  const requested = textIn(params, "protocolVersion") ?? "";
  if (context.sessions.size >= maxSessions) endOldest(context);
  const capabilities = usableCapabilities(objectIn(params, "capabilities"));
  const connections = new Connections(context.connectionOptions("legacy", capabilities));
  const lists = context.listsFor("legacy", capabilities);
  const session = new CallerSession({ connections, capabilities, lists });
  context.sessions.set(session.id, session);
  const result = {
    protocolVersion: legacyVersions.includes(requested) ? requested : newestLegacyVersion,
    ...{ capabilities: legacyCapabilities, serverInfo, instructions },
  };
  answer.respond(JSON.stringify(responseMessage(id, { result })), { headers: { "mcp-session-id": session.id } });
  // Starts to read the lists now, so that the caller's first request for a list waits less.
  void refresh(lists).catch(() => {});
}

/** Ends the idle session that was used longest ago. @throws GatewayProblem `SERVICE_BUSY` if all sessions are in use. */
function endOldest(context: TokenContext): void {
  const [oldest] = [...context.sessions.values()]
    .filter(({ isBusy }) => !isBusy)
    .sort((one, other) => one.usedMs - other.usedMs);
  if (oldest !== undefined) return void context.endSession(oldest);
  throw new GatewayProblem("SERVICE_BUSY", "Too many sessions with this token are open", {
    hint: "End sessions that are not needed, or use another token.",
  });
}

function setLevel(session: CallerSession, { params }: Asking): void {
  const level = textIn(params, "level") ?? "";
  if (!logLevels.includes(level)) {
    throw new RpcFailure({ code: codes.invalidParams, message: "The level of log messages is unknown" });
  }
  session.logLevel = level;
}
