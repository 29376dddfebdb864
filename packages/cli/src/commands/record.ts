import { createKeyv, KeywardError, type KeywardKeyv, type RecordAddress } from "@keyward/core";
import type { ConfiguredStore } from "../configuration/config.ts";
import { requireUnscopedNamespace } from "../configuration/scope-use.ts";
import type { Context } from "../context.ts";
import { jsonOf } from "../terminal/output.ts";
import { type AddressOptions, noRecord, openAddressOf } from "./record-address.ts";

const maxValueBytes = 16 * 2 ** 20;

/** Decrypts a record, and prints its value as the application reads it. */
export async function getRecord(context: Context, key: string, options: AddressOptions): Promise<void> {
  const address = openAddressOf(key, options);
  const { output, operator } = context;
  if (output.isShown) {
    await operator.confirm("The value is plaintext, and would be shown on this terminal.", "nothing was decrypted");
  }
  await withKeyv(context, address, async (keyv) => {
    const value: unknown = await keyv.get(address.key);
    if (value === undefined) throw noRecord();
    const { text, encoding, json } = printable(value);
    if (encoding !== "json")
      output.notice(
        "The value contains bytes or big integers, which JSON cannot express. Bytes are printed in base64.",
      );
    output.result(text, { value: json, encoding });
  });
}

/** The options of `keyward record put`. */
export interface PutOptions extends AddressOptions {
  readonly text: boolean;
  /** How long the record lives, in milliseconds. */
  readonly ttl?: number;
}

/** Encrypts the value on stdin, and writes the record. */
export async function putRecord(context: Context, key: string, options: PutOptions): Promise<void> {
  const address = openAddressOf(key, options);
  const { text, ttl } = options;
  const input = await context.input(maxValueBytes);
  const value = text ? input : parse(input);
  await withKeyv(context, address, async (keyv, { store, scope }, name) => {
    if (scope === undefined && !context.mayBeEmpty(name)) {
      await requireUnscopedNamespace(name, store, keyv, address.namespace);
    }
    // This read throws if the record cannot be decrypted, so that this command never discards such a record.
    const isAbsent = (await keyv.get(address.key)) === undefined;
    context.signal.throwIfAborted();
    const isNew = isAbsent && (await refusingDepth(() => writeNew(keyv, address.key, value, ttl)));
    if (!isNew) {
      // The value is on stdin, so the operator cannot answer a question there. An operator who means to overwrite a record
      // passes --yes.
      await context.operator.confirm("The record that exists at this address would be overwritten.");
      context.signal.throwIfAborted();
      requireWritten(await refusingDepth(() => keyv.set(address.key, value, ttl)));
    }
    context.output.result(isNew ? "The record was written." : "The record was overwritten.", { overwritten: !isNew });
  });
}

/** Deletes a record. */
export async function deleteRecord(context: Context, key: string, options: AddressOptions): Promise<void> {
  const address = openAddressOf(key, options);
  await context.operator.confirm("The record would be deleted, which cannot be undone.");
  await withKeyv(context, address, async (keyv) => {
    // The operator may have stopped the command after the confirmation, while the store was opened.
    context.signal.throwIfAborted();
    const deleted = await keyv.delete(address.key);
    context.output.result(deleted ? "The record was deleted." : "There was no record at this address.", { deleted });
  });
}

async function withKeyv(
  context: Context,
  { namespace }: RecordAddress,
  work: (keyv: KeywardKeyv, configured: ConfiguredStore, name: string) => Promise<void>,
): Promise<void> {
  await context.withConfiguredStore(async (configured, name) => {
    // Reading a record with this command does not change the store.
    const keyv = createKeyv({ ...configured, namespace, reencrypt: "off" });
    try {
      await work(keyv, configured, name);
    } finally {
      await keyv.disconnect();
    }
  });
}

/** Writes a record. Returns false if another process has written a record at the address in the meantime. */
async function writeNew(keyv: KeywardKeyv, key: string, value: unknown, ttlMs: number | undefined): Promise<boolean> {
  const { replace } = keyv.encryptedStore;
  if (replace === undefined) {
    requireWritten(await keyv.set(key, value, ttlMs));
    return true;
  }
  const expires = ttlMs === undefined ? undefined : Date.now() + ttlMs;
  const encoded = await keyv.encode({ value, ...(expires === undefined ? {} : { expires }) });
  return await replace(key, undefined, String(encoded), expires ?? null);
}

