import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import { KeyvGzip } from "@keyv/compress-gzip";
import {
  aesGcm,
  type CreateKeyvOptions,
  createKeyv,
  EncryptedStore,
  type ForeignFormat,
  plaintext,
  type ReencryptEvent,
  readKeyvJson,
  reencrypt,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { Keyv } from "keyv";
import { describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { marker } from "../secrets.ts";
import { contentOf, keyIdIn } from "./inner-stores.ts";

const anything = plaintext({ matches: () => true });
const hourMs = 3_600_000;

/** A format that returns what a test specifies, even if the types forbid it. */
function saying(result: unknown): ForeignFormat {
  return Object.assign({ name: "own", read: () => undefined }, { read: () => result });
}

function listen(store: EncryptedStore): { readonly event: string; readonly detail: ReencryptEvent }[] {
  const emitted: { readonly event: string; readonly detail: ReencryptEvent }[] = [];
  for (const event of ["reencrypted", "reencrypt:conflict", "reencrypt:error"]) {
    store.on(event, (detail: ReencryptEvent) => emitted.push({ event, detail }));
  }
  return emitted;
}

describe("a record in a foreign format that the Keyv cannot decode", () => {
  const undecodable: Readonly<Record<string, string | Uint8Array>> = {
    "an object without value": `{"cookie":{},"user":"${marker}7"}`,
    "an object with an extra field": '{"value":10,"currency":"EUR"}',
    "an expiry that is not a number": '{"value":1,"expires":"soon"}',
    "a text": "text",
    bytes: Buffer.from([1, 2, 255]),
  };

  for (const [what, stored] of Object.entries(undecodable)) {
    it(`stays unchanged after a read, a bulk re-encryption and a dry run: ${what}`, async () => {
      const inner = new MemoryStore();
      const raw = inner.namespaced("flows");
      await raw.set("odd", stored);
      await raw.set("good", '{"value":1}');
      const before = await raw.get("odd");
      const options: CreateKeyvOptions = { store: inner, keys: newRing("k1"), namespace: "flows", accept: [anything] };
      const keyv = createKeyv(options);
      const emitted = listen(keyv.encryptedStore);

      await expectRefusal(keyv.get("odd"), "RECORD_MALFORMED");
      await expectRefusal(keyv.getMany(["good", "odd"]), "RECORD_MALFORMED");
      await expectRefusal(keyv.has("odd"), "RECORD_MALFORMED");
      await keyv.encryptedStore.settled();
      expect(emitted).toMatchObject([{ event: "reencrypted", detail: { key: "good" } }]);
      expect(await raw.get("odd")).toEqual(before);
      await expectRefusal(keyv.set("odd", "new"), "OVERWRITE_REFUSED");

      const unreadableRecords = [{ namespace: "flows", key: "odd", code: "RECORD_MALFORMED" }];
      expect(await reencrypt(keyv.encryptedStore, { dryRun: true })).toMatchObject({
        current: 1,
        reencrypted: 0,
        unreadable: 1,
        unreadableRecords,
      });
      expect(await reencrypt(keyv.encryptedStore)).toMatchObject({ reencrypted: 0, unreadable: 1, unreadableRecords });
      expect(await raw.get("odd")).toEqual(before);
    });
  }

  it("is read and encrypted after the option accept was corrected", async () => {
    const inner = new MemoryStore();
    await inner.set("session", `{"cookie":{},"user":7}`);
    const keys = newRing("k1");
    const wrong = createKeyv({ store: inner, keys, accept: [anything] });
    await expectRefusal(wrong.get("session"), "RECORD_MALFORMED");
    await wrong.encryptedStore.settled();
    await reencrypt(wrong.encryptedStore);
    const bare: ForeignFormat = { name: "bare", read: (stored) => ({ value: `{"value":${String(stored)}}` }) };
    const right = createKeyv({ store: inner, keys, accept: [bare] });
    expect(await right.get("session")).toEqual({ cookie: {}, user: 7 });
    await right.encryptedStore.settled();
    expect(keyIdIn(await inner.get("session"))).toBe("k1");
    expect(await right.get("session")).toEqual({ cookie: {}, user: 7 });
  });

  it("may be an uncompressed record, if the Keyv has the option compression", async () => {
    const inner = new MemoryStore();
    const compression = new KeyvGzip();
    await inner.set("packed", await compression.compress('{"value":1}'));
    await inner.set("plain", '{"value":1}');
    const keyv = createKeyv({ store: inner, keys: newRing("k1"), accept: [anything], compression, reencrypt: "off" });
    expect(await keyv.get("packed")).toBe(1);
    await expectRefusal(keyv.get("plain"), "RECORD_MALFORMED");
    expect(await reencrypt(keyv.encryptedStore)).toMatchObject({ reencrypted: 1, unreadable: 1 });
    expect(keyIdIn(await inner.get("packed"))).toBe("k1");
    expect(keyIdIn(await inner.get("plain"))).toBe("");
  });

  it("is not encrypted after a read through keyv.encryptedStore, and causes the event reencrypt:error", async () => {
    const inner = new MemoryStore();
    await inner.set("odd", "text");
    const { encryptedStore } = createKeyv({ store: inner, keys: newRing(), accept: [anything] });
    const emitted = listen(encryptedStore);
    expect(await encryptedStore.get("odd")).toBe("text");
    await encryptedStore.settled();
    expect(emitted).toMatchObject([
      { event: "reencrypt:error", detail: { key: "odd", error: { code: "RECORD_MALFORMED" } } },
    ]);
    expect(await inner.get("odd")).toBe("text");
  });

  it("is left unencrypted by an EncryptedStore only if the option decode of the store throws for the record", async () => {
    for (const decode of [
      (value: unknown) => JSON.parse(String(value)),
      async (value: unknown) => JSON.parse(String(value)),
    ]) {
      const inner = new MemoryStore();
      await inner.setMany([
        { key: "json", value: "[1]" },
        { key: "text", value: `${marker}text` },
      ]);
      const keys = newRing("k1");
      const decoding = new EncryptedStore(inner, { keys, accept: [anything], decode });
      const report = await reencrypt(decoding);
      expect(report).toMatchObject({ reencrypted: 1, unreadable: 1, unreadableRecords: [{ key: "text" }] });
      // The store returns the value, whether or not it can be decoded.
      expect(await decoding.getMany(["json", "text"])).toEqual(["[1]", `${marker}text`]);
      await decoding.settled();
      expect(await inner.get("text")).toBe(`${marker}text`);
      expect(await reencrypt(new EncryptedStore(inner, { keys, accept: [anything] }))).toMatchObject({ unreadable: 0 });
      expect(keyIdIn(await inner.get("text"))).toBe("k1");
    }
  });

  it("is re-encrypted like any other record if it is in an envelope", async () => {
    const inner = new MemoryStore();
    const before = newRing("k1");
    await new EncryptedStore(inner, { keys: before }).set("odd", "text");
    const keyv = createKeyv({ store: inner, keys: before.add({ id: "k2" }).promote("k2"), reencrypt: "off" });
    expect(await reencrypt(keyv.encryptedStore)).toMatchObject({ reencrypted: 1, unreadable: 0 });
    expect(await keyv.encryptedStore.get("odd")).toBe("text");
  });
});

describe("the result that a foreign format returns", () => {
  const value = '{"value":1}';
  const nowSeconds = Math.floor(Date.now() / 1000);
  const refused: Readonly<Record<string, unknown>> = {
    "an expiry in seconds": { value, expires: nowSeconds + 3600 },
    "an expiry in seconds, in the past": { value, expires: nowSeconds - 3600 },
    "an expiry as text": { value, expires: new Date(Date.now() + hourMs).toISOString() },
    "an expiry as a Date": { value, expires: new Date(Date.now() + hourMs) },
    "an expiry of null": { value, expires: null },
    "an expiry of NaN": { value, expires: Number.NaN },
    "an infinite expiry": { value, expires: Number.POSITIVE_INFINITY },
    "an expiry of -1": { value, expires: -1 },
    "an expiry of 0": { value, expires: 0 },
    "an expiry as a big integer": { value, expires: 1_900_000_000_000n },
    "seconds in Keyv's JSON": { value: `{"value":1,"expires":${nowSeconds + 3600}}` },
    "seconds in Keyv's JSON, and as the expiry": {
      value: `{"value":1,"expires":${nowSeconds + 3600}}`,
      expires: nowSeconds + 3600,
    },
    "a value that is an object": { value: { user: 7 } },
    "a value that is null": { value: null },
    "no value": {},
    "an ill-formed text": { value: "\ud800" },
    "a text": "text",
    null: null,
    false: false,
    "a list": [value],
  };

  it.each(Object.entries(refused))("is refused and never encrypted: %s", async (_, result) => {
    const inner = new MemoryStore();
    await inner.set("old", `${marker}old`);
    const before = await contentOf(inner);
    const keyv = createKeyv({ store: inner, keys: newRing(), accept: [saying(result), anything] });
    const error = await expectRefusal(keyv.get("old"), "RECORD_MALFORMED");
    expect(error).toMatchObject({ key: "old", namespace: "", message: expect.stringContaining('"own"') });
    await expectRefusal(keyv.has("old"), "RECORD_MALFORMED");
    await expectRefusal(keyv.set("old", 1), "OVERWRITE_REFUSED");
    await keyv.encryptedStore.settled();
    const unreadable = { reencrypted: 0, expired: 0, unreadable: 1 };
    expect(await reencrypt(keyv.encryptedStore, { dryRun: true })).toMatchObject(unreadable);
    expect(await reencrypt(keyv.encryptedStore)).toMatchObject(unreadable);
    expect(await contentOf(inner)).toEqual(before);
  });

  const soon = Date.now() + hourMs;
  const accepted: Readonly<Record<string, readonly [unknown, number | undefined]>> = {
    "an expiry in milliseconds": [{ value, expires: soon }, soon],
    "an expiry with a fraction, never earlier": [{ value, expires: soon + 0.5 }, soon + 1],
    "no expiry": [{ value }, undefined],
    "an expiry of undefined": [{ value, expires: undefined }, undefined],
    "bytes of Keyv's JSON": [{ value: Buffer.from(value) }, undefined],
    "the expiry in Keyv's JSON": [{ value: `{"value":1,"expires":${soon}}` }, soon],
    "the expiry in the bytes of Keyv's JSON": [{ value: Buffer.from(`{"value":1,"expires":${soon}}`) }, soon],
    "an earlier expiry than in Keyv's JSON": [{ value: `{"value":1,"expires":${soon}}`, expires: soon - 5 }, soon - 5],
    "a later expiry than in Keyv's JSON": [{ value: `{"value":1,"expires":${soon}}`, expires: soon + 5 }, soon],
    "the result of readKeyvJson": [readKeyvJson(`{"value":1,"expires":${soon}}`), soon],
  };

  it.each(Object.entries(accepted))(
    "is returned by a read, and then encrypted with its expiry: %s",
    async (_, [result, expires]) => {
      const inner = new MemoryStore();
      await inner.set("old", "old");
      const keys = newRing("k1");
      const keyv = createKeyv({ store: inner, keys, accept: [saying(result)] });
      expect(await keyv.get("old")).toBe(1);
      await keyv.encryptedStore.settled();
      const sealed = await inner.get("old");
      expect(keyIdIn(sealed)).toBe("k1");
      // The backend has no expiry for the record: its expiry is in the envelope.
      const at = async (nowMs: number) => {
        vi.useFakeTimers({ toFake: ["Date"], now: nowMs });
        try {
          return await createKeyv({ store: inner, keys }).get("old");
        } finally {
          vi.useRealTimers();
        }
      };
      expect(await at((expires ?? 2 ** 42) - 1)).toBe(1);
      if (expires !== undefined) expect(await at(expires)).toBeUndefined();
    },
  );

  it("does not make an expired record of a plain Keyv readable again", async () => {
    const key = randomBytes(32);
    const secret = "a passphrase of the time before";
    const encrypt = (text: string, by: Uint8Array): string => {
      const iv = randomBytes(12);
      const cipher = createCipheriv("aes-256-gcm", by, iv);
      const ciphertext = Buffer.concat([cipher.update(text), cipher.final()]);
      return Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString("base64");
    };
    const own: ForeignFormat = {
      name: "own",
      read(stored) {
        const packed = Buffer.from(String(stored), "base64");
        const decipher = createDecipheriv("aes-256-gcm", key, packed.subarray(0, 12), { authTagLength: 16 });
        decipher.setAuthTag(packed.subarray(12, 28));
        return { value: Buffer.concat([decipher.update(packed.subarray(28)), decipher.final()]) };
      },
    };
    const hash = createHash("sha256").update(secret).digest();
    const formats: readonly (readonly [ForeignFormat, (text: string) => string])[] = [
      [own, (text) => encrypt(text, key)],
      [aesGcm({ key: secret, layout: "iv-tag-ciphertext" }), (text) => encrypt(text, hash)],
      [plaintext(), (text) => text],
      [anything, (text) => text],
    ];
    for (const [format, written] of formats) {
      const inner = new MemoryStore();
      await inner.set("yesterday", written(`{"value":"${marker}","expires":${Date.now() - 24 * hourMs}}`));
      await inner.set("today", written(`{"value":"${marker}","expires":${Date.now() + hourMs}}`));
      const keyv = createKeyv({ store: inner, keys: newRing("k1"), accept: [format] });
      expect(await keyv.getMany(["yesterday", "today"])).toEqual([undefined, marker]);
      expect(await keyv.has("yesterday")).toBe(false);
      await keyv.encryptedStore.settled();
      // Only plaintext is encrypted although it has expired, so that it does not stay readable in the store.
      const reencrypted = format.name === "plaintext" ? 1 : 0;
      expect(await reencrypt(keyv.encryptedStore)).toMatchObject({ current: 1, reencrypted, expired: 1 });
      expect(await keyv.getMany(["yesterday", "today"])).toEqual([undefined, marker]);
    }
  });
});

it("a read with plaintext() rejects if matches() returns a promise", async () => {
  const inner = new MemoryStore();
  await inner.set("key", "text");
  const asking = Reflect.apply(plaintext, undefined, [{ matches: async () => false }]);
  const store = new EncryptedStore(inner, { keys: newRing(), accept: [asking] });
  await expectRefusal(store.get("key"), "RECORD_MALFORMED");
  expect(await reencrypt(store)).toMatchObject({ reencrypted: 0, unreadable: 1 });
});

describe("a record that a plain Keyv wrote", () => {
  it.each([
    ["a value", 1, undefined],
    ["a value with an expiry", { a: [] }, hourMs],
    ["null", null, undefined],
    ["a text that begins with a marker of Keyv", ":base64:", undefined],
    ["bytes", Buffer.from([0, 255]), hourMs],
  ] as const)("is read as plaintext, and then encrypted: %s", async (_, value, ttlMs) => {
    const inner = new MemoryStore();
    await new Keyv({ store: inner }).set("key", value, ttlMs);
    const keyv = createKeyv({ store: inner, keys: newRing("k1"), accept: [plaintext()] });
    expect(await keyv.get("key")).toEqual(value);
    await keyv.encryptedStore.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("k1");
    expect(await keyv.get("key")).toEqual(value);
  });

  it.each(["{}", '{"expires":4102444800000}', '{"a":1}', '{"value":1,"a":2}'])(
    "is not recognized by plaintext() if its JSON is %s",
    async (stored) => {
      expect(readKeyvJson(stored)).toBeUndefined();
      expect(readKeyvJson(Buffer.from(stored))).toBeUndefined();
      const inner = new MemoryStore();
      await inner.set("key", stored);
      const keyv = createKeyv({ store: inner, keys: newRing(), accept: [plaintext()] });
      await expectRefusal(keyv.get("key"), "RECORD_NOT_SEALED");
      expect(await reencrypt(keyv.encryptedStore)).toMatchObject({ reencrypted: 0, unreadable: 1 });
    },
  );
});
