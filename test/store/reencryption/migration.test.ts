import { createCipheriv, randomBytes } from "node:crypto";
import * as hapiIron from "@hapi/iron";
import { aesGcm, createKeyv, cryptoJs, EncryptedStore, iron, migrate, plaintext, reencrypt } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import CryptoJS from "crypto-js";
import { KeyvMemoryAdapter } from "keyv";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { expectNoSecrets, marker } from "../secrets.ts";
import { contentOf, keyIdIn } from "../store/inner-stores.ts";

const password = randomBytes(24).toString("hex");
const secret = randomBytes(32);

function encryptGcm(text: string, key: Uint8Array): string {
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", key, iv);
  const ciphertext = Buffer.concat([cipher.update(text), cipher.final()]);
  return [iv, cipher.getAuthTag(), ciphertext].map((part) => part.toString("hex")).join(":");
}

describe("the expiry in a foreign record", () => {
  it.each([3_600, 3_600_000, 86_400_000, 500_000_000_000, 0, -1, Date.now() - 1_000])(
    "does not stop a job or remove the record if it is %d, which is in the past",
    async (expires) => {
      const inner = new MemoryStore();
      const flows = inner.namespaced("flows");
      const stored = JSON.stringify({ value: "x", expires });
      await flows.set("ended", stored);
      await flows.set("live", JSON.stringify({ value: "y", expires: Date.now() + 3_600_000 }));
      const keyv = createKeyv({ store: inner, keys: newRing("k1"), namespace: "flows", accept: [plaintext()] });
      const dry = await reencrypt(keyv, { dryRun: true });
      const report = await reencrypt(keyv);
      expect({ ...report, ratePerSecond: 0 }).toMatchObject({ unreadable: dry.unreadable, removed: 0 });
      expect(await flows.get("ended")).toBeDefined();
      expect(keyIdIn(await flows.get("live"))).toBe("k1");
      expect(await keyv.get("live")).toBe("y");
    },
  );
});

/** A store as it is found in practice: several formats, several namespaces, and records that no format reads. */
async function mixed() {
  const inner = new MemoryStore();
  const flows = inner.namespaced("flows");
  const keys = newRing("k1");
  const value = `${marker}value`;
  await createKeyv({ store: inner, keys, namespace: "flows" }).set("envelope", value);
  for (let index = 0; index < 3; index++) {
    await flows.set(`iron ${index}`, await hapiIron.seal({ value }, password, hapiIron.defaults));
  }
  for (let index = 0; index < 2; index++) await inner.set(`plain ${index}`, JSON.stringify({ value }));
  await inner.set("cryptojs", CryptoJS.AES.encrypt(JSON.stringify({ value }), password).toString());
  for (let index = 0; index < 7; index++) {
    await flows.set(`lost ${index}`, encryptGcm(JSON.stringify({ value: value.repeat(index + 1) }), randomBytes(32)));
  }
  await flows.set("odd", `${value} is no format`);
  await flows.set("found", encryptGcm(JSON.stringify({ value }), secret));
  const accept = [
    iron({ password }),
    aesGcm({ key: secret, layout: "iv-tag-ciphertext", joinedBy: ":", encoding: "hex" }),
    cryptoJs({ passphrase: password }),
    plaintext(),
  ];
  return { inner, flows, keys, value, store: createKeyv({ store: inner, keys, accept, reencrypt: "off" }) };
}

const surveyed = {
  scanned: 16,
  envelopes: 1,
  formats: [
    { format: "iron", records: 3, expired: 0, encryptable: true },
    { format: "plaintext", records: 2, expired: 0, encryptable: true },
    { format: "aes-gcm iv-tag-ciphertext", records: 1, expired: 0, encryptable: true },
    { format: "cryptojs", records: 1, expired: 0, encryptable: false },
  ],
  unread: [
    { shape: "hex(12 bytes):hex(16 bytes):hex(bytes)", code: "RECORD_TAMPERED", records: 7 },
    { shape: expect.stringMatching(/^text, up to \d+ long$/), code: "RECORD_NOT_SEALED", records: 1 },
  ],
};

