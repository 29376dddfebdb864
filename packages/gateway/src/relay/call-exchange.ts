import type { IncomingHttpHeaders } from "node:http";
import type { Readable } from "node:stream";
import type { GatewayProblem } from "../problem.ts";
import type { Needles } from "../redaction/needles.ts";

/** A request that the relay answers. A request of `node:http` is one. */
export interface CallRequest extends Readable {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly headers: IncomingHttpHeaders;
  /** The names and values of the headers, alternating, exactly as the client sent them. */
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
  /** Returns false if the caller reads slowly. Then the event `drain` follows. */
  write(bytes: Uint8Array): boolean;
  cork(): void;
  end(body?: string): unknown;
  destroy(): unknown;
  /** If present, is called with a problem, instead of writing the problem as an HTTP answer. */
  refuse?(problem: GatewayProblem, callId: string): void;
  /**
   * Gets a function that returns the current needles, so that texts made from the answer can be searched, too.
   *
   * @param found called with the number of values that were found in such a text.
   */
  searchFor?(needles: () => Needles, found: (hits: number) => void): void;
}
