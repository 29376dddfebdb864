import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import * as hapiIron from "@hapi/iron";
import {
  type AeadCipher,
  aesCbc,
  aesGcm,
  compactJwe,
  createKeyv,
  cryptoJs,
  EncryptedStore,
  type ForeignFormat,
  fernet,
  iron,
  keyvEncryptNode,
  laravel,
  type OpensslOptions,
  openssl,
  plaintext,
  reencrypt,
  secretbox,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import CryptoJS from "crypto-js";
import Fernet from "fernet";
import * as jose from "jose";
import sodium from "libsodium-wrappers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { expectNoSecrets, marker } from "../secrets.ts";
import { keyIdIn } from "./inner-stores.ts";
import { detectsAlterations, type OldProgram, readsAndMigrates } from "./migration.ts";

const address = { namespace: "", key: "k" };
const value = { step: "zażółć 🔐" };
const json = JSON.stringify(value);

interface VectorRecord {
  readonly key: string;
  readonly stored: string;
}

/** Reads records that a program in another language, or one that is not installed here, has encrypted. */
function readVectors<Variant>(name: string): readonly (Variant & { readonly records: readonly VectorRecord[] })[] {
  return JSON.parse(readFileSync(new URL(`../../vectors/${name}.json`, import.meta.url), "utf8")).variants;
}

/** A program of which there are only records that it wrote earlier: each call of newKey() takes the key of the next. */
function recorded(
  records: readonly VectorRecord[],
  format: (keys: readonly string[]) => ForeignFormat,
  decode: (stored: string) => string | Uint8Array = (stored) => stored,
): OldProgram<string> {
  let next = 0;
  return {
    newKey: () => records[next++ % records.length]?.key ?? "",
    write: (_, key) => decode(records.find((record) => record.key === key)?.stored ?? ""),
    format,
    wrongRecords: 2,
  };
}

async function expiryOf(format: ForeignFormat, stored: string): Promise<number | undefined> {
  return (await format.read(stored, address))?.expires;
}

const seconds = (atMs: number) => Math.floor(atMs / 1_000);

describe("keyvEncryptNode", () => {
  interface Variant {
    readonly algorithm: AeadCipher;
    readonly encoding: "base64" | "base64url" | "hex";
    readonly keyIs: "text" | "bytes";
  }
  for (const { algorithm, encoding, keyIs, records } of readVectors<Variant>("keyv-encrypt-node")) {
    const toKey = (key: string) => (keyIs === "bytes" ? Buffer.from(key, "base64") : key);
    const program = recorded(records, (keys) => keyvEncryptNode({ key: keys.map(toKey), algorithm, encoding }));
    describe(`with ${algorithm} in ${encoding}, and a key that is ${keyIs}`, () => {
      readsAndMigrates(program);
      detectsAlterations(program);
    });
  }

  it("refuses algorithms without authentication", async () => {
    const options = { key: "k", algorithm: "aes-256-cbc" };
    await expectRefusal(() => Reflect.apply(keyvEncryptNode, undefined, [options]), "VALUE_INVALID");
  });
});

describe("fernet", () => {
  const npmProgram: OldProgram<string> = {
    newKey: () => randomBytes(32).toString("base64url"),
    write: (text, key) => new Fernet.Token({ secret: new Fernet.Secret(key), ttl: 0 }).encode(text),
    format: (key) => fernet({ key }),
  };
  describe("with the npm package fernet", () => {
    readsAndMigrates(npmProgram);
    detectsAlterations(npmProgram);
  });
  for (const { records } of readVectors("fernet-python")) {
    describe("with cryptography.fernet of Python", () => readsAndMigrates(recorded(records, (key) => fernet({ key }))));
  }

  it("makes a record expire ttlMs after the time in its token", async () => {
    const key = npmProgram.newKey();
    const time = new Date("2026-11-27T10:00:00Z");
    const token = new Fernet.Token({ secret: new Fernet.Secret(key), time: time.toISOString(), ttl: 0 }).encode("text");
    expect(await expiryOf(fernet({ key }), token)).toBeUndefined();
    expect(await expiryOf(fernet({ key, ttlMs: 60_000 }), token)).toBe(time.getTime() + 60_000);
  });

  it.each(["", "a", randomBytes(31), randomBytes(33).toString("base64url")])("refuses the key %j", async (key) => {
    await expectRefusal(() => fernet({ key }), "KEY_INVALID");
  });
});

describe("iron", () => {
  const seal = (text: string, password: string | Buffer, options = hapiIron.defaults) =>
    hapiIron.seal(JSON.parse(text), password, options);
  const program: OldProgram<string> = {
    newKey: () => randomBytes(24).toString("base64"),
    write: (text, key) => seal(text, key),
    format: (password) => iron({ password }),
    text: json,
  };
  describe("with a password", () => {
    readsAndMigrates(program);
    detectsAlterations(program);
  });
  describe("with a key that is bytes", () =>
    readsAndMigrates({
      newKey: () => randomBytes(32),
      write: (text, key) => seal(text, key),
      format: (password) => iron({ password }),
      text: json,
    }));
  describe("with passwords that have ids, one for encryption and one for integrity", () =>
    readsAndMigrates({
      newKey: () => ({ id: "p1", encryption: program.newKey(), integrity: program.newKey() }),
      write: (text, password) => hapiIron.seal(JSON.parse(text), password, hapiIron.defaults),
      format: (keys) => iron({ password: keys.map(({ encryption, integrity }) => ({ encryption, integrity })) }),
      text: json,
    }));
  describe("with aes-128-ctr and more iterations", () => {
    const { encryption, integrity } = hapiIron.defaults;
    const options = {
      ...hapiIron.defaults,
      encryption: { ...encryption, algorithm: "aes-128-ctr", iterations: 50 },
      integrity: { ...integrity, iterations: 50 },
    } as const;
    readsAndMigrates({
      ...program,
      write: (text, key) => seal(text, key, options),
      format: (password) => iron({ password, algorithm: "aes-128-ctr", iterations: 50 }),
    });
  });
  describe("with the suffix that iron-session appends", () =>
    readsAndMigrates({ ...program, write: async (text, key) => `${await seal(text, key)}~2` }));

  it("uses the expiry in the sealed value as the expiry of the record", async () => {
    const password = program.newKey();
    const before = Date.now();
    const sealed = await seal(json, password, { ...hapiIron.defaults, ttl: 60_000 });
    const expires = await expiryOf(iron({ password }), sealed);
    expect(expires).toBeGreaterThanOrEqual(before + 60_000);
    expect(expires).toBeLessThanOrEqual(Date.now() + 60_000);
    const inner = new MemoryStore();
    await inner.set("k", sealed);
    const keys = newRing("k1");
    await reencrypt(createKeyv({ store: inner, keys, accept: [iron({ password })] }));
    expect(keyIdIn(await inner.get("k"))).toBe("k1");
    vi.useFakeTimers({ toFake: ["Date"], now: (expires ?? 0) + 1 });
    try {
      expect(await createKeyv({ store: inner, keys }).get("k")).toBeUndefined();
    } finally {
      vi.useRealTimers();
    }
  });

  it.each(["", [], [""], [{ encryption: "a" }], null])("refuses the password %j", async (password) => {
    await expectRefusal(() => Reflect.apply(iron, undefined, [{ password }]), "KEY_INVALID");
  });
});

describe("compactJwe", () => {
  const lengths = {
    A128GCM: 16,
    A192GCM: 24,
    A256GCM: 32,
    "A128CBC-HS256": 32,
    "A192CBC-HS384": 48,
    "A256CBC-HS512": 64,
  };
  for (const [enc, keyBytes] of Object.entries(lengths)) {
    const program: OldProgram<Uint8Array> = {
      newKey: () => randomBytes(keyBytes),
      write: (text, key) =>
        new jose.CompactEncrypt(Buffer.from(text)).setProtectedHeader({ alg: "dir", enc }).encrypt(key),
      format: (key) => compactJwe({ key }),
      text: json,
    };
    describe(`with ${enc}`, () => {
      readsAndMigrates(program);
      detectsAlterations(program);
    });
  }

  it("uses the claim exp, in seconds, as the expiry of the record", async () => {
    const key = randomBytes(32);
    const at = Date.now() + 3_600_000;
    const jwt = await new jose.EncryptJWT({ sub: "alice" })
      .setProtectedHeader({ alg: "dir", enc: "A256GCM" })
      .setExpirationTime(seconds(at))
      .encrypt(key);
    const format = compactJwe({ key: key.toString("base64url") });
    expect(await format.read(jwt, address)).toEqual({
      value: `{"value":{"sub":"alice","exp":${seconds(at)}}}`,
      expires: seconds(at) * 1_000,
    });
    const inner = new MemoryStore();
    await inner.set("k", jwt);
    expect(await createKeyv({ store: inner, keys: newRing(), accept: [format] }).get("k")).toEqual({
      sub: "alice",
      exp: seconds(at),
    });
  });

  it("rejects a record whose claim exp is not a time, and rejects a compressed record", async () => {
    const key = randomBytes(32);
    const format = compactJwe({ key });
    const keys = newRing();
    const header = { alg: "dir", enc: "A256GCM" };
    const odd = await new jose.CompactEncrypt(Buffer.from('{"exp":"soon"}')).setProtectedHeader(header).encrypt(key);
    const zip = `${Buffer.from('{"alg":"dir","enc":"A256GCM","zip":"DEF"}').toString("base64url")}..AAAA.AAAA.AAAA`;
    for (const stored of [odd, zip]) {
      const inner = new MemoryStore();
      await inner.set("k", stored);
      await expectRefusal(new EncryptedStore(inner, { keys, accept: [format] }).get("k"), "RECORD_MALFORMED");
    }
  });

  it("leaves a JWE with another algorithm to other formats", async () => {
    const key = await jose.generateSecret("A256KW");
    const jwe = await new jose.CompactEncrypt(Buffer.from("{}"))
      .setProtectedHeader({ alg: "A256KW", enc: "A256GCM" })
      .encrypt(key);
    expect(await compactJwe({ key: randomBytes(32) }).read(jwe, address)).toBeUndefined();
  });
});

describe("laravel", () => {
  interface Variant {
    readonly cipher: string;
    readonly serialized: boolean;
  }
  for (const { cipher, serialized, records } of readVectors<Variant>("laravel")) {
    const program = recorded(records, (key) => laravel({ key, serialized }));
    describe(`with ${cipher}, and ${serialized ? "encrypt()" : "encryptString()"}`, () => {
      readsAndMigrates(program);
      detectsAlterations(program);
    });
  }

  it("refuses a PHP value that is not a string", async () => {
    for (const { records } of readVectors<Variant & { readonly records: readonly { readonly array: string }[] }>(
      "laravel",
    )) {
      const [record] = records;
      const inner = new MemoryStore();
      await inner.set("k", record?.array ?? "");
      const accept = [laravel({ key: record?.key ?? "", serialized: true })];
      const error = await expectRefusal(
        createKeyv({ store: inner, keys: newRing(), accept }).get("k"),
        "RECORD_MALFORMED",
      );
      expect(error.message).toContain("not a string that PHP serialized");
    }
  });

  it.each(["base64:", "base64:AAAA", randomBytes(24)])("refuses the key %j", async (key) => {
    await expectRefusal(() => laravel({ key }), "KEY_INVALID");
  });
});

describe("secretbox", () => {
  beforeAll(() => sodium.ready);
  const open = (ciphertext: Uint8Array, nonce: Uint8Array, key: Uint8Array) =>
    sodium.crypto_secretbox_open_easy(ciphertext, nonce, key);
  const encrypt = (text: string, key: Uint8Array) => {
    const nonce = sodium.randombytes_buf(sodium.crypto_secretbox_NONCEBYTES);
    return [nonce, sodium.crypto_secretbox_easy(text, nonce, key)] as const;
  };
  const packed: OldProgram<Uint8Array> = {
    newKey: () => sodium.crypto_secretbox_keygen(),
    write: (text, key) => Buffer.concat(encrypt(text, key)),
    format: (key) => secretbox({ key, open, encoding: "raw" }),
  };
  describe("with libsodium, in raw bytes", () => {
    readsAndMigrates(packed);
    detectsAlterations(packed);
  });
  describe("with libsodium, in the fields of a JSON object", () =>
    readsAndMigrates({
      ...packed,
      write(text, key) {
        const [nonce, ciphertext] = encrypt(text, key).map((part) => Buffer.from(part).toString("hex"));
        return JSON.stringify({ nonce, ciphertext });
      },
      format: (key) => secretbox({ key, open, encoding: "hex", layout: { iv: "nonce", ciphertext: "ciphertext" } }),
    }));

  it("treats null, undefined or false from the option open as a wrong key", async () => {
    const key = packed.newKey();
    const stored = Buffer.from(await packed.write("text", key)).toString("base64");
    for (const failure of [null, undefined, false] as const) {
      const format = secretbox({ key, open: async () => failure });
      await expectRefusal(async () => await format.read(stored, address), "RECORD_TAMPERED");
    }
  });
});

describe("cryptoJs", () => {
  const program = (encryptUnauthenticated: boolean): OldProgram<string> => ({
    newKey: () => randomBytes(12).toString("base64"),
    write: (text, passphrase) => CryptoJS.AES.encrypt(text, passphrase).toString(),
    format: (passphrase) => cryptoJs({ passphrase, encryptUnauthenticated }),
  });
  describe("by default", () => readsAndMigrates(program(false)));
  describe("with encryptUnauthenticated: true", () => {
    const { newKey, write, format } = program(true);
    it("lets lazy and bulk re-encryption encrypt the records", async () => {
      const [current, former] = [newKey(), newKey()];
      const inner = new MemoryStore();
      for (const key of ["lazy", "bulk"]) await inner.set(key, await write(JSON.stringify({ value }), former));
      const keys = newRing("k1");
      const keyv = createKeyv({ store: inner, keys, accept: [format([current, former])] });
      expect(await keyv.get("lazy")).toEqual(value);
      await keyv.encryptedStore.settled();
      expect(keyIdIn(await inner.get("lazy"))).toBe("k1");
      expect(await reencrypt(keyv)).toMatchObject({ reencrypted: 1, current: 1, unauthenticated: 0, complete: true });
      expect(await createKeyv({ store: inner, keys }).getMany(["lazy", "bulk"])).toEqual([value, value]);
    });
  });

  it("makes touch reject, because touch writes the decrypted value, and allows replace and set", async () => {
    const { write, newKey, format } = program(false);
    const passphrase = newKey();
    const inner = new MemoryStore();
    const stored = await write("old", passphrase);
    await inner.set("k", stored);
    const store = new EncryptedStore(inner, { keys: newRing("k1"), accept: [format([passphrase])] });
    await expectRefusal(async () => await store.touch?.("k", null), "RECORD_NOT_SEALED");
    expect(await inner.get("k")).toBe(stored);
    expect(await store.replace?.("k", "other", "new")).toBe(false);
    expect(await store.replace?.("k", "old", "new")).toBe(true);
    expect(keyIdIn(await inner.get("k"))).toBe("k1");
    await inner.set("k", stored);
    expect(await store.set("k", "newer")).toBe(true);
    expect(await store.get("k")).toBe("newer");
  });

  it("is marked as unauthenticated in its type", () => {
    const unauthenticated: false = cryptoJs({ passphrase: "p" }).authenticated;
    expect(unauthenticated).toBe(false);
  });

  it("does not encrypt garbage that decryption with a wrong passphrase returns", async () => {
    const inner = new MemoryStore();
    const { write, newKey, format } = program(false);
    for (let index = 0; index < 2_000; index++) await inner.set(`${index}`, await write("v", newKey()));
    const store = new EncryptedStore(inner, { keys: newRing("k1"), accept: [format([newKey()])] });
    const { reencrypted, unauthenticated, unreadable } = await reencrypt(store);
    expect(reencrypted).toBe(0);
    expect(unauthenticated + unreadable).toBe(2_000);
    // Garbage that is text is rare, but occurs: about one in 256 has valid padding.
    expect(unauthenticated).toBeLessThan(60);
  });
});

describe("openssl", () => {
  interface Variant {
    readonly arguments: string;
    readonly isBytes: boolean;
    readonly options: Omit<OpensslOptions, "passphrase">;
  }
  for (const { arguments: given, isBytes, options, records } of readVectors<Variant>("openssl-enc")) {
    describe(`with ${given}`, () =>
      readsAndMigrates(
        recorded(
          records,
          (passphrase) => openssl({ ...options, passphrase }),
          (stored) => (isBytes ? Buffer.from(stored, "base64") : stored),
        ),
      ));
  }
});

describe("the formats together", () => {
  it("read only the records in their own format", async () => {
    const key = randomBytes(32);
    const password = randomBytes(24).toString("base64");
    const stored: Readonly<Record<string, string>> = {
      fernet: new Fernet.Token({ secret: new Fernet.Secret(key.toString("base64url")), ttl: 0 }).encode(json),
      iron: await hapiIron.seal(value, password, hapiIron.defaults),
      jwe: await new jose.CompactEncrypt(Buffer.from(json))
        .setProtectedHeader({ alg: "dir", enc: "A256GCM" })
        .encrypt(key),
      cryptojs: CryptoJS.AES.encrypt(json, password).toString(),
      laravel: readVectors("laravel")[0]?.records[0]?.stored ?? "",
    };
    const formats = [
      fernet({ key, value: "json" }),
      iron({ password }),
      compactJwe({ key }),
      laravel({ key: readVectors("laravel")[0]?.records[0]?.key ?? "" }),
      cryptoJs({ passphrase: password, value: "json" }),
    ];
    for (const format of formats) {
      for (const [name, text] of Object.entries(stored)) {
        const read = await format.read(text, address);
        expect([format.name, name, read !== undefined]).toEqual([format.name, name, format.name === name]);
      }
    }
  });

  it("show no key when they are printed, or in the error for a record that no key decrypts", async () => {
    const text = `${marker}a long enough old key`;
    const raw = randomBytes(32).toString("base64");
    const cases: readonly (readonly [ForeignFormat, string])[] = [
      [aesGcm({ key: text, layout: "iv-tag-ciphertext" }), raw],
      [aesGcm({ key: text, keyFrom: { kdf: "scrypt", salt: `${marker}salt` }, layout: "iv-tag-ciphertext" }), raw],
      [keyvEncryptNode({ key: text }), raw],
      [aesCbc({ key: text, layout: "iv-ciphertext" }), raw],
      [iron({ password: text }), await hapiIron.seal(value, "another password, which is as long", hapiIron.defaults)],
      [cryptoJs({ passphrase: text }), CryptoJS.AES.encrypt("x".repeat(40), "another").toString()],
      [openssl({ passphrase: text }), CryptoJS.AES.encrypt("x".repeat(40), "another").toString()],
    ];
    for (const [format, stored] of cases) {
      expectNoSecrets(format);
      await expectRefusal(async () => await format.read(stored, address), "RECORD_TAMPERED");
    }
    for (const make of [
      () => fernet({ key: text }),
      () => laravel({ key: text }),
      () => secretbox({ key: text, open: () => null }),
      () => aesGcm({ key: text, keyFrom: "utf8", layout: "iv-tag-ciphertext" }),
    ]) {
      await expectRefusal(make, "KEY_INVALID");
    }
  });

  it("are each tried if their records look alike, and the read rejects if no key fits", async () => {
    const key = randomBytes(32);
    const inner = new MemoryStore();
    const [record] = readVectors("laravel")[0]?.records ?? [];
    await inner.set("laravel", record?.stored ?? "");
    await inner.set("cryptojs", CryptoJS.AES.encrypt(JSON.stringify({ value }), "the passphrase").toString());
    await inner.set("unknown", randomBytes(80).toString("base64"));
    const accept = [
      plaintext({ matches: () => true }),
      cryptoJs({ passphrase: "the passphrase" }),
      aesGcm({ key, layout: "iv-tag-ciphertext" }),
      laravel({ key: record?.key ?? "" }),
    ];
    const keyv = createKeyv({ store: inner, keys: newRing(), accept, reencrypt: "off" });
    expect(await keyv.getMany(["laravel", "cryptojs"])).toEqual([value, value]);
    const error = await expectRefusal(keyv.get("unknown"), "RECORD_TAMPERED");
    expect(error.message).toContain("aes-gcm");
  });
});
