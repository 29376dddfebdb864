import { createCipheriv, randomBytes } from "node:crypto";
import * as hapiIron from "@hapi/iron";
import {
  aesCbc,
  aesGcm,
  createKeyv,
  type ForeignFormat,
  insideKeyvValue,
  iron,
  migrate,
  plaintext,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { Keyv } from "keyv";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { contentOf, keyIdIn } from "./inner-stores.ts";

const key = randomBytes(32);
const format = aesGcm({ key, layout: "iv-tag-ciphertext", value: "json" });

function encrypt(value: unknown, by: Uint8Array = key): string {
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", by, iv);
  const ciphertext = Buffer.concat([cipher.update(JSON.stringify(value)), cipher.final()]);
  return Buffer.concat([iv, cipher.getAuthTag(), ciphertext]).toString("base64");
}

function reading(inner: MemoryStore, accept: readonly ForeignFormat[]) {
  return createKeyv({ store: inner, keys: newRing("k1"), accept });
}

describe("insideKeyvValue", () => {
  it("reads what an application encrypted before it called set, with the expiry that Keyv wrote", async () => {
    const inner = new MemoryStore();
    const before = new Keyv({ store: inner });
    await before.set("k", encrypt({ step: 1 }), 60_000);
    const { expires } = JSON.parse(String(await inner.get("k")));
    const keyv = reading(inner, [insideKeyvValue(format), plaintext()]);
    expect(await keyv.get("k")).toEqual({ step: 1 });
    await keyv.encryptedStore.settled();
    expect(keyIdIn(await inner.get("k"))).toBe("k1");
    expect(await keyv.get("k")).toEqual({ step: 1 });
    expect(
      (await insideKeyvValue(format).read(JSON.stringify({ value: encrypt(1), expires }), { namespace: "", key: "k" }))
        ?.expires,
    ).toBe(expires);
  });

  it("reads an encrypted object that an application passed to set", async () => {
    const inner = new MemoryStore();
    const iv = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", key, iv);
    const data = cipher.update('{"step":1}', "utf8", "base64") + cipher.final("base64");
    const sealed = { iv: iv.toString("base64"), tag: cipher.getAuthTag().toString("base64"), data };
    const before = new Keyv({ store: inner });
    await before.set("k", sealed, 60_000);
    await before.set("other", { iv: "an object that is not encrypted" });
    const fields = aesGcm({ key, layout: { iv: "iv", tag: "tag", ciphertext: "data" }, value: "json" });
    const keyv = reading(inner, [insideKeyvValue(fields), plaintext()]);
    expect(await keyv.getMany(["k", "other"])).toEqual([{ step: 1 }, { iv: "an object that is not encrypted" }]);
    expect(await migrate(keyv)).toMatchObject({ complete: true, unread: [] });
    expect(await keyv.get("k")).toEqual({ step: 1 });
  });

  it("uses the earlier of the expiry that Keyv wrote and the expiry in the encrypted text", async () => {
    const password = randomBytes(24).toString("hex");
    const sealed = await hapiIron.seal({ a: 1 }, password, { ...hapiIron.defaults, ttl: 60_000 });
    const inside = insideKeyvValue(iron({ password }));
    const expiryWith = async (expires: number) =>
      (await inside.read(JSON.stringify({ value: sealed, expires }), { namespace: "", key: "k" }))?.expires;
    expect(await expiryWith(Date.now() + 9e6)).toBeLessThan(Date.now() + 61_000);
    const soon = Date.now() + 5;
    expect(await expiryWith(soon)).toBe(soon);
  });

  it("leaves other records of Keyv to the format plaintext, and never reads as plaintext what it cannot decrypt", async () => {
    const inner = new MemoryStore();
    const before = new Keyv({ store: inner });
    await before.set("object", { step: 1 });
    await before.set("text", "a sentence");
    await before.set("wrong", encrypt({ step: 1 }, randomBytes(32)));
    const wrong = await inner.get("wrong");
    const keyv = reading(inner, [plaintext(), insideKeyvValue(format)]);
    expect(await keyv.getMany(["object", "text"])).toEqual([{ step: 1 }, "a sentence"]);
    await expectRefusal(keyv.get("wrong"), "RECORD_TAMPERED");
    expect(await migrate(keyv)).toMatchObject({ unread: [{ code: "RECORD_TAMPERED", records: 1 }] });
    expect(await inner.get("wrong")).toBe(wrong);
  });

  it("refuses the format plaintext, which a namespace may forbid, and refuses a value that is not a format", async () => {
    for (const bad of [plaintext(), {}, undefined]) {
      await expectRefusal(() => Reflect.apply(insideKeyvValue, undefined, [bad]), "VALUE_INVALID");
    }
  });

  it("is authenticated only if the format inside is authenticated", () => {
    const cbc = aesCbc({ key, layout: "iv-ciphertext" });
    expect(insideKeyvValue(cbc)).toMatchObject({ authenticated: false, encryptUnauthenticated: false });
    expect(insideKeyvValue(format).authenticated).toBe(true);
  });
});

describe("plaintext", () => {
  it("reads JSON of the application as well as JSON of Keyv, if the option value is json", async () => {
    const inner = new MemoryStore();
    await inner.set("keyv", '{"value":{"a":1}}');
    await inner.set("own", '{"user":7,"expires":5}');
    await inner.set("list", "[1,2]");
    for (const text of ["17", '"text"', "{broken", "text"]) await inner.set(text, text);
    const keyv = reading(inner, [plaintext({ value: "json" }), plaintext()]);
    expect(await keyv.getMany(["keyv", "own", "list"])).toEqual([{ a: 1 }, { user: 7, expires: 5 }, [1, 2]]);
    for (const text of ["17", '"text"', "{broken", "text"]) await expectRefusal(keyv.get(text), "RECORD_NOT_SEALED");
    expect(await migrate(keyv)).toMatchObject({ complete: false, unread: expect.objectContaining({ length: 4 }) });
    expect(await keyv.getMany(["keyv", "own", "list"])).toEqual([{ a: 1 }, { user: 7, expires: 5 }, [1, 2]]);
  });

  it("reads matching text if the option value is text, and refuses text that is not JSON if the option value is json", async () => {
    const inner = new MemoryStore();
    await inner.set("name", "name: Alice");
    const before = await contentOf(inner);
    const matches = (stored: unknown) => String(stored).startsWith("name:");
    await expectRefusal(reading(inner, [plaintext({ matches, value: "json" })]).get("name"), "RECORD_MALFORMED");
    expect(await contentOf(inner)).toEqual(before);
    expect(await reading(inner, [plaintext({ matches, value: "text" })]).get("name")).toBe("name: Alice");
    await expectRefusal(() => plaintext({ value: "text" }), "VALUE_INVALID");
    await expectRefusal(() => Reflect.apply(plaintext, undefined, [{ value: "xml" }]), "VALUE_INVALID");
  });
});

describe("the values of an application", () => {
  it("keep text that begins with a colon, which Keyv marks in its own JSON", async () => {
    const inner = new MemoryStore();
    const value = { emoji: ":smile:", bytes: ":base64:AAAA", number: ":bigint:1x", list: [":x", "::y"] };
    await inner.set("json", JSON.stringify(value));
    const matches = (stored: unknown) => String(stored).startsWith(":");
    await inner.set("text", ":smile: hello");
    const keyv = reading(inner, [plaintext({ value: "json" }), plaintext({ value: "text", matches })]);
    expect(await keyv.getMany(["json", "text"])).toEqual([value, ":smile: hello"]);
    expect(await migrate(keyv)).toMatchObject({ complete: true });
    expect(await keyv.getMany(["json", "text"])).toEqual([value, ":smile: hello"]);
  });

  it("are not read as plaintext if the JSON object with their ciphertext was altered", async () => {
    const iv = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", key, iv);
    const data = cipher.update('{"step":1}', "utf8", "base64") + cipher.final("base64");
    const sealed = { iv: iv.toString("base64"), tag: cipher.getAuthTag().toString("base64"), data };
    const inner = new MemoryStore();
    await inner.set("indented", `\n ${JSON.stringify(sealed)}`);
    await inner.set("cut tag", JSON.stringify({ ...sealed, tag: sealed.tag.slice(0, 16) }));
    await inner.set("broken data", JSON.stringify({ ...sealed, data: `${data.slice(0, -1)}\n` }));
    const fields = aesGcm({ key, layout: { iv: "iv", tag: "tag", ciphertext: "data" }, value: "json" });
    const keyv = reading(inner, [fields, plaintext(), plaintext({ value: "json" })]);
    expect(await keyv.get("indented")).toEqual({ step: 1 });
    for (const altered of ["cut tag", "broken data"]) await expectRefusal(keyv.get(altered), "RECORD_TAMPERED");
    expect(await migrate(keyv)).toMatchObject({ complete: false, unread: [{ code: "RECORD_TAMPERED", records: 2 }] });
  });

  it("are absent if one of their two expiries has passed", async () => {
    const password = randomBytes(24).toString("hex");
    const ended = { value: "x", expires: Date.now() - 60_000 };
    const sealed = await hapiIron.seal(ended, password, { ...hapiIron.defaults, ttl: 3_600_000 });
    const format = iron({ password, value: "as-is" });
    for (const accept of [[format], [insideKeyvValue(format)]]) {
      const inner = new MemoryStore();
      await inner.set(
        "k",
        accept[0] === format ? sealed : JSON.stringify({ value: sealed, expires: Date.now() + 3e6 }),
      );
      const keyv = reading(inner, accept);
      expect(await keyv.get("k")).toBeUndefined();
      expect(await migrate(keyv, { removeExpired: true })).toMatchObject({ reencryption: { removed: 1 } });
    }
  });

  it("stay stored if they count as expired because an option of their format is wrong", async () => {
    const password = randomBytes(24).toString("hex");
    const inner = new MemoryStore();
    const stored = await hapiIron.seal({ step: 1 }, password, hapiIron.defaults);
    await inner.set("k", stored);
    const right = iron({ password });
    const wrong: ForeignFormat = {
      name: "too short",
      async read(given, address) {
        const found = await right.read(given, address);
        return found === undefined ? undefined : { value: found.value, expires: Date.now() - 1_000 };
      },
    };
    const report = await migrate(reading(inner, [wrong]), { dryRun: true });
    expect(report.formats).toEqual([{ format: "too short", records: 1, expired: 1, encryptable: true }]);
    await migrate(reading(inner, [wrong]));
    expect(await inner.get("k")).toBe(stored);
    expect(await reading(inner, [right]).get("k")).toEqual({ step: 1 });
  });

  it("are not removed with `removeExpired` if their expiry is a small number, which may be a duration", async () => {
    const inner = new MemoryStore();
    await inner.set("k", '{"value":"x","expires":3600}');
    expect(await migrate(reading(inner, [plaintext()]), { removeExpired: true })).toMatchObject({
      reencryption: { removed: 0, reencrypted: 1 },
    });
    expect(await inner.get("k")).toBeDefined();
  });
});
