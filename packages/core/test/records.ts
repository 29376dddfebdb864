import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { open, readHeader, type SealOptions, seal } from "../src/envelope/envelope.ts";
import type { RootKey } from "../src/envelope/root-key.ts";
import { KeywardError } from "../src/errors/errors.ts";
import { EncryptedStore } from "../src/store/encrypted-store.ts";
import type { EncryptedStoreOptions } from "../src/store/encrypted-store-options.ts";
import type { RecordAddress, RecordContent, ValueForm } from "../src/store-interface/record.ts";

// With this unit, the strings of fast-check consist of well-formed code points, including surrogate pairs.
const text = (maxLength: number): fc.Arbitrary<string> => fc.string({ unit: "binary", maxLength });

export const anyAddress: fc.Arbitrary<RecordAddress> = fc.record({ namespace: text(12), key: text(24) });
export const anyKeyId: fc.Arbitrary<string> = fc.stringMatching(/^[A-Za-z0-9_-]{1,32}$/);
export const anyForm: fc.Arbitrary<ValueForm> = fc.constantFrom("text", "binary");
export const anyPadTo: fc.Arbitrary<number | undefined> = fc.option(fc.integer({ min: 1, max: 300 }), {
  nil: undefined,
});
export const anyRoot: fc.Arbitrary<Buffer> = fc.constant(undefined).map(() => randomBytes(32));

const anyValue: fc.Arbitrary<string | Buffer> = fc.oneof(
  text(400),
  fc.constantFrom("", "\ufeff", "kw1.", '{"value":1}'),
  fc.uint8Array({ maxLength: 400 }).map((bytes) => Buffer.from(bytes)),
);

export const anyContent: fc.Arbitrary<RecordContent> = fc
  .tuple(anyValue, fc.option(fc.integer({ min: 0, max: 2 ** 48 - 1 }), { nil: undefined }))
  .map(([value, expires]) => (expires === undefined ? { value } : { value, expires }));

/** Encrypts a record to a string in the text form, and to a Buffer in the binary form. */
export function sealStored(
  keyId: string,
  root: RootKey,
  address: RecordAddress,
  content: RecordContent,
  options: SealOptions,
): string | Buffer {
  const sealed = seal(keyId, root, address, content, options);
  return typeof sealed === "string" ? sealed : Buffer.from(sealed);
}

/** Decrypts a record like a reader that has one key. */
export function openStored(
  stored: string | Buffer,
  keyId: string,
  root: RootKey,
  address: RecordAddress,
): RecordContent {
  const header = readHeader(stored, address);
  if (header === undefined) throw new KeywardError("RECORD_NOT_SEALED", "Not an envelope", { hint: "-" });
  if (header.keyId !== keyId) throw new KeywardError("KEY_UNKNOWN", "Another key", { hint: "-" });
  return open(stored, header, root, address);
}

/** Returns a store over a Map with one stored value, in the form in which Keyv's adapter over a Map keeps it. */
export function storeHolding(
  stored: unknown,
  { namespace, key }: RecordAddress,
  options: EncryptedStoreOptions,
): EncryptedStore {
  const at = namespace === "" ? key : `${namespace}::${key}`;
  const store = new EncryptedStore(new Map([[at, { value: stored, expires: undefined }]]), options);
  if (namespace !== "") store.namespace = namespace;
  return store;
}

/**
 * Returns the code of the KeywardError that a call throws; `undefined` if the call returns. Rethrows any other error.
 */
export function codeOf(call: () => unknown): string | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    if (error instanceof KeywardError) return error.code;
    throw error;
  }
}
