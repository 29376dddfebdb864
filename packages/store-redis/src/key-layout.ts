import { type Buffer, isUtf8 } from "node:buffer";
import { KeywardError, requireNamespace, type StoredValue } from "@keyward/core";
import type { PlaceInRedis, RecordLayout } from "./record-space.ts";
import { readValue, writeValue } from "./stored-value.ts";

/** Marks the keys of the reserved space. No escaped namespace contains this text: "%re" is not a percent-encoding. */
const reservedMark = "%reserved:";

/**
 * The layout of a `RedisStore`: the record `key` of `namespace` is stored under `prefix:namespace:key`, and a record of
 * the reserved space under `prefix:%reserved:namespace:key`.
 *
 * In the namespace, `%`, `:`, braces, spaces and control characters are percent-encoded. So a colon always ends the
 * namespace, and no namespace contains a hash tag. The record's key is not encoded. No two records have the same key in
 * Redis.
 */
export class KeyLayout implements RecordLayout {
  readonly #prefix: string;
  readonly #start: string;
  #lastEscaped = "";
  #lastNamespace: string | undefined = "";

  /**
   * Creates the layout of a store with this prefix.
   *
   * @param reserved whether the layout is for the reserved space of the store.
   * @throws KeywardError `VALUE_INVALID` if the prefix is empty, is not a well-formed string, or contains a colon. If
   * colons were allowed, stores with the prefixes "a" and "a:b" could share keys.
   */
  constructor(prefix: string, reserved = false) {
    if (prefix === "" || prefix.includes(":") || !prefix.isWellFormed()) {
      throw invalid(
        'The option "prefix" of RedisStore is empty, contains a colon, or is not a well-formed string',
        'Choose a prefix without a colon, such as "keyward" or "app.production".',
      );
    }
    this.#prefix = prefix;
    this.#start = `${prefix}:${reserved ? reservedMark : ""}`;
  }

  /** Returns the layout of the reserved space, with the same prefix. */
  reserved(): KeyLayout {
    return new KeyLayout(this.#prefix, true);
  }

  /** Returns the text with which all keys of a namespace begin in Redis. No other key begins with this text. */
  startOf(namespace: string): string {
    return `${this.#start}${escapeNamespace(namespace)}:`;
  }

  /**
   * Returns the address (namespace and key) of the record that Redis stores under `redisKey`. Returns `undefined` if
   * `redisKey` does not belong to this layout.
   */
  placeOf(redisKey: Buffer): PlaceInRedis | undefined {
    if (!isUtf8(redisKey)) return undefined;
    const at = redisKey.toString();
    if (!at.startsWith(this.#start)) return undefined;
    const end = at.indexOf(":", this.#start.length);
    if (end === -1) return undefined;
    const escaped = at.slice(this.#start.length, end);
    // A scan finds many keys of the same namespace in a row.
    if (escaped !== this.#lastEscaped) {
      this.#lastNamespace = unescapeNamespace(escaped);
      this.#lastEscaped = escaped;
    }
    const namespace = this.#lastNamespace;
    return namespace === undefined ? undefined : { namespace, key: at.slice(end + 1), at };
  }

  /**
   * Returns a pattern for the option `MATCH` of SCAN, which matches the keys of a namespace. Without an argument, the
   * pattern matches the keys of all namespaces.
   */
  patternOf(namespace?: string): string {
    const start = namespace === undefined ? this.#start : this.startOf(namespace);
    return `${escapePattern(start)}*`;
  }

  /** Returns the bytes that Redis stores for a value, by the rules of `stored-value.ts`. */
  writeValue(key: string, value: unknown): Buffer {
    return writeValue(key, value);
  }

  /** Converts the bytes that Redis stores to the value of a record, by the rules of `stored-value.ts`. */
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
    // Another program may have escaped other characters. The store would never read such a key.
    return escapeNamespace(namespace) === escaped ? namespace : undefined;
  } catch {
    return undefined;
  }
}

/** Escapes the wildcards in a text, so that the option `MATCH` of SCAN matches exactly this text. */
export function escapePattern(text: string): string {
  return text.replace(/[*?[\]\\]/g, "\\$&");
}

function invalid(message: string, hint: string): KeywardError {
  return new KeywardError("VALUE_INVALID", message, { hint });
}
