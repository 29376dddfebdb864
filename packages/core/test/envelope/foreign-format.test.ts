import { createCipheriv, createHash, randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type ForeignFormat, plaintext } from "../../src/envelope/foreign-format.ts";
import { type AesGcmOptions, aesGcm } from "../../src/envelope/formats/aes-gcm.ts";
import { KeywardError } from "../../src/errors/errors.ts";
import { Keyring } from "../../src/keyring/keyring.ts";
import { EncryptedStore } from "../../src/store/encrypted-store.ts";
import { requireExpires } from "../../src/store-interface/store-arguments.ts";
import { leaked, shown } from "../leak.ts";
import { storeHolding } from "../records.ts";

const address = { namespace: "flows", key: "session:42" };
type Layout = "iv-tag-ciphertext" | "iv-ciphertext-tag";
type Encoding = Exclude<NonNullable<AesGcmOptions["encoding"]>, "raw">;
const layouts: readonly Layout[] = ["iv-tag-ciphertext", "iv-ciphertext-tag"];
const encodings: readonly Encoding[] = ["base64", "base64url", "hex"];

/**
 * Encrypts as @keyv/encrypt-node does, with the layout iv-tag-ciphertext in base64. Most code examples use one of the
 * other layouts or encodings.
 */
function encrypt(
  text: string | Uint8Array,
  key: string | Uint8Array,
  layout: Layout = "iv-tag-ciphertext",
  encoding: Encoding = "base64",
): string {
  const secret = typeof key === "string" ? createHash("sha256").update(key).digest() : key;
  const iv = randomBytes(12);
  const cipher = createCipheriv("aes-256-gcm", secret, iv);
  const ciphertext = Buffer.concat([cipher.update(text), cipher.final()]);
  const tag = cipher.getAuthTag();
  const parts = layout === "iv-tag-ciphertext" ? [iv, tag, ciphertext] : [iv, ciphertext, tag];
  return Buffer.concat(parts).toString(encoding);
}

/** A format that reads every value, and records the values that it was asked to read. */
class Recorder implements ForeignFormat {
  readonly asked: unknown[] = [];

  read(stored: string | Uint8Array): { value: string } {
    this.asked.push(stored);
    return { value: "claimed" };
  }
}

