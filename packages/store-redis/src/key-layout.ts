import { type Buffer, isUtf8 } from "node:buffer";
import { KeywardError, requireNamespace, type StoredValue } from "@keyward/core";
import type { PlaceInRedis, RecordLayout } from "./record-space.ts";
import { readValue, writeValue } from "./stored-value.ts";

/** What no namespace can be written as: "%re" is not an escape. */
const reservedMark = "%reserved:";

/**
 * How a record's place is written as a key of Redis: `prefix:namespace:key`. In the namespace `%`, `:`, braces, spaces and
 * control characters are percent-encoded, so that its end is the first colon and it makes no hash tag; the key is as it
 * is. In the reserved space it is `prefix:%reserved:namespace:key`. No two places share a key.
 */
export class KeyLayout implements RecordLayout {
  readonly #prefix: string;
  readonly #start: string;
  #lastEscaped = "";
  #lastNamespace: string | undefined = "";

  /**
   * @throws KeywardError `VALUE_INVALID` for a prefix that is empty, ill-formed or has a colon: "a" and "a:b" would share
   * keys.
   */
  constructor(prefix: string, reserved = false) {
    if (prefix === "" || prefix.includes(":") || !prefix.isWellFormed()) {
      throw invalid("The prefix is empty, ill-formed or has a colon", "Choose one such as keyward or app.production.");
    }
    this.#prefix = prefix;
    this.#start = `${prefix}:${reserved ? reservedMark : ""}`;
  }

  /** The reserved space beside the records of this layout. */
  reserved(): KeyLayout {
    return new KeyLayout(this.#prefix, true);
  }

  /** What all keys of a namespace begin with, and no others. */
  startOf(namespace: string): string {
    return `${this.#start}${escapeNamespace(namespace)}:`;
  }

  /** The place that a key of Redis stands for; `undefined` where it is none of this layout. */
  placeOf(redisKey: Buffer): PlaceInRedis | undefined {
    if (!isUtf8(redisKey)) return undefined;
    const at = redisKey.toString();
    if (!at.startsWith(this.#start)) return undefined;
    const end = at.indexOf(":", this.#start.length);
    if (end === -1) return undefined;
    const escaped = at.slice(this.#start.length, end);
    // A scan comes upon the same namespace again and again.
    if (escaped !== this.#lastEscaped) {
      this.#lastNamespace = unescapeNamespace(escaped);
      this.#lastEscaped = escaped;
    }
    const namespace = this.#lastNamespace;
    return namespace === undefined ? undefined : { namespace, key: at.slice(end + 1), at };
  }

  /** What `MATCH` takes for the keys of one namespace, or for those of all. */
  patternOf(namespace?: string): string {
    const start = namespace === undefined ? this.#start : this.startOf(namespace);
    return `${escapePattern(start)}*`;
  }

  /** See `stored-value.ts`: text and bytes. */
  writeValue(key: string, value: unknown): Buffer {
    return writeValue(key, value);
  }

  /** As it was written. */
  readValue(bytes: Buffer): StoredValue {
    return readValue(bytes);
  }
}

function escapeNamespace(namespace: string): string {
  return requireNamespace(namespace).replace(/[%:{}\p{Cc}\p{Z}]/gu, encodeURIComponent);
}

function unescapeNamespace(escaped: string): string | undefined {
  try {
    const namespace = decodeURIComponent(escaped);
    // Others may have escaped what we do not: such a key is of no place that we would look at.
    return escapeNamespace(namespace) === escaped ? namespace : undefined;
  } catch {
    return undefined;
  }
}

/** What `MATCH` takes for exactly this text. */
export function escapePattern(text: string): string {
  return text.replace(/[*?[\]\\]/g, "\\$&");
}

function invalid(message: string, hint: string): KeywardError {
  return new KeywardError("VALUE_INVALID", message, { hint });
}
