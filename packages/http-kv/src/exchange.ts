import { setImmediate } from "node:timers/promises";

/** A request that `node:http`, a fetch runtime or another HTTP server received. */
export interface Incoming {
  readonly method: string;
  /**
   * The path and query of the request, still percent-encoded. May also be a whole URL. The server then ignores the
   * URL's origin.
   */
  readonly url: string;
  /** Returns the value of a header, or `null` if the request does not have it. The name must be in lower case. */
  header(name: string): string | null;
  /**
   * Passes each piece of the request's body to `take` when the piece arrives. Other requests can run between two
   * pieces.
   */
  read(take: (piece: Uint8Array) => void): BodyReading;
}

/** The body of a request while the server reads the body. */
export interface BodyReading {
  /** Resolves at the end of the body. Rejects if the body is incomplete, or with an error that `take` throws. */
  readonly done: Promise<void>;
  /** Stops reading the body. */
  stop(): void;
}

/** An answer to a request, in a form that any HTTP server can send. */
export interface Answer {
  readonly status: number;
  /** The headers, under names in lower case. */
  readonly headers: Record<string, string>;
  /**
   * The body. A generator makes each piece of the body only when the piece is sent, so that no single step takes long.
   */
  readonly body?: string | Uint8Array | AsyncGenerator<Uint8Array>;
}

/**
 * Number of bytes that a request processes before other requests run. Processing this number of bytes takes less than a
 * millisecond.
 */
export const turnBytes = 2 ** 17;

/** Lets other requests run between the steps of a long request. */
export class Turns {
  #sinceTurn = 0;

  /**
   * Counts the bytes that a step has processed, and lets other requests run after every {@link turnBytes} bytes. Await
   * the returned promise after each step.
   */
  async worked(bytes: number): Promise<void> {
    this.#sinceTurn += bytes;
    if (this.#sinceTurn < turnBytes) return;
    this.#sinceTurn = 0;
    await setImmediate();
  }
}

/** Size of the pieces in which a long answer is sent, in bytes. */
export const pieceBytes = 2 ** 16;

/** Returns an answer with status 200 whose body is `body` as JSON. */
export function jsonAnswer(body: unknown): Answer {
  return { status: 200, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}