describe("aesGcm", () => {
  const keys = { "a passphrase": "correct horse battery staple, no less", "32 bytes": randomBytes(32) };

  describe.each(Object.entries(keys))("with %s as its key", (_, key) => {
    it.each(layouts.flatMap((layout) => encodings.map((encoding) => [layout, encoding] as const)))(
      "reads values with the layout %s and the encoding %s",
      async (layout, encoding) => {
        const format = aesGcm({ key, layout, encoding });
        for (const value of ["", "text", "zażółć 🔐", '{"value":"v"}', "x".repeat(5_000)]) {
          expect(await format.read(encrypt(value, key, layout, encoding), address)).toEqual({ value });
        }
        const bytes = Buffer.from([0xff, 0x00, 0xfe]);
        expect(await format.read(encrypt(bytes, key, layout, encoding), address)).toEqual({ value: bytes });
      },
    );
  });

  it("lets a store read the records that @keyv/encrypt-node has encrypted, with their expiry", async () => {
    const key = keys["a passphrase"];
    const accept = [aesGcm({ key, layout: "iv-tag-ciphertext" })];
    const read = (stored: string): Promise<unknown> =>
      storeHolding(stored, address, { keys: Keyring.generate(), accept }).get(address.key);
    const future = JSON.stringify({ value: { step: 1 }, expires: Date.now() + 60_000 });
    expect(await read(encrypt(future, key))).toBe(future);
    expect(await read(encrypt(JSON.stringify({ value: 1, expires: Date.now() - 1 }), key))).toBeUndefined();
    expect(await read(encrypt(JSON.stringify({ value: 1, expires: null }), key))).toBe('{"value":1,"expires":null}');
  });

  it("reads base64 even if the padding is missing", async () => {
    const key = randomBytes(32);
    const format = aesGcm({ key, layout: "iv-tag-ciphertext" });
    for (const value of ["a", "ab", "abc"]) {
      expect(await format.read(encrypt(value, key).replace(/=+$/, ""), address)).toEqual({ value });
    }
  });

  it("reads hexadecimal even if it is in capitals", async () => {
    const key = randomBytes(32);
    const format = aesGcm({ key, layout: "iv-tag-ciphertext", encoding: "hex" });
    const sealed = encrypt("v", key, "iv-tag-ciphertext", "hex").toUpperCase();
    expect(await format.read(sealed, address)).toEqual({ value: "v" });
  });

  it("throws or returns undefined if the value was altered or cut anywhere", async () => {
    for (const layout of layouts) {
      for (const encoding of encodings) {
        const key = randomBytes(32);
        const format = aesGcm({ key, layout, encoding });
        const keyring = Keyring.generate();
        const sealed = encrypt("value", key, layout, encoding);
        const packed = Buffer.from(sealed, encoding);
        const broken = new Set<string>();
        for (let bit = 0; bit < packed.length * 8; bit++) {
          const flipped = Buffer.from(packed);
          flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
          broken.add(flipped.toString(encoding));
        }
        for (let length = 1; length < packed.length; length++) {
          broken.add(packed.subarray(0, length).toString(encoding));
          broken.add(packed.subarray(length).toString(encoding));
        }
        // "==" may be cut from base64: the same bytes are left.
        const unpadded = sealed.replace(/=+$/, "");
        for (let length = 1; length < unpadded.length; length++) broken.add(sealed.slice(0, length));
        for (const stored of broken) {
          const store = storeHolding(stored, address, { keys: keyring, accept: [format] });
          const error: unknown = await store.get(address.key).then(
            (value) => `The value was read as ${String(value)}`,
            (reason: unknown) => reason,
          );
          if (!(error instanceof KeywardError)) throw new Error(String(error));
          expect(error.code).toMatch(/^(RECORD_TAMPERED|RECORD_NOT_SEALED)$/);
          expect(leaked(shown(error), key)).toBeUndefined();
        }
      }
    }
  });

  it("throws if the value was encrypted under another key or in another layout", () => {
    const key = randomBytes(32);
    const sealed = encrypt("a value", key);
    for (const options of [
      { key: randomBytes(32), layout: "iv-tag-ciphertext" },
      { key: "another passphrase", layout: "iv-tag-ciphertext" },
      { key, layout: "iv-ciphertext-tag" },
    ] as const) {
      expect(() => aesGcm(options).read(sealed, address)).toThrow(
        expect.objectContaining({ code: "RECORD_TAMPERED", namespace: "flows", key: "session:42" }),
      );
    }
  });

  it.each(encodings)("returns undefined for JSON, for bytes, and for text that is not %s", (encoding) => {
    const format = aesGcm({ key: randomBytes(32), layout: "iv-tag-ciphertext", encoding });
    const long = "x".repeat(60);
    for (const stored of [
      JSON.stringify({ value: long }),
      JSON.stringify({ value: long, expires: 1 }),
      JSON.stringify(long),
      `[${"1,".repeat(50)}1]`,
      "",
      "short",
      `${"A".repeat(59)} `,
      `${"A".repeat(59)}\n`,
      "é".repeat(60),
      randomBytes(60),
    ]) {
      expect(format.read(stored, address)).toBeUndefined();
    }
  });

  it.each([["" as const], [new Uint8Array(31)], [new Uint8Array(33)], [new Uint8Array(0)]])(
    "refuses the key %j",
    (key) => {
      expect(() => aesGcm({ key, layout: "iv-tag-ciphertext" })).toThrow(
        expect.objectContaining({ code: "KEY_INVALID" }),
      );
    },
  );

  it("returns a format that does not show the encryption key", () => {
    const key = randomBytes(32);
    expect(leaked(shown(aesGcm({ key, layout: "iv-tag-ciphertext" })), key)).toBeUndefined();
  });
});