function requireWritten(isWritten: boolean): void {
  if (isWritten) return;
  throw new KeywardError("STORE_UNAVAILABLE", "The store refused the record, so nothing was written", {
    hint: "Check that the store may be written to, and run the command again.",
  });
}

/** Runs a write. Throws an error with an explanation if the value is nested more deeply than the serialization can write. */
async function refusingDepth<Result>(write: () => Promise<Result>): Promise<Result> {
  try {
    return await write();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw invalidValue("The value on stdin is nested too deeply", "Write a value with fewer nested lists and objects.");
  }
}

function parse(input: string): unknown {
  const value = parseJson(input);
  for (const number of numbersIn(input)) {
    if (isExact(number)) continue;
    throw invalidValue(
      "The value on stdin has a number with more digits than JavaScript keeps",
      "Write the number in quotes, or the whole value as a text with `--text`.",
    );
  }
  return value;
}

/** Yields the numbers of a JSON text as they are written. Skips numbers in strings. */
function* numbersIn(json: string): Generator<string> {
  const token = /"|-?\d[\d.eE+-]*/g;
  for (let found = token.exec(json); found !== null; found = token.exec(json)) {
    if (found[0] === '"') token.lastIndex = endOfString(json, found.index);
    else yield found[0];
  }
}

/** Returns the index after the string that begins at `start`. */
function endOfString(json: string, start: number): number {
  let at = start + 1;
  while (at < json.length && json[at] !== '"') at += json[at] === "\\" ? 2 : 1;
  return at + 1;
}

/** Returns whether JavaScript keeps all digits of the number in this text. The notation of the number may change. */
function isExact(number: string): boolean {
  const value = Number(number);
  return Number.isFinite(value) && sameDigits(number) === sameDigits(String(value));
}

/** Returns a decimal number in a fixed notation: its digits without leading and trailing zeros, and its exponent. */
function sameDigits(number: string): string {
  const [, whole = "", fraction = "", exponent = "0"] = /^-?(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?$/.exec(number) ?? [];
  const digits = whole + fraction;
  const leading = /^0*/.exec(digits)?.[0].length ?? 0;
  if (leading === digits.length) return "0";
  const place = whole.length - leading + Number(exponent);
  return `${digits.slice(leading).replace(/0+$/, "")} ${place}`;
}

function parseJson(input: string): unknown {
  try {
    return JSON.parse(input);
  } catch (error) {
    // The message of the parser quotes the value, so only the place in it is passed on.
    const place = /\(line \d+ column \d+\)/.exec(error instanceof Error ? error.message : "")?.[0] ?? "";
    const message = `The value on stdin is not JSON ${place}`.trim();
    throw invalidValue(message, "Correct the JSON. To write a text that is not JSON, add `--text`.");
  }
}

function invalidValue(message: string, hint: string): KeywardError {
  return new KeywardError("VALUE_INVALID", message, { hint });
}

interface Printable {
  /** The text for people, which is JSON, or the base64 of bytes. */
  readonly text: string;
  /** The value as JSON can write it. */
  readonly json: unknown;
  /** "json" for a value that is JSON, "base64" for bytes, "mixed" for a value with parts that are printed as strings. */
  readonly encoding: "json" | "base64" | "mixed";
}

/** Returns a value in the form in which it is printed. Bytes are encoded in base64, and big integers as digits. */
function printable(value: unknown): Printable {
  if (value instanceof Uint8Array) {
    const text = Buffer.from(value).toString("base64");
    return { text, json: text, encoding: "base64" };
  }
  let isEncoded = false;
  const written = JSON.stringify(value, function (this: object, name: string, part: unknown): unknown {
    // A Buffer has a method toJSON, which has changed `part` already.
    const original: unknown = Reflect.get(this, name);
    if (original instanceof Uint8Array || typeof original === "bigint") isEncoded = true;
    if (original instanceof Uint8Array) return Buffer.from(original).toString("base64");
    return typeof part === "bigint" ? String(part) : part;
  });
  const json: unknown = JSON.parse(written);
  return { text: jsonOf(json), json, encoding: isEncoded ? "mixed" : "json" };
}
