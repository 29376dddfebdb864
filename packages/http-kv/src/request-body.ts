import type { Hash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { StoredValue } from "@keyward/core";
import { ByteBlocks } from "./byte-blocks.ts";
import { type Incoming, pieceBytes } from "./exchange.ts";
import { type JsonBounds, JsonReader, JsonRefusal } from "./json-reader.ts";
import type { RequestMemory } from "./memory-budget.ts";
import { invalid, Refusal } from "./protocol.ts";

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Limits for reading the body of a request. */
export interface BodyLimits {
  readonly maxBytes: number;
  /** How long the body may take to arrive, in milliseconds. */
  readonly timeoutMs: number;
  /** The memory that the request has reserved. Reading the body reserves more. */
  readonly memory: RequestMemory;
  /** The hash of the request, to which the body is added. `undefined` if no hash is needed. */
  readonly digest: Hash | undefined;
}

/**
 * Reads the JSON body of a request. While the body arrives, its bounds are checked and its long strings are decoded.
 *
 * @throws Refusal `TOO_LARGE`, `REQUEST_INVALID`, `REQUEST_TIMEOUT` or `OVERLOADED`. If the body exceeds one of its
 * bounds, the rest of the body is not read.
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
        throw invalid("The lists and objects of the body are nested too deeply");
      case "too large":
        throw new Refusal("TOO_LARGE", "The body has more records or bytes than the operation accepts");
    }
  }
}

/**
 * Reads a body that is the value of a record.
 *
 * @throws Refusal `TOO_LARGE`, `REQUEST_INVALID`, `REQUEST_TIMEOUT` or `OVERLOADED`.
 */
export async function readValue(incoming: Incoming, limits: BodyLimits, type: "text" | "bytes"): Promise<StoredValue> {
  const bytes = await readBytes(incoming, limits);
  if (type === "bytes") return bytes;
  await setImmediate();
  const text = decodeText(bytes);
  const isWide = text.length !== bytes.length;
  limits.memory.giveBack(bytes.length);
  limits.memory.reserve(isWide ? 2 * text.length : text.length);
  return text;
}

function decodeText(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw invalid("The body is text that is not UTF-8");
  }
}

async function readBytes(incoming: Incoming, limits: BodyLimits): Promise<Buffer> {
  const blocks = new ByteBlocks();
  await readPieces(incoming, limits, (piece) => {
    limits.memory.reserve(piece.length);
    blocks.add(piece);
  });
  return blocks.join();
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

/** Returns a function that reserves memory for a body, at most twice `maxBytes`, since a character may need two bytes. */
function weighing({ memory, maxBytes }: BodyLimits): (bytes: number) => void {
  let counted = 0;
  return (bytes) => {
    const more = Math.min(bytes, 2 * maxBytes - counted);
    counted += more;
    if (more > 0) memory.reserve(more);
  };
}
