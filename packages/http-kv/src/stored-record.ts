import { isBinary, KeywardError, type StoredValue } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";

/** A value, and what the server keeps beside it in the same record of its store. */
export interface RecordContent {
  readonly value: StoredValue;
  /** When it was written, in ms since the epoch. */
  readonly modified: number;
  /** When it ends, in ms since the epoch. The store knows as well, but does not tell. */
  readonly expires: number | undefined;
}

/** A record as it was read. */
export interface StoredRecord extends RecordContent {
  /** What the store holds, for a comparison. */
  readonly stored: StoredValue;
}

/** A time has so many bytes before bytes, and so many digits to the base of 36 before text. */
const timeBytes = 6;
const timeDigits = 10;
const mostTime = 2 ** 48 - 1;

/** What a store is to hold: the times, then the value. A store of text gets text in any case, marked with its type. */
export function packRecord(store: KeyvStorageAdapter, { value, modified, expires }: RecordContent): StoredValue {
  const times = [modified, Math.min(Math.max(0, Math.ceil(expires ?? 0)), mostTime)];
  if (typeof value !== "string" && isBinary(store)) {
    const packed = Buffer.allocUnsafeSlow(2 * timeBytes + value.length);
    for (const [index, time] of times.entries()) packed.writeUIntBE(time, index * timeBytes, timeBytes);
    packed.set(value, 2 * timeBytes);
    return packed;
  }
  const text = times.map((time) => time.toString(36).padStart(timeDigits, "0")).join("");
  if (isBinary(store)) return `${text}${value}`;
  return typeof value === "string" ? `t${text}${value}` : `b${text}${Buffer.from(value).toString("base64")}`;
}

/**
 * What {@link packRecord} made.
 *
 * @throws KeywardError `STORE_INVALID` for anything else.
 */
export function unpackRecord(store: KeyvStorageAdapter, stored: unknown): StoredRecord {
  if (stored instanceof Uint8Array && isBinary(store) && stored.length >= 2 * timeBytes) {
    const bytes = Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength);
    const [modified, expires] = [bytes.readUIntBE(0, timeBytes), bytes.readUIntBE(timeBytes, timeBytes)];
    return { value: bytes.subarray(2 * timeBytes), modified, expires: expires === 0 ? undefined : expires, stored };
  }
  if (typeof stored !== "string") throw unreadable();
  const start = isBinary(store) ? 0 : 1;
  const end = start + 2 * timeDigits;
  const times = stored.slice(start, end);
  if (!/^[0-9a-z]{20}$/.test(times)) throw unreadable();
  const modified = Number.parseInt(times.slice(0, timeDigits), 36);
  const expires = Number.parseInt(times.slice(timeDigits), 36);
  const text = stored.slice(end);
  const isText = isBinary(store) || stored.startsWith("t");
  if (!isText && !stored.startsWith("b")) throw unreadable();
  return {
    value: isText ? text : Buffer.from(text, "base64"),
    modified,
    expires: expires === 0 ? undefined : expires,
    stored,
  };
}

function unreadable(): KeywardError {
  return new KeywardError("STORE_INVALID", "The store holds a value that this server did not write", {
    hint: "Give the server a store, or a namespace of one, that nothing else writes to.",
  });
}
