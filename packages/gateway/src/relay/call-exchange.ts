import type { IncomingHttpHeaders } from "node:http";
import type { Readable } from "node:stream";
import type { GatewayProblem } from "../problem.ts";
import type { Needles } from "../redaction/needles.ts";

/** A request that the relay answers. A request of `node:http` is one. */
export interface CallRequest extends Readable {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly headers: IncomingHttpHeaders;
  /** Names and values of the headers, as they came. */
  readonly rawHeaders: readonly string[];
  /** False while a part of the body has not arrived. */
  readonly complete: boolean;
  readonly socket: { readonly remoteAddress?: string | undefined };
}

/** Where the relay writes its answer. A response of `node:http` is one. */
export interface CallResponse {
  readonly req: Pick<CallRequest, "method" | "headers" | "rawHeaders">;
  readonly destroyed: boolean;
  readonly headersSent: boolean;
  shouldKeepAlive: boolean;
  on(event: "drain" | "error", listener: () => void): unknown;
  once(event: "close", listener: () => void): unknown;
  writeHead(status: number, headers: Record<string, string>): unknown;
  flushHeaders(): void;
  /** Returns false if the caller is slow. `drain` follows. */
  write(bytes: Uint8Array): boolean;
  cork(): void;
  end(body?: string): unknown;
  destroy(): unknown;
  /** Takes a problem instead of its answer as HTTP. */
  refuse?(problem: GatewayProblem, callId: string): void;
  /** Gets what returns the values to search for now, for a text that is made from the answer. */
  searchFor?(needles: () => Needles): void;
}
