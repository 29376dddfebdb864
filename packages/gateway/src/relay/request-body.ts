import { Readable } from "node:stream";
import { GatewayProblem } from "../problem.ts";
import type { CallRequest } from "./call-exchange.ts";

/** Whether a request has a body, and the length that its headers declare. */
export interface BodyInfo {
  readonly isPresent: boolean;
  /** The value of `Content-Length`; `undefined` if the body comes in chunks. */
  readonly length: number | undefined;
}

/** Reads the headers that describe the body of a request. */
export function bodyInfo({ headers, method }: CallRequest): BodyInfo {
  const coding = headers["transfer-encoding"];
  // Node.js takes the chunks apart, and leaves another coding, such as gzip, in the body.
  if (coding !== undefined && coding.trim().toLowerCase() !== "chunked") {
    throw new GatewayProblem("REQUEST_MALFORMED", "The body has a transfer coding that the gateway does not decode", {
      hint: "Send the body with Content-Length, or with Transfer-Encoding: chunked.",
    });
  }
  const isChunked = coding !== undefined;
  const length = headers["content-length"] === undefined ? undefined : Number(headers["content-length"]);
  const isPresent = isChunked || (length !== undefined && length > 0);
  if (isPresent && (method === "GET" || method === "HEAD")) {
    throw new GatewayProblem("BODY_MALFORMED", "A request with the method GET or HEAD has a body", {
      hint: "Send the body with POST, or leave it out.",
    });
  }
  return { isPresent, length: isChunked ? undefined : length };
}

/** Counts the memory of all bodies that are being read, and limits it. */
export class BodyMemory {
  readonly #maxBytes: number;
  #takenBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /**
   * Reads a whole body, and calls `use` with it. The memory of the body is counted until `use` has resolved.
   *
   * @throws GatewayProblem `BODY_TOO_LARGE`, `SERVICE_BUSY`; `REQUEST_MALFORMED` if the caller leaves before the end.
   */
  async withBody<Result>(
    request: CallRequest,
    mostBytes: number,
    use: (body: Buffer) => Promise<Result>,
  ): Promise<Result> {
    const { length } = bodyInfo(request);
    if (length !== undefined && length > mostBytes) throw bodyTooLarge(mostBytes);
    let takenBytes = 0;
    try {
      const body = await wholeBody(request, (bytes) => {
        takenBytes += bytes;
        this.#takenBytes += bytes;
        if (takenBytes > mostBytes) throw bodyTooLarge(mostBytes);
        if (this.#takenBytes > this.#maxBytes) throw memoryIsTaken();
      });
      return await use(body);
    } finally {
      this.#takenBytes -= takenBytes;
    }
  }
}

/** Returns the body of a request as a stream that fails if the body is longer than `mostBytes`. Calls `onBytes` with the length of each chunk. */
export function boundedStream(request: CallRequest, mostBytes: number, onBytes: (count: number) => void): Readable {
  const { length } = bodyInfo(request);
  if (length !== undefined && length > mostBytes) throw bodyTooLarge(mostBytes);
  const counted = async function* (): AsyncGenerator<Buffer> {
    let total = 0;
    for await (const chunk of chunksOf(request)) {
      total += chunk.length;
      if (total > mostBytes) throw bodyTooLarge(mostBytes);
      onBytes(chunk.length);
      yield chunk;
    }
  };
  return Readable.from(counted(), { objectMode: false });
}

/**
 * Reads a whole body. Uses events, because an iterator would take much more time.
 *
 * @param take called with the number of bytes of each piece. If it throws, the rest is not read, and the connection stays
 * open, so that the caller gets the answer.
 */
function wholeBody(request: CallRequest, take: (bytes: number) => void): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (request.destroyed) return reject(callerLeft());
    const pieces: Buffer[] = [];
    const stop = () => {
      request.off("data", onData).off("end", onEnd).off("error", onLeft).off("close", onLeft);
    };
    const onData = (piece: Buffer) => {
      try {
        take(piece.length);
        pieces.push(piece);
      } catch (error) {
        stop();
        request.pause();
        reject(error);
      }
    };
    const onEnd = () => {
      stop();
      const [first, second] = pieces;
      // One piece needs no copy.
      resolve(first !== undefined && second === undefined ? first : Buffer.concat(pieces));
    };
    const onLeft = (cause?: unknown) => {
      stop();
      reject(cause instanceof GatewayProblem ? cause : callerLeft(cause));
    };
    request.on("data", onData).on("end", onEnd).on("error", onLeft).on("close", onLeft);
  });
}

/** Reads a body. A reader that stops early leaves the connection open, so that the caller gets the answer. */
async function* chunksOf(request: CallRequest): AsyncGenerator<Buffer> {
  try {
    yield* request.iterator({ destroyOnReturn: false });
  } catch (error) {
    throw error instanceof GatewayProblem ? error : callerLeft(error);
  }
}

/** Returns the problem for a caller that has disconnected. Only the audit and the log show it. */
export function callerLeft(cause?: unknown): GatewayProblem {
  return new GatewayProblem("REQUEST_MALFORMED", "The caller left before the call was sent to the server", {
    hint: "Wait for the answer.",
    cause,
  });
}

function bodyTooLarge(mostBytes: number): GatewayProblem {
  return new GatewayProblem("BODY_TOO_LARGE", `The body of the request is larger than ${mostBytes} bytes`, {
    hint: "Send less at once.",
  });
}

function memoryIsTaken(): GatewayProblem {
  return new GatewayProblem("SERVICE_BUSY", "The gateway reads too many large bodies now", {
    hint: "Repeat the call in some seconds.",
  });
}
