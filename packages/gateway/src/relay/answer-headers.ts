import type { IncomingHttpHeaders } from "node:http";
import { GatewayProblem } from "../problem.ts";

// No other header is relayed: not cookies, challenges, or headers that describe the connection or the body before redaction.
const relayed: readonly string[] = [
  "allow",
  "cache-control",
  "content-language",
  "content-type",
  "etag",
  "last-modified",
  "link",
  "location",
  "mcp-protocol-version",
  "retry-after",
  "vary",
];
const charsets: readonly string[] = ["utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin1"];

/** How the body of an answer was compressed. */
export type ContentEncoding = "gzip" | "deflate" | "br" | "zstd";

/** The facts about an answer that the gateway must know before it reads the body. */
export interface AnswerHead {
  /** The headers for the caller, except those of the session. They are searched for values. */
  readonly headers: Readonly<Record<string, string>>;
  readonly encoding: ContentEncoding | undefined;
  readonly isEventStream: boolean;
  /** The number of bytes of the body, before it is decoded; `undefined` if it is not known. */
  readonly length: number | undefined;
}

/**
 * Reads the head of an answer.
 *
 * @param listed the headers that are relayed because the settings of the server list them, in lower case.
 * @throws GatewayProblem `ANSWER_REFUSED` for an answer that cannot be searched for values; `CREDENTIAL_REFUSED` for a 401.
 */
export function readAnswerHead(
  status: number,
  headers: IncomingHttpHeaders,
  listed: readonly string[] = [],
): AnswerHead {
  if (status === 401) {
    throw new GatewayProblem("CREDENTIAL_REFUSED", "The server refused the credential that the gateway has injected", {
      hint: "An admin of the workspace finds the secret with `keyward calls explain` and the id of this call, and sets a new value.",
    });
  }
  // The audit cannot record such a status. The call would look as if the caller had disconnected.
  if (status > 599) throw answerRefused("The server sent a status that is not an HTTP status");
  if (status === 206) throw answerRefused("The server sent a part of an answer, which cannot be searched for values");
  const contentType = one(headers["content-type"]);
  // Checks each charset if there are several, because clients differ in which one they use.
  for (const [, charset = ""] of (contentType ?? "").matchAll(/;\s*charset\s*=\s*"?([^",;\s]*)/gi)) {
    if (charsets.includes(charset.toLowerCase())) continue;
    throw answerRefused("The answer has a charset in which the gateway cannot search for values");
  }
  const coding = one(headers["transfer-encoding"]);
  if (coding !== undefined && coding.trim().toLowerCase() !== "chunked") {
    throw answerRefused("The answer has a transfer coding that the gateway cannot decode");
  }
  const result: Record<string, string> = {};
  // The names of the answer, so that a list with `constructor` finds nothing else than a header.
  for (const [name, value] of Object.entries(headers)) {
    const text = relayed.includes(name) || listed.includes(name) ? one(value) : undefined;
    if (text !== undefined) result[name] = text;
  }
  const length = one(headers["content-length"]);
  return {
    headers: result,
    encoding: encodingOf(one(headers["content-encoding"])),
    isEventStream: /^\s*text\/event-stream\s*(?:;|$)/i.test(contentType ?? ""),
    length: length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : undefined,
  };
}

/** The headers that the gateway adds, so that a web page of the server cannot run scripts in the gateway's origin. */
export const addedHeaders = {
  "content-security-policy": "sandbox; default-src 'none'",
  "x-content-type-options": "nosniff",
} as const;

function encodingOf(text: string | undefined): ContentEncoding | undefined {
  const encoding = text?.trim().toLowerCase() ?? "identity";
  switch (encoding) {
    case "identity":
    case "":
      return undefined;
    case "x-gzip":
      return "gzip";
    case "gzip":
    case "deflate":
    case "br":
    case "zstd":
      return encoding;
    default:
      throw answerRefused("The answer has an encoding that the gateway cannot decode");
  }
}

function one(value: string | readonly string[] | undefined): string | undefined {
  return value === undefined || typeof value === "string" ? value : value.join(", ");
}

/** Returns the problem for an answer of a server that the gateway does not relay. */
export function answerRefused(detail: string): GatewayProblem {
  return new GatewayProblem("ANSWER_REFUSED", detail, {
    hint: "The call may have had an effect at the server. Ask an admin of the workspace whether the server can answer in another form.",
  });
}