describe("the format plaintext", () => {
  it.each([
    ['{"value":1}', undefined],
    ['{"value":{"a":[]},"expires":4102444800000}', 4102444800000],
    ['{"expires":4102444800000,"value":null}', 4102444800000],
    ['{"value":1,"expires":null}', undefined],
    ['{"value":1,"expires":0}', 0],
  ])("reads the JSON %s that Keyv writes", (stored, expires) => {
    expect(plaintext().read(stored, address)).toEqual(
      expires === undefined ? { value: stored } : { value: stored, expires },
    );
  });

  it.each([
    "",
    "text",
    "1",
    "null",
    "[]",
    '"{}"',
    '{"value":1',
    '{"value":1,"other":2}',
    '{"iv":"a","tag":"b","data":"c"}',
    '{"value":1,"expires":"soon"}',
    '{"value":1,"expires":true}',
    '{"value":1,"__proto__":{}}',
    ' {"value":1}',
  ])("returns undefined for %j, which is not JSON that Keyv writes", (stored) => {
    expect(plaintext().read(stored, address)).toBeUndefined();
    expect(plaintext().read(Buffer.from(stored), address)).toBeUndefined();
  });

  it("reads only the values that the option matches accepts, if the option is set", () => {
    const format = plaintext({ matches: (stored) => typeof stored === "string" && stored.startsWith("v0 ") });
    expect(format.read("v0 text", address)).toEqual({ value: "v0 text" });
    expect(format.read('{"value":1}', address)).toBeUndefined();
  });

  it("makes a record absent if its expiry has passed, and keeps an expiry in the future during a re-encryption", async () => {
    const keys = Keyring.generate();
    const accept = [plaintext()];
    const past = JSON.stringify({ value: 1, expires: Date.now() - 1 });
    expect(await storeHolding(past, address, { keys, accept }).get(address.key)).toBeUndefined();

    const map = new Map<string, unknown>();
    const expires = Date.now() + 3_600_000;
    map.set("k", { value: JSON.stringify({ value: 1, expires }), expires: undefined });
    const store = new EncryptedStore(map, { keys, accept });
    const failed: unknown[] = [];
    store.on("reencrypt:error", (event: unknown) => failed.push(event));
    await store.get("k");
    await store.settled();
    expect(failed).toEqual([]);
    expect(JSON.stringify(map.get("k"))).toContain('"kw1.');
    expect(await new EncryptedStore(new Map(map), { keys }).get("k")).toBe(JSON.stringify({ value: 1, expires }));
  });

  it.each([4e12 + 0.5, 1e20, 2 ** 48])(
    "lets a store encrypt a record in the background after a read, even if its expiry is %d",
    async (expires) => {
      const keys = Keyring.generate();
      const map = new Map<string, unknown>([
        ["k", { value: JSON.stringify({ value: 1, expires }), expires: undefined }],
      ]);
      const store = new EncryptedStore(map, { keys, accept: [plaintext()] });
      const failed: unknown[] = [];
      store.on("reencrypt:error", (event: unknown) => failed.push(event));
      await store.get("k");
      await store.settled();
      expect(failed).toEqual([]);
      expect(JSON.stringify(map.get("k"))).toContain('"kw1.');
      expect(requireExpires("key", expires)).toBeLessThan(2 ** 48);
    },
  );

  it("is refused only in a namespace for which the keyring forbids plaintext", async () => {
    const keys = Keyring.generate().forbidPlaintext("flows");
    const options = { keys, accept: [plaintext({ matches: () => true })] };
    await expect(storeHolding('{"value":1}', address, options).get("session:42")).rejects.toMatchObject({
      code: "RECORD_NOT_SEALED",
    });
    const elsewhere = { namespace: "others", key: "session:42" };
    expect(await storeHolding('{"value":1}', elsewhere, options).get("session:42")).toBe('{"value":1}');
  });

  it("is tried after all other formats, whatever its position in the option accept", async () => {
    const recorder = new Recorder();
    const options = { keys: Keyring.generate(), accept: [plaintext(), recorder], reencrypt: "off" } as const;
    expect(await storeHolding('{"value":1}', address, options).get(address.key)).toBe("claimed");
  });
});

describe("the formats in the option accept", () => {
  const keys = Keyring.generate("k");
  const anyTail = fc.oneof(fc.string({ unit: "binary", maxLength: 120 }), fc.base64String({ maxLength: 120 }));
  const anyVersion = fc.oneof(fc.constant("1"), fc.stringMatching(/^[0-9]{1,60}$/));
  const anyHeader = fc.oneof(fc.constantFrom("k.", "k:", "", "k", "__proto__."), fc.string({ maxLength: 40 }));

  it("are never tried for a string or bytes that begin like an envelope", async () => {
    await fc.assert(
      fc.asyncProperty(
        anyVersion,
        fc.constantFrom(".", ":"),
        anyHeader,
        anyTail,
        async (version, separator, header, tail) => {
          const text = `kw${version}${separator}${header}${tail}`;
          for (const stored of [text, Buffer.from(text)]) {
            const recorder = new Recorder();
            const accept = [
              recorder,
              plaintext({ matches: () => true }),
              aesGcm({ key: "k", layout: "iv-tag-ciphertext" }),
            ];
            const store = storeHolding(stored, address, { keys, accept, reencrypt: "off" });
            await expect(store.get(address.key)).rejects.toMatchObject({
              code: expect.stringMatching(/^(RECORD_MALFORMED|ENVELOPE_UNSUPPORTED|KEY_UNKNOWN|KEY_MISMATCH)$/),
            });
            expect(recorder.asked).toEqual([]);
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it("are tried for a value that does not begin like an envelope", async () => {
    for (const stored of ["kw", "kw1", "kw.k.", "kwa1.k.", "KW1.k.", " kw1.k.", "kw-1.k.", "", randomBytes(5)]) {
      const recorder = new Recorder();
      const store = storeHolding(stored, address, { keys, accept: [recorder], reencrypt: "off" });
      expect(await store.get(address.key)).toBe("claimed");
      expect(recorder.asked).toEqual([stored]);
    }
  });
});
