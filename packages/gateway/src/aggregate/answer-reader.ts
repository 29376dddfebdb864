import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { type Json, parseJson } from "./json.ts";

/** Thrown when a server's answer does not follow the MCP protocol. */
export class UnreadableAnswerError extends Error {
  override readonly name = "UnreadableAnswerError";
}

/** Thrown when the gateway has no memory left to read an answer. It says nothing about the server. */
export class NoMemoryError extends UnreadableAnswerError {}

/** The longest message of a server, in bytes. */
const longestMessage = 16 * 1_048_576;
/** A server that stops in the middle of an event would keep the memory of the event. */
const longestEventMs = 30_000;

/** Counts the memory that messages of all servers take together, and limits it. */
export class MessageMemory {
  readonly #maxBytes: number;
  readonly #whole: MessageMemory | undefined;
  #takenBytes = 0;

  /** @param whole the memory of which this one is a part. Default: none. */
  constructor(maxBytes: number, whole?: MessageMemory) {
    this.#maxBytes = maxBytes;
    this.#whole = whole;
  }

  hasRoomFor(bytes: number): boolean {
    return this.#takenBytes + bytes <= this.#maxBytes && this.#whole?.hasRoomFor(bytes) !== false;
  }

  /** Counts the bytes of a message that is being read. @throws NoMemoryError if they would exceed the limit. */
  take(bytes: number): void {
    if (!this.hasRoomFor(bytes)) {
      throw new NoMemoryError("The gateway reads too many large answers now. Repeat the call in some seconds");
    }
    this.#takenBytes += bytes;
    this.#whole?.take(bytes);
  }

  release(bytes: number): void {
    this.#takenBytes -= bytes;
    this.#whole?.release(bytes);
  }
}

/** Reads the whole body of an answer as JSON. @throws UnreadableAnswerError. */
export async function jsonOf(body: Readable, memory: MessageMemory): Promise<Json> {
  const pieces: Buffer[] = [];
  let length = 0;
  try {
    for await (const piece of body) {
      const bytes: Buffer = piece;
      memory.take(bytes.length);
      length += bytes.length;
      if (length > longestMessage) throw new UnreadableAnswerError("The answer of the server is too large");
      pieces.push(bytes);
    }
    return parsed(Buffer.concat(pieces).toString());
  } finally {
    memory.release(length);
  }
}

/** Yields the JSON of each event of a stream. Comments, and events without data, are left out. @throws UnreadableAnswerError. */
export async function* eventsOf(body: Readable, memory: MessageMemory): AsyncGenerator<Json> {
  let taken = 0;
  let late: NodeJS.Timeout | undefined;
  const stop = () => body.destroy(new UnreadableAnswerError("The server stopped within an event"));
  try {
    yield* events(body, (bytes) => {
      if (bytes > 0) {
        memory.take(bytes);
        late ??= setTimeout(stop, longestEventMs).unref();
      } else {
        memory.release(taken);
        clearTimeout(late);
        late = undefined;
      }
      taken = bytes > 0 ? taken + bytes : 0;
      if (taken > longestMessage) throw new UnreadableAnswerError("An event of the server is too large");
    });
  } finally {
    clearTimeout(late);
    memory.release(taken);
  }
}

/** @param take called with the bytes of each piece, and with 0 at the end of an event. */
async function* events(body: Readable, take: (bytes: number) => void): AsyncGenerator<Json> {
  const decoder = new StringDecoder("utf8");
  // The pieces of the last, incomplete line. A long line is not searched again for each piece.
  let pieces: string[] = [];
  let data: string[] = [];
  let isMessage = true;
  for await (const chunk of body) {
    const bytes: Buffer = chunk;
    take(bytes.length);
    const piece = decoder.write(bytes);
    pieces.push(piece);
    if (!/[\r\n]/.test(piece)) continue;
    // A carriage return at the end may be the first half of a line end.
    const lines = pieces.join("").split(/\r\n|\n|\r(?!$)/);
    pieces = [lines.pop() ?? ""];
    for (const line of lines) {
      if (line === "") {
        const message = data.length > 0 && isMessage ? parsed(data.join("\n")) : undefined;
        data = [];
        take(0);
        isMessage = true;
        if (message !== undefined) yield message;
      } else if (line.startsWith("data:")) {
        const text = line.slice(line.startsWith("data: ") ? 6 : 5);
        // An event with an id and empty data only tells the client where it can resume the stream.
        if (text !== "") data.push(text);
      } else if (line.startsWith("event:")) {
        isMessage = line.slice(6).trim() === "message";
      }
    }
  }
}

function parsed(text: string): Json {
  try {
    return parseJson(text);
  } catch (cause) {
    throw new UnreadableAnswerError("The answer of the server is not JSON", { cause });
  }
}
