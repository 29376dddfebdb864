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

  it("takes the earlier of the expiry of Keyv and that of the encrypted text", async () => {
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
