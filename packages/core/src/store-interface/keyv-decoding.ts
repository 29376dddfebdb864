import type { Keyv, KeyvSerializationAdapter, KeyvValue } from "keyv";
import { isStoredValue, type StoredValue } from "./capabilities.ts";
import { keyvJson } from "./keyv-json.ts";
import { isKeyvValue, textOf } from "./keyv-value.ts";
import { asBuffer } from "./stored-bytes.ts";

/** How a Keyv turns what a store holds into a value: what is set on it at the time of the read. */
type Codec = Pick<Keyv, "serialization" | "compression" | "encryption">;

/** Serializations seen, and whether they write text; by Keyv's types all do, but some write bytes. */
const writesText = new WeakMap<KeyvSerializationAdapter, boolean>();

/**
 * Decodes a value as Keyv does, and bytes too, which Keyv would take for decoded: it decrypts, decompresses and parses.
 * A serialization gets to parse what it writes, text or bytes. A promise only where a step gives one.
 *
 * @throws what a step throws, and TypeError for what is no value of Keyv's.
 */
export function decodeForKeyv<Value>(codec: Codec, value: unknown): KeyvValue<Value> | Promise<KeyvValue<Value>> {
  const { serialization, compression, encryption } = codec;
  if (compression === undefined && encryption === undefined) return parse(serialization, value);
  return unwrap(codec, value).then((plain) => parse<Value>(serialization, plain));
}

async function unwrap({ compression, encryption }: Codec, value: unknown): Promise<unknown> {
  // Their types speak of text; what they wrote as bytes they get back as bytes.
  let unwrapped: unknown = value;
  // As in Keyv, `null` is none.
  if (encryption?.decrypt !== undefined) unwrapped = await Reflect.apply(encryption.decrypt, encryption, [unwrapped]);
  if (compression?.decompress !== undefined)
    unwrapped = await Reflect.apply(compression.decompress, compression, [unwrapped]);
  return unwrapped;
}

function parse<Value>(
  serialization: KeyvSerializationAdapter | undefined,
  value: unknown,
): KeyvValue<Value> | Promise<KeyvValue<Value>> {
  if (!isStoredValue(value)) throw new TypeError("neither text nor bytes");
  if (serialization === undefined) throw new TypeError("no serialization");
  const text = serialization === keyvJson ? true : writesText.get(serialization);
  if (text === undefined) return probe(serialization).then(() => parse<Value>(serialization, value));
  const parsed: unknown = Reflect.apply(serialization.parse, serialization, [text ? asText(value) : asBytes(value)]);
  return parsed instanceof Promise ? parsed.then(requireKeyvValue<Value>) : requireKeyvValue<Value>(parsed);
}

async function probe(serialization: KeyvSerializationAdapter): Promise<void> {
  const written: unknown = await serialization.stringify({ value: null });
  writesText.set(serialization, typeof written === "string");
}

function asText(value: StoredValue): string {
  const text = textOf(value);
  if (text === undefined) throw new TypeError("not UTF-8");
  return text;
}

function asBytes(value: StoredValue): Buffer {
  return typeof value === "string" ? Buffer.from(value) : asBuffer(value);
}

function requireKeyvValue<Value>(parsed: unknown): KeyvValue<Value> {
  if (isKeyvValue<Value>(parsed)) return parsed;
  throw new TypeError("not Keyv's");
}
