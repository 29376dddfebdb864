import { EncryptedStore, Keyring, KeywardError } from "@keyward/core";
import { reencryptionWorker, startReencryption } from "@keyward/reencrypt-bullmq";
import { MemoryStore } from "@keyward/store-memory";
import { expect, it } from "vitest";

// Nothing listens at this address: invalid options are refused before a connection is opened.
const connection = "redis://127.0.0.1:1";
const store = new EncryptedStore(new MemoryStore(), { keys: Keyring.generate() });

async function codeOf(call: unknown, options: object): Promise<string> {
  if (typeof call !== "function") throw new Error("the call is not a function");
  try {
    await Reflect.apply(call, undefined, [options]);
  } catch (error) {
    if (error instanceof KeywardError) return error.code;
    throw error;
  }
  return "the options were accepted";
}

it.each([
  { misspelt: 1 },
  { ranges: 0 },
  { ranges: Number.NaN },
  { attempts: Number.POSITIVE_INFINITY },
  { attempts: 1.5 },
])("startReencryption refuses the invalid option %o", async (option) => {
  expect(await codeOf(startReencryption, { connection, store, ...option })).toBe("VALUE_INVALID");
});

it.each([
  { misspelt: 1 },
  { lockMs: Number.NaN },
  { lockMs: 2 ** 31 },
  { batchSize: 0 },
  { concurrency: -1 },
  { maxPerSecond: Number.NaN },
])("reencryptionWorker refuses the invalid option %o", async (option) => {
  expect(await codeOf(reencryptionWorker, { connection, store, ...option })).toBe("VALUE_INVALID");
});

it.each([undefined, null, {}, new MemoryStore()])(
  "startReencryption and reencryptionWorker refuse a store that is not encrypted: %o",
  async (given) => {
    for (const call of [startReencryption, reencryptionWorker]) {
      expect(await codeOf(call, { connection, store: given })).toBe("STORE_INVALID");
    }
  },
);