describe("migrate", () => {
  it("reports in a dry run which records each format reads, which records are left and why, and writes nothing", async () => {
    const { inner, store } = await mixed();
    const before = await contentOf(inner);
    const report = await migrate(store, { dryRun: true });
    expect({ ...report, formats: [...report.formats].sort(byName) }).toMatchObject({
      ...surveyed,
      formats: [...surveyed.formats].sort(byName),
      reencryption: undefined,
      complete: false,
    });
    expect(report.unread[0]?.examples).toHaveLength(5);
    expect(report.unread[1]?.examples).toEqual([{ namespace: "flows", key: "odd" }]);
    expect(await contentOf(inner)).toEqual(before);
    expectNoSecrets(report);
  });

  it("encrypts the records that a format reads, and leaves the other records unchanged", async () => {
    const { inner, flows, store, keys, value } = await mixed();
    const lost = await flows.get("lost 1");
    const cryptojs = await inner.get("cryptojs");
    const report = await migrate(store);
    expect(report.reencryption).toMatchObject({ reencrypted: 6, unauthenticated: 1, unreadable: 8, current: 1 });
    expect(report.complete).toBe(false);
    expectNoSecrets(report);
    for (const key of ["iron 0", "iron 2", "found"]) expect(keyIdIn(await flows.get(key))).toBe("k1");
    expect([await flows.get("lost 1"), await inner.get("cryptojs")]).toEqual([lost, cryptojs]);
    const after = createKeyv({ store: inner, keys, namespace: "flows" });
    expect(await after.getMany(["iron 0", "found", "envelope"])).toEqual([{ value }, value, value]);
  });

  it("is not complete if a record under the primary cannot be decrypted", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing("k1"), accept: [plaintext()] });
    await store.set("a", "value");
    await inner.set("copy", await inner.get("a"));
    const report = await migrate(store);
    expect(report).toMatchObject({ unread: [{ code: "RECORD_TAMPERED", records: 1 }], complete: false });
  });

  it("sets plaintextForbidden in the report for plaintext in a namespace for which the keyring forbids plaintext", async () => {
    const inner = new MemoryStore();
    const keys = newRing("k1").forbidPlaintext("flows");
    const store = new EncryptedStore(inner, { keys, accept: [plaintext()] });
    const stored = JSON.stringify({ value: "x" });
    await inner.namespaced("flows").set("a", stored);
    await inner.set("b", stored);
    const { formats, unread } = await migrate(store, { dryRun: true });
    expect(formats).toMatchObject([{ format: "plaintext", records: 1 }]);
    expect(unread).toMatchObject([{ code: "RECORD_NOT_SEALED", plaintextForbidden: true, records: 1 }]);
  });

  it("is complete if a format reads every record, and scans only the given namespaces", async () => {
    const { inner, keys } = await mixed();
    const store = createKeyv({
      store: inner,
      keys,
      accept: [plaintext(), cryptoJs({ passphrase: password, encryptUnauthenticated: true })],
    });
    expect(await migrate(store, { namespaces: [""] })).toMatchObject({ scanned: 3, unread: [], complete: true });
    expect(await migrate(store, { namespaces: [""] })).toMatchObject({ envelopes: 3, formats: [], complete: true });
  });

  it("counts a record that Keyv cannot decode as unread", async () => {
    const inner = new MemoryStore();
    await inner.set("k", `{"user":"${marker}7"}`);
    const store = createKeyv({ store: inner, keys: newRing(), accept: [plaintext({ matches: () => true })] });
    const report = await migrate(store, { dryRun: true });
    expect(report.unread).toMatchObject([{ shape: "JSON object { 1 other field }", code: "RECORD_MALFORMED" }]);
    expectNoSecrets(report);
  });

  it("stops if the signal is aborted, and refuses a store without an atomic replace before it scans", async () => {
    const { store } = await mixed();
    await expect(migrate(store, { signal: AbortSignal.abort(new Error("stop")) })).rejects.toThrow("stop");
    const scanOnly = Object.assign(new KeyvMemoryAdapter(new Map()), {
      scan: () => Promise.reject(new Error("The store was scanned")),
    });
    await expectRefusal(migrate(new EncryptedStore(scanOnly, { keys: newRing() })), "STORE_NOT_ATOMIC");
  });
});

function byName(one: { readonly format: string }, other: { readonly format: string }): number {
  return one.format < other.format ? -1 : 1;
}

describe("the options of migrate and reencrypt", () => {
  it.each([
    ["dryRun", "1"],
    ["dryRun", 1],
    ["removeExpired", "no"],
    ["namespaces", "flows"],
    ["namespaces", [1]],
  ])("are refused if %s is %j, and nothing is written", async (option, value) => {
    const { inner, store } = await mixed();
    const before = await contentOf(inner);
    for (const call of [migrate, reencrypt]) {
      const { message } = await expectRefusal(
        () => Reflect.apply(call, undefined, [store, { [option]: value }]),
        "VALUE_INVALID",
      );
      expect(message).toContain(option);
    }
    expect(await contentOf(inner)).toEqual(before);
  });

  it("make a job with `removeExpired` start over if its checkpoint was written without this option, so that every expired record is removed", async () => {
    const inner = new MemoryStore();
    const keys = newRing("k1");
    for (let index = 0; index < 200; index++) {
      await inner.set(`key-${index}`, JSON.stringify({ value: index, expires: Date.now() - 1_000 }));
    }
    const store = createKeyv({ store: inner, keys, accept: [plaintext()], reencrypt: "off" });
    let saved: string | undefined;
    const checkpoint = {
      read: async () => saved,
      write: async (text: string | undefined) => {
        saved = text;
      },
    };
    const stop = new AbortController();
    const options = { batchSize: 20, concurrency: 1, checkpoint };
    const onProgress = () => stop.abort();
    expect(await reencrypt(store, { ...options, signal: stop.signal, onProgress })).toMatchObject({ complete: false });
    expect(saved).toBeDefined();
    expect(await reencrypt(store, { ...options, removeExpired: true })).toMatchObject({ removed: 200, complete: true });
  });
});

it("migrate counts the records of all forms after the first 1,000 forms together", async () => {
  const inner = new MemoryStore();
  const names = ["iv", "nonce", "tag", "auth", "mac", "hmac", "salt", "data", "ct", "alg", "enc"];
  for (let bits = 0; bits < 2 ** names.length; bits++) {
    const fields = names.filter((_, index) => (bits & (1 << index)) !== 0);
    await inner.set(`key-${bits}`, JSON.stringify(Object.fromEntries(fields.map((name) => [name, 1]))));
  }
  const { scanned, unread } = await migrate(createKeyv({ store: inner, keys: newRing("k1") }), { dryRun: true });
  expect(unread.reduce((sum, { records }) => sum + records, 0)).toBe(scanned);
  expect(unread[0]).toMatchObject({ shape: "other forms", records: 2 ** names.length - 1_000 });
});
