import { isObject, type Json, type JsonObject, objectIn } from "./json.ts";

/** The MCP protocol of a caller or a server: "legacy" begins with `initialize`, "modern" (from 2026-07-28) does not. */
export type Era = "legacy" | "modern";

export type MessageId = string | number;

/** An error of JSON-RPC. */
export interface RpcError {
  readonly code: number;
  readonly message: string;
  readonly data?: Json | undefined;
}

/** How a request ended. */
export type Outcome = { readonly result: JsonObject } | { readonly error: RpcError };

/** The method and the parameters of a request or a notification. */
export interface Asking {
  readonly method: string;
  readonly params: JsonObject | undefined;
}

/** A message of a server or a caller. */
export type Message =
  | { readonly kind: "request"; readonly id: MessageId; readonly asking: Asking }
  | { readonly kind: "notification"; readonly asking: Asking }
  | { readonly kind: "response"; readonly id: MessageId; readonly outcome: Outcome };

export const modernVersion = "2026-07-28";
/** The versions of the legacy protocol, newest first. */
export const legacyVersions: readonly string[] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
export const newestLegacyVersion = "2025-11-25";

/** The levels of log messages, least severe first. */
export const logLevels: readonly string[] = [
  ...["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"],
];

/** The members of `_meta` that the modern protocol adds. */
export const metaKeys = {
  version: "io.modelcontextprotocol/protocolVersion",
  client: "io.modelcontextprotocol/clientInfo",
  capabilities: "io.modelcontextprotocol/clientCapabilities",
  server: "io.modelcontextprotocol/serverInfo",
  subscription: "io.modelcontextprotocol/subscriptionId",
  logLevel: "io.modelcontextprotocol/logLevel",
} as const;

/** Codes of errors of JSON-RPC and MCP. */
export const codes = {
  invalidRequest: -32_600,
  methodNotFound: -32_601,
  invalidParams: -32_602,
  internal: -32_603,
  server: -32_000,
  headerMismatch: -32_020,
  capabilityMissing: -32_021,
  versionUnsupported: -32_022,
} as const;

/** An error that becomes the response to a request. */
export class RpcFailure extends Error {
  override readonly name = "RpcFailure";
  readonly error: RpcError;
  /** The HTTP status of the answer in the modern protocol. `undefined` for the usual status of the code. */
  readonly status: number | undefined;

  constructor(error: RpcError, status?: number) {
    super(error.message);
    this.error = error;
    this.status = status;
  }
}

/** Reads one message of JSON-RPC. Returns `undefined` for anything else. */
export function messageOf(value: Json): Message | undefined {
  if (!isObject(value)) return undefined;
  const { id, method, params, result, error } = value;
  const hasId = typeof id === "string" || typeof id === "number";
  if (typeof method === "string") {
    const asking = { method, params: isObject(params) ? params : undefined };
    return hasId ? { kind: "request", id, asking } : { kind: "notification", asking };
  }
  if (!hasId) return undefined;
  if (isObject(result)) return { kind: "response", id, outcome: { result } };
  if (!isObject(error)) return undefined;
  const { code, message, data } = error;
  return {
    kind: "response",
    id,
    outcome: {
      error: {
        code: typeof code === "number" ? code : codes.internal,
        message: typeof message === "string" ? message : "The server answered with an error without a message",
        ...(data === undefined ? {} : { data }),
      },
    },
  };
}

/** Returns a request or a notification as an object of JSON. */
export function askingMessage({ method, params }: Asking, id?: MessageId): JsonObject {
  return { jsonrpc: "2.0", ...(id === undefined ? {} : { id }), method, ...(params === undefined ? {} : { params }) };
}

/** Returns a response as an object of JSON. */
export function responseMessage(id: MessageId, outcome: Outcome): JsonObject {
  if ("result" in outcome) return { jsonrpc: "2.0", id, result: outcome.result };
  const { code, message, data } = outcome.error;
  return { jsonrpc: "2.0", id, error: { code, message, ...(data === undefined ? {} : { data }) } };
}

/** Returns parameters with other members of `_meta`. A member that is `undefined` is removed. */
export function withMeta(
  params: JsonObject | undefined,
  changes: Readonly<Record<string, Json | undefined>>,
): JsonObject {
  const members = Object.entries({ ...objectIn(params, "_meta"), ...changes });
  const meta = Object.fromEntries(
    members.flatMap(([name, value]): [string, Json][] => (value === undefined ? [] : [[name, value]])),
  );
  const { _meta: _, ...others } = params ?? {};
  return Object.keys(meta).length === 0 ? others : { ...others, _meta: meta };
}
