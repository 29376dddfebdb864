import { createCipheriv, createHash, createHmac, pbkdf2Sync, randomBytes, scryptSync } from "node:crypto";
import {
  type AesCbcOptions,
  type AesGcmOptions,
  aesCbc,
  aesGcm,
  createKeyv,
  EncryptedStore,
  type PartEncoding,
  reencrypt,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { contentOf, keyIdIn } from "./inner-stores.ts";
import { detectsAlterations, readsAndMigrates } from "./migration.ts";

const secret = () => randomBytes(24).toString("base64");
const hashed = (text: string) => createHash("sha256").update(text).digest();
const address = { namespace: "", key: "k" };

interface Encrypted {
  readonly iv: Buffer;
  readonly tag: Buffer;
  readonly ciphertext: Buffer;
}

function encryptGcm(text: string | Uint8Array, key: Uint8Array, ivBytes = 12): Encrypted {
  const iv = randomBytes(ivBytes);
  const bits = key.length === 16 ? 128 : key.length === 24 ? 192 : 256;
  const cipher = createCipheriv(`aes-${bits}-gcm`, key, iv);
  const ciphertext = Buffer.concat([cipher.update(text), cipher.final()]);
  return { iv, tag: cipher.getAuthTag(), ciphertext };
}

function encryptCbc(text: string, key: Uint8Array) {
  const iv = randomBytes(16);
  const cipher = createCipheriv("aes-256-cbc", key, iv);
  return { iv, ciphertext: Buffer.concat([cipher.update(text), cipher.final()]) };
}

function encode(bytes: Buffer, encoding: PartEncoding): string | Buffer {
  return encoding === "raw" ? bytes : bytes.toString(encoding);
}

const orders = [
  "iv-tag-ciphertext",
  "iv-ciphertext-tag",
  "tag-iv-ciphertext",
  "tag-ciphertext-iv",
  "ciphertext-iv-tag",
  "ciphertext-tag-iv",
] as const;
const encodings = ["base64", "base64url", "hex", "raw"] as const;

function inOrder(order: (typeof orders)[number], parts: Encrypted): Buffer[] {
  const { iv, tag, ciphertext } = parts;
  switch (order) {
    case "iv-tag-ciphertext":
      return [iv, tag, ciphertext];
    case "iv-ciphertext-tag":
      return [iv, ciphertext, tag];
    case "tag-iv-ciphertext":
      return [tag, iv, ciphertext];
    case "tag-ciphertext-iv":
      return [tag, ciphertext, iv];
    case "ciphertext-iv-tag":
      return [ciphertext, iv, tag];
    case "ciphertext-tag-iv":
      return [ciphertext, tag, iv];
  }
}

describe("aesGcm", () => {
  for (const layout of orders) {
    for (const ivBytes of [12, 16]) {
      it.each(encodings)(
        `reads the parts ${layout} one after the other, with a nonce of ${ivBytes} bytes, in %s`,
        async (encoding) => {
          const key = randomBytes(32);
          const format = aesGcm({ key, layout, encoding, ivBytes });
          for (const text of ["", "a", "zażółć", "x".repeat(3_000)]) {
            const stored = encode(Buffer.concat(inOrder(layout, encryptGcm(text, key, ivBytes))), encoding);
            expect(await format.read(stored, address)).toEqual({ value: text });
          }
        },
      );

      it.each(
        ([":", ".", "$", "::"] as const).flatMap((joinedBy) =>
          (["base64", "base64url", "hex"] as const).map((encoding) => [joinedBy, encoding] as const),
        ),
      )(
        `reads the parts ${layout} with a nonce of ${ivBytes} bytes, joined by %s, in %s`,
        async (joinedBy, encoding) => {
          const key = randomBytes(32);
          const format = aesGcm({ key, layout, encoding, joinedBy });
          for (const text of ["", "a", "zażółć"]) {
            const parts = inOrder(layout, encryptGcm(text, key, ivBytes)).map((part) => part.toString(encoding));
            expect(await format.read(parts.join(joinedBy), address)).toEqual({ value: text });
          }
        },
      );
    }
  }

  it.each([16, 24, 32] as const)("reads AES with a key of %i bytes, given as bytes or text", async (keyBytes) => {
    const key = randomBytes(keyBytes);
    const stored = Buffer.concat(inOrder("iv-tag-ciphertext", encryptGcm("text", key))).toString("base64");
    for (const options of [
      { key },
      { key: key.toString("hex"), keyFrom: "hex" },
      { key: key.toString("base64"), keyFrom: "base64" },
    ] as const) {
      const format = aesGcm({ ...options, keyBytes, layout: "iv-tag-ciphertext" });
      expect(await format.read(stored, address)).toEqual({ value: "text" });
    }
    const text = "k".repeat(keyBytes);
    const format = aesGcm({ key: text, keyFrom: "utf8", keyBytes, layout: "iv-tag-ciphertext" });
    const other = Buffer.concat(inOrder("iv-tag-ciphertext", encryptGcm("text", Buffer.from(text)))).toString("base64");
    expect(await format.read(other, address)).toEqual({ value: "text" });
  });

  it("reads what Web Crypto wrote, which has the tag at the end of the ciphertext", async () => {
    const bytes = randomBytes(32);
    const key = await crypto.subtle.importKey("raw", bytes, "AES-GCM", false, ["encrypt"]);
    const iv = randomBytes(12);
    const encrypted = Buffer.from(await crypto.subtle.encrypt({ name: "AES-GCM", iv }, key, Buffer.from("text")));
    const joined = `${iv.toString("base64")}.${encrypted.toString("base64")}`;
    expect(await aesGcm({ key: bytes, layout: "iv-ciphertext", joinedBy: "." }).read(joined, address)).toEqual({
      value: "text",
    });
    const json = JSON.stringify({ iv: iv.toString("hex"), data: encrypted.toString("hex") });
    const format = aesGcm({ key: bytes, layout: { iv: "iv", ciphertext: "data" }, encoding: "hex" });
    expect(await format.read(json, address)).toEqual({ value: "text" });
  });

  it("reads JSON that the application encrypted itself, or text, as the option value specifies", async () => {
    const inner = new MemoryStore();
    const key = secret();
    const write = (text: string) =>
      Buffer.concat(inOrder("iv-tag-ciphertext", encryptGcm(text, hashed(key)))).toString("base64");
    await inner.set("json", write('{"value":10,"currency":"EUR","big":1.50}'));
    await inner.set("text", write("not JSON"));
    const keys = newRing();
    const reading = (value: "json" | "text") =>
      createKeyv({
        store: inner,
        keys,
        reencrypt: "off",
        accept: [aesGcm({ key, layout: "iv-tag-ciphertext", value })],
      });
    expect(await reading("json").get("json")).toEqual({ value: 10, currency: "EUR", big: 1.5 });
    await expectRefusal(reading("json").get("text"), "RECORD_MALFORMED");
    expect(await reading("text").get("text")).toBe("not JSON");
    expect(await reading("text").get("json")).toBe('{"value":10,"currency":"EUR","big":1.50}');
  });

  const joinedProgram = {
    newKey: secret,
    write: (text: string, key: string) =>
      inOrder("iv-ciphertext-tag", encryptGcm(text, hashed(key), 16))
        .map((part) => part.toString("hex"))
        .join(":"),
    format: (key: readonly string[]) => aesGcm({ key, layout: "iv-ciphertext-tag", joinedBy: ":", encoding: "hex" }),
  };
  const jsonProgram = {
    newKey: () => randomBytes(32),
    write(text: string, key: Uint8Array) {
      const { iv, tag, ciphertext } = encryptGcm(text, key);
      return JSON.stringify({
        v: 1,
        nonce: iv.toString("base64"),
        auth: tag.toString("base64"),
        data: ciphertext.toString("base64"),
      });
    },
    format: (key: readonly Uint8Array[]) =>
      aesGcm({ key, layout: { iv: "nonce", tag: "auth", ciphertext: "data" }, ignoredFields: ["v"] }),
  };
  const scrypt = { kdf: "scrypt", cost: 1024 } as const;
  const scryptProgram = {
    newKey: secret,
    write(text: string, key: string) {
      const salt = randomBytes(64);
      const { iv, tag, ciphertext } = encryptGcm(text, scryptSync(key, salt, 32, { cost: 1024 }), 16);
      return Buffer.concat([salt, iv, tag, ciphertext]).toString("base64");
    },
    format: (key: readonly string[]) =>
      aesGcm({ key, keyFrom: scrypt, layout: "salt-iv-tag-ciphertext", saltBytes: 64, ivBytes: 16 }),
  };
  const pbkdf2Program = {
    newKey: secret,
    write(text: string, key: string) {
      const salt = randomBytes(16);
      const { iv, tag, ciphertext } = encryptGcm(text, pbkdf2Sync(key, salt, 1_000, 32, "sha512"));
      return [salt, iv, tag, ciphertext].map((part) => part.toString("hex")).join(".");
    },
    format: (key: readonly string[]) =>
      aesGcm({
        key,
        keyFrom: { kdf: "pbkdf2", iterations: 1_000, digest: "sha512" },
        layout: "salt-iv-tag-ciphertext",
        joinedBy: ".",
        encoding: "hex",
      }),
  };
  const commonSaltProgram = {
    newKey: secret,
    write: (text: string, key: string) =>
      Buffer.concat(inOrder("iv-tag-ciphertext", encryptGcm(text, scryptSync(key, "salt", 32)))).toString("base64"),
    format: (key: readonly string[]) =>
      aesGcm({ key, keyFrom: { kdf: "scrypt", salt: "salt" }, layout: "iv-tag-ciphertext" }),
  };
  describe("with parts joined by colons", () => {
    readsAndMigrates(joinedProgram);
    detectsAlterations(joinedProgram);
  });
  describe("with a JSON object of parts", () => {
    readsAndMigrates(jsonProgram);
    detectsAlterations(jsonProgram);
  });
  describe("with scrypt and a salt in each record", () => {
    readsAndMigrates(scryptProgram);
    detectsAlterations(scryptProgram);
  });
  describe("with PBKDF2 and a salt in each record", () => {
    readsAndMigrates(pbkdf2Program);
    detectsAlterations(pbkdf2Program);
  });
  describe("with scrypt and one salt for all records", () => readsAndMigrates(commonSaltProgram));

  it("refuses options that contradict each other", async () => {
    const key = randomBytes(32);
    const layout = "iv-tag-ciphertext";
    const scryptWithoutSalt = { kdf: "scrypt" };
    for (const options of [
      { key, layout: "iv-iv-tag-ciphertext" },
      { key, layout: "salt-iv-tag-ciphertext" },
      { key, layout, keyFrom: scryptWithoutSalt },
      { key, layout: { iv: "iv", tag: "tag" } },
      { key, layout: { iv: "iv", ciphertext: 5 } },
      { key, layout: { iv: "iv", ciphertext: "data", other: "x" } },
      { key, layout: { iv: "iv", ciphertext: "data" }, encoding: "raw" },
      { key, layout: { iv: "iv", ciphertext: "data" }, joinedBy: ":" },
      { key, layout, joinedBy: "" },
      { key, layout, joinedBy: "a" },
      { key, layout, joinedBy: ":", encoding: "raw" },
      { key, layout, joinedBy: "-", encoding: "base64url" },
      { key, layout, joinedBy: "/", encoding: "base64" },
      { key, layout, ivBytes: 0 },
      { key, layout, keyBytes: 31 },
      { key, layout, value: "xml" },
      { key, layout, keyFrom: "md5" },
      { key, layout, keyFrom: { kdf: "argon2" } },
      { key, layout, keyFrom: { kdf: "scrypt", salt: "s", cost: 1000 } },
      { key, layout, keyFrom: { kdf: "pbkdf2", salt: "s", digest: "sha256", iterations: 0 } },
    ]) {
      await expectRefusal(() => Reflect.apply(aesGcm, undefined, [options]), "VALUE_INVALID");
    }
    for (const bad of ["", [], [""], [5], [key, ""], null, new Uint8Array(31), [new Uint8Array(31)]]) {
      await expectRefusal(() => Reflect.apply(aesGcm, undefined, [{ key: bad, layout }]), "KEY_INVALID");
    }
  });

  it("allows every order of the parts in the type of layout, and no missing or repeated part", () => {
    const order: AesGcmOptions["layout"] = "tag-salt-ciphertext-iv";
    // @ts-expect-error: a part is missing
    const missing: AesGcmOptions["layout"] = "iv-tag";
    // @ts-expect-error: a part is there twice
    const twice: AesCbcOptions["layout"] = "iv-iv-ciphertext";
    expect([order, missing, twice]).toHaveLength(3);
  });
});

describe("aesCbc with a MAC", () => {
  const program = (covers: "iv-ciphertext" | "ciphertext", digest: "sha256" | "sha512") => ({
    newKey: () => ({ encryption: secret(), mac: secret() }),
    write(text: string, key: { readonly encryption: string; readonly mac: string }) {
      const { iv, ciphertext } = encryptCbc(text, hashed(key.encryption));
      const covered = covers === "ciphertext" ? ciphertext : Buffer.concat([iv, ciphertext]);
      const mac = createHmac(digest, key.mac).update(covered).digest();
      return [iv, ciphertext, mac].map((part) => part.toString("base64")).join(".");
    },
    format: (keys: readonly { readonly encryption: string; readonly mac: string }[]) =>
      aesCbc({
        key: keys.map(({ encryption }) => encryption),
        layout: "iv-ciphertext-mac",
        joinedBy: ".",
        hmac: { key: keys.map(({ mac }) => mac), covers, digest },
      }),
  });
  const withOneKey = {
    newKey: () => randomBytes(32),
    write(text: string, key: Uint8Array) {
      const { iv, ciphertext } = encryptCbc(text, key);
      const mac = createHmac("sha256", key).update(iv).update(ciphertext).digest();
      return Buffer.concat([mac, iv, ciphertext]);
    },
    format: (key: readonly Uint8Array[]) =>
      aesCbc({
        key,
        layout: "mac-iv-ciphertext",
        encoding: "raw",
        hmac: { covers: "iv-ciphertext", digest: "sha256" },
      }),
  };
  describe("over the initialization vector and the ciphertext", () => {
    readsAndMigrates(program("iv-ciphertext", "sha256"));
    detectsAlterations(program("iv-ciphertext", "sha256"));
  });
  describe("over the ciphertext", () => readsAndMigrates(program("ciphertext", "sha512")));
  describe("under the encryption key, in raw bytes", () => {
    readsAndMigrates(withOneKey);
    detectsAlterations(withOneKey);
  });

  it("leaves records unencrypted if the MAC has a separate key, because a correct MAC does not show that the encryption key is right", async () => {
    const inner = new MemoryStore();
    const written = program("iv-ciphertext", "sha256");
    const [former, current] = [written.newKey(), written.newKey()];
    for (let index = 0; index < 600; index++) await inner.set(`key-${index}`, written.write(`value ${index}`, former));
    // The key of the MAC stayed the same when the encryption key was changed.
    const accept = [written.format([{ ...current, mac: former.mac }, former])];
    const store = new EncryptedStore(inner, { keys: newRing(), accept });
    const before = await contentOf(inner);
    expect(await reencrypt(store)).toMatchObject({ unauthenticated: 600, reencrypted: 0, complete: false });
    expect(await contentOf(inner)).toEqual(before);
  });

  it("is refused if it has fewer keys for the MAC than for the encryption", async () => {
    const options = {
      key: ["a", "b"],
      layout: "iv-ciphertext-mac",
      hmac: { key: "m", covers: "ciphertext", digest: "sha256" },
    };
    await expectRefusal(() => Reflect.apply(aesCbc, undefined, [options]), "KEY_INVALID");
  });
});

describe("aesCbc without a MAC", () => {
  const program = (encryptUnauthenticated: boolean) => ({
    newKey: secret,
    write(text: string, key: string) {
      const { iv, ciphertext } = encryptCbc(text, hashed(key));
      return `${iv.toString("hex")}:${ciphertext.toString("hex")}`;
    },
    format: (key: readonly string[]) =>
      aesCbc({ key, layout: "iv-ciphertext", joinedBy: ":", encoding: "hex", encryptUnauthenticated }),
  });

  it("is marked as unauthenticated in its type and at run time", () => {
    const unauthenticated: false = aesCbc({ key: "k", layout: "iv-ciphertext" }).authenticated;
    expect(unauthenticated).toBe(false);
    const hmac = { covers: "ciphertext", digest: "sha256" } as const;
    expect(aesCbc({ key: "k", layout: "iv-ciphertext-mac", hmac }).authenticated).toBeUndefined();
  });

  describe("by default", () => readsAndMigrates(program(false)));
  it("lets lazy re-encryption encrypt its records if the option encryptUnauthenticated is true", async () => {
    const { write, format, newKey } = program(true);
    const key = newKey();
    const inner = new MemoryStore();
    await inner.set("k", write('{"value":1}', key));
    const keyv = createKeyv({ store: inner, keys: newRing("k1"), accept: [format([newKey(), key])] });
    expect(await keyv.get("k")).toBe(1);
    await keyv.encryptedStore.settled();
    expect(keyIdIn(await inner.get("k"))).toBe("k1");
  });

  it("prefers a key that decrypts a record to Keyv's JSON over a key that decrypts it to other text", async () => {
    const text = '{"value":1}';
    for (let attempt = 0; attempt < 300; attempt++) {
      const key = secret();
      const { write, format } = program(false);
      const keys = [secret(), secret(), secret(), key];
      expect(await format(keys).read(write(text, key), address)).toEqual({ value: text });
    }
  });
});
