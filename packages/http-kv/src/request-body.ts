import type { Hash } from "node:crypto";
import type { StoredValue } from "@keyward/core";
import type { HeldBytes } from "./bytes-under-way.ts";
import { type Incoming, pieceBytes } from "./exchange.ts";
import { type JsonBounds, JsonReader, JsonRefusal } from "./json-reader.ts";
import { invalid, Refusal } from "./protocol.ts";
import { TextParts, wholeCharacters } from "./text-parts.ts";

/** Bounds of a request's body. */
export interface BodyLimits {
  readonly maxBytes: number;
  /** How long it may take to arrive, in ms. */
  readonly timeoutMs: number;
  /** Where is counted what it needs in memory. */
  readonly held: HeldBytes;
  /** What gets all its bytes, so that two bodies can be told apart. */
  readonly digest: Hash | undefined;
}

/**
 * The JSON of a body, which is read, bounded and decoded while it arrives.
 *
 * @throws Refusal `TOO_LARGE`, as soon as that is known; `REQUEST_INVALID`; `REQUEST_TIMEOUT`; `OVERLOADED`.
 */
export async function readJson(
  incoming: Incoming,
  limits: BodyLimits,
  bounds: Pick<JsonBounds, "maxDepth" | "maxParts">,
): Promise<unknown> {
  const jsonBounds = { ...bounds, maxBytes: limits.maxBytes, weigh: weighing(limits) };
  const announced = incoming.header("content-length");
  try {
    if (announced !== null && Number(announced) <= pieceBytes) {
      return JsonReader.readWhole(await readBytes(incoming, limits), jsonBounds);
    }
    const reader = new JsonReader(jsonBounds);
    await readPieces(incoming, limits, (piece) => reader.write(piece));
    return reader.end();
  } catch (error) {
    if (!(error instanceof JsonRefusal)) throw error;
    switch (error.reason) {
      case "malformed":
        throw invalid("The body is not JSON");
      case "too deep":
        throw invalid("The body has lists or objects that are too deep in one another");
      case "too large":
        throw new Refusal("TOO_LARGE", "The body has more than the operation takes");
    }
  }
}

/**
 * The value that a body is.
 *
 * @throws Refusal as {@link readJson}.
 */
export async function readValue(incoming: Incoming, limits: BodyLimits, type: "text" | "bytes"): Promise<StoredValue> {
  if (type === "bytes") return await readBytes(incoming, limits);
  const text = new TextParts(weighing(limits));
  let rest: Uint8Array = new Uint8Array();
  try {
    await readPieces(incoming, limits, (piece) => {
      const bytes = rest.length === 0 ? piece : Buffer.concat([rest, piece]);
      const end = wholeCharacters(bytes, bytes.length);
      text.add(bytes.subarray(0, end));
      rest = bytes.slice(end);
    });
    text.add(rest);
  } catch (error) {
    throw error instanceof TypeError ? invalid("The text is not UTF-8") : error;
  }
  return text.join();
}

async function readBytes(incoming: Incoming, limits: BodyLimits): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  await readPieces(incoming, limits, (piece) => {
    limits.held.add(piece.length);
    pieces.push(piece);
  });
  const [first] = pieces;
  if (first !== undefined && pieces.length === 1) {
    return Buffer.from(first.buffer, first.byteOffset, first.byteLength);
  }
  limits.held.add(pieces.reduce((sum, { length }) => sum + length, 0));
  return Buffer.concat(pieces);
}

async function readPieces(
  incoming: Incoming,
  { maxBytes, timeoutMs, digest }: BodyLimits,
  take: (piece: Uint8Array) => void,
): Promise<void> {
  const tooLarge = () => new Refusal("TOO_LARGE", `The body is larger than ${maxBytes} bytes`);
  if (Number(incoming.header("content-length") ?? 0) > maxBytes) throw tooLarge();
  let bytes = 0;
  const { done, stop } = incoming.read((piece) => {
    bytes += piece.length;
    if (bytes > maxBytes) throw tooLarge();
    digest?.update(piece);
    take(piece);
  });
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Refusal("REQUEST_TIMEOUT", "The body took too long to arrive")), timeoutMs);
  });
  try {
    await Promise.race([done, late]);
  } finally {
    clearTimeout(timer);
    stop();
  }
}

/** A body counts at most twice what it may have on the wire: text beyond ASCII may have two bytes a character. */
function weighing({ held, maxBytes }: BodyLimits): (bytes: number) => void {
  let counted = 0;
  return (bytes) => {
    const more = Math.min(bytes, 2 * maxBytes - counted);
    counted += more;
    if (more > 0) held.add(more);
  };
}
