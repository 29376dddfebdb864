import { isBinary, KeywardError, type StoredValue } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";

/** The value of a record, the time of its last write, and the time at which the record expires. */
export interface RecordContent {
  readonly value: StoredValue;
  /** Time of the last write to the record, in milliseconds since the epoch. */
  readonly modified: number;
  /**
   * Time at which the record expires, in milliseconds since the epoch. The server also passes this time to the store,
   * but the store does not return it.
   */
  readonly expires: number | undefined;
}

/** A record that was read from the server's store, with the packed form in which the store has the record. */
export interface StoredRecord extends RecordContent {
  /**
   * The packed form in which the store has the record. A replacement passes this form to the store as the expected
   * value.
   */
  readonly stored: StoredValue;
}

/** Length of each time in a packed record: in bytes if the record is bytes, and in digits to the base of 36 if it is text. */
const timeBytes = 6;
const timeDigits = 10;
const latestTime = 2 ** 48 - 1;

/**
 * Packs a record into one value for the store: the time of the last write, the expiry, and then the record's value. If
 * the store cannot keep bytes, the packed record is a text. Such a text begins with "t" if the value is a text, and with
 * "b" if the value is bytes.
 */
export function packRecord(store: KeyvStorageAdapter, { value, modified, expires }: RecordContent): StoredValue {
  const times = [modified, Math.min(Math.max(0, Math.ceil(expires ?? 0)), latestTime)];
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
 * Unpacks a stored record, which {@link packRecord} packed.
 *
 * @throws KeywardError `STORE_INVALID` if `stored` does not have the form of a packed record.
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
  return new KeywardError(
    "STORE_INVALID",
    "The store of the HTTP KV server contains a value that the server did not write",
    {
      hint: "Run the server with a store, or a namespace of a store, to which no other program writes.",
    },
  );
}
