import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";
import { type Json, parseJson } from "./json.ts";

/** A server's answer that is not what MCP allows. */
export class UnreadableAnswerError extends Error {
  override readonly name = "UnreadableAnswerError";
}

/** The longest message of a server, in characters. */
export const longestMessage = 16 * 1_048_576;

/** Reads the JSON of an answer. @throws UnreadableAnswerError. */
export async function jsonOf(body: Readable): Promise<Json> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of body) {
    const bytes: Buffer = piece;
    length += bytes.length;
    if (length > longestMessage) throw new UnreadableAnswerError("The answer of the server is too large");
    pieces.push(bytes);
  }
  return parsed(Buffer.concat(pieces).toString());
}

/** Yields the JSON of each event of a stream. Comments, and events without data, are left out. @throws UnreadableAnswerError. */
export async function* eventsOf(body: Readable): AsyncGenerator<Json> {
  const decoder = new StringDecoder("utf8");
  // The pieces of a line that has not ended. A long line is not searched again for each piece.
  let pieces: string[] = [];
  let data: string[] = [];
  let isMessage = true;
  let length = 0;
  for await (const chunk of body) {
    const bytes: Buffer = chunk;
    const piece = decoder.write(bytes);
    length += piece.length;
    if (length > longestMessage) throw new UnreadableAnswerError("An event of the server is too large");
    pieces.push(piece);
    if (!/[\r\n]/.test(piece)) continue;
    // A carriage return at the end may be the first half of a line end.
    const lines = pieces.join("").split(/\r\n|\n|\r(?!$)/);
    pieces = [lines.pop() ?? ""];
    for (const line of lines) {
      if (line === "") {
        if (data.length > 0 && isMessage) yield parsed(data.join("\n"));
        data = [];
        length = 0;
        isMessage = true;
      } else if (line.startsWith("data:")) {
        const text = line.slice(line.startsWith("data: ") ? 6 : 5);
        // An event that only names its id, so that the client can come back, has empty data.
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
