import type { Keyv, KeyvSerializationAdapter, KeyvValue } from "keyv";
import { keyvJson } from "./keyv-json.ts";
import { isKeyvValue, textOf } from "./keyv-value.ts";
import { isStoredValue, type StoredValue } from "./store-capabilities.ts";
import { asBuffer } from "./stored-bytes.ts";

/**
 * The settings with which a Keyv decodes a stored value. They are read at each call, because an application can change
 * them.
 */
type Codec = Pick<Keyv, "serialization" | "compression" | "encryption">;

/**
 * For each serialization that was used before: true if the serialization writes text. Keyv's types allow only text, but
 * some serializations write bytes.
 */
const writesText = new WeakMap<KeyvSerializationAdapter, boolean>();

/**
 * Decodes a stored value with the settings of a Keyv: decrypts, decompresses and parses the value. Unlike Keyv, also
 * decodes a value that is stored as bytes. If the serialization of the Keyv writes text, it gets the value as text,
 * otherwise as bytes.
 *
 * @returns the value, or a promise of it if one of the steps is asynchronous.
 * @throws the error of a step, and TypeError for a value that Keyv did not write.
 */
export function decodeForKeyv<Value>(codec: Codec, value: unknown): KeyvValue<Value> | Promise<KeyvValue<Value>> {
  const { serialization, compression, encryption } = codec;
  if (compression === undefined && encryption === undefined) return parse(serialization, value);
  return unwrap(codec, value).then((plain) => parse<Value>(serialization, plain));
}

async function unwrap({ compression, encryption }: Codec, value: unknown): Promise<unknown> {
  // The types of `decrypt` and `decompress` accept only text, but a value that they wrote as bytes must be passed to
  // them as bytes.
  let unwrapped: unknown = value;
  // As in Keyv, `null` means that a value is not encrypted or not compressed.
  if (encryption?.decrypt !== undefined) unwrapped = await Reflect.apply(encryption.decrypt, encryption, [unwrapped]);
  if (compression?.decompress !== undefined)
    unwrapped = await Reflect.apply(compression.decompress, compression, [unwrapped]);
  return unwrapped;
}

function parse<Value>(
  serialization: KeyvSerializationAdapter | undefined,
  value: unknown,
): KeyvValue<Value> | Promise<KeyvValue<Value>> {
  if (!isStoredValue(value)) throw new TypeError("The stored value is neither text nor bytes");
  if (serialization === undefined) throw new TypeError("The Keyv has no serialization");
  const text = serialization === keyvJson ? true : writesText.get(serialization);
  if (text === undefined) return learnType(serialization).then(() => parse<Value>(serialization, value));
  const parsed: unknown = Reflect.apply(serialization.parse, serialization, [text ? asText(value) : asBytes(value)]);
  return parsed instanceof Promise ? parsed.then(requireKeyvValue<Value>) : requireKeyvValue<Value>(parsed);
}

async function learnType(serialization: KeyvSerializationAdapter): Promise<void> {
  const written: unknown = await serialization.stringify({ value: null });
  writesText.set(serialization, typeof written === "string");
}

function asText(value: StoredValue): string {
  const text = textOf(value);
  if (text === undefined) throw new TypeError("The stored bytes are not UTF-8");
  return text;
}

function asBytes(value: StoredValue): Buffer {
  return typeof value === "string" ? Buffer.from(value) : asBuffer(value);
}

function requireKeyvValue<Value>(parsed: unknown): KeyvValue<Value> {
  if (isKeyvValue<Value>(parsed)) return parsed;
  throw new TypeError("The parsed value is not an object { value, expires } of Keyv");
}
