import { createDecipheriv, randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { open, readHeader, seal } from "../../src/envelope/envelope.ts";
import { RootKey } from "../../src/envelope/root-key.ts";
import { KeywardError } from "../../src/errors/errors.ts";
import { Keyring, keyOf } from "../../src/keyring/keyring.ts";
import { KeyringSource } from "../../src/keyring/keyring-source.ts";
import { EncryptedStore } from "../../src/store/encrypted-store.ts";
import { RecordCodec } from "../../src/store/record-codec.ts";
import { RecordScopes } from "../../src/store/record-scopes.ts";
import { type RecordAddress, requireAddress } from "../../src/store-interface/record.ts";
import { requireExpires } from "../../src/store-interface/store-arguments.ts";
import {
  anyAddress,
  anyContent,
  anyForm,
  anyKeyId,
  anyPadTo,
  anyRoot,
  codeOf,
  openStored,
  sealStored,
} from "../records.ts";
import { collide } from "./gcm-collision.ts";
import { commitmentOf, headerOf, pae, sealingKey, subkeyOf } from "./naive-envelope.ts";

const address: RecordAddress = { namespace: "flows", key: "session:42" };

describe("an encrypted record", () => {
  it("is decrypted to the content that was encrypted, in the text form and in the binary form", () => {
    fc.assert(
      fc.property(
        anyRoot,
        anyKeyId,
        anyAddress,
        anyContent,
        anyForm,
        anyPadTo,
        (material, id, at, content, form, padTo) => {
          const root = new RootKey(material);
          const sealed = sealStored(id, root, at, content, { form, padTo });
          expect(typeof sealed).toBe(form === "text" ? "string" : "object");
          expect(openStored(sealed, id, root, at)).toEqual(content);
          // A store of bytes returns the text form as bytes.
          if (typeof sealed === "string") expect(openStored(Buffer.from(sealed), id, root, at)).toEqual(content);
        },
      ),
      { numRuns: 400 },
    );
  });

  it("is decrypted even if its bytes are part of a larger buffer", () => {
    const root = new RootKey(randomBytes(32));
    const sealed = Buffer.from(sealStored("k", root, address, { value: "v" }, { form: "binary" }));
    const within = new Uint8Array(sealed.length + 20);
    within.set(sealed, 7);
    const view: Uint8Array = within.subarray(7, 7 + sealed.length);
    const header = readHeader(view, address);
    if (header === undefined) throw new Error("The value was not recognised as an envelope");
    expect(open(view, header, root, address)).toEqual({ value: "v" });
  });

  it("is decrypted even if it is larger than every cache and pool of Keyward and Node", () => {
    const root = new RootKey(randomBytes(32));
    for (const form of ["text", "binary"] as const) {
      const value = randomBytes(3_000_001);
      const sealed = sealStored("k", root, address, { value }, { form, padTo: 4096 });
      const opened = openStored(sealed, "k", root, address).value;
      expect(typeof opened !== "string" && value.equals(opened)).toBe(true);
    }
  });

  it("is decrypted to bytes that share no memory with the stored value", () => {
    const root = new RootKey(randomBytes(32));
    const value = Buffer.from("given");
    const sealed = Buffer.from(sealStored("k", root, address, { value }, { form: "binary" }));
    const before = Buffer.from(sealed);
    const opened = openStored(sealed, "k", root, address).value;
    if (typeof opened === "string") throw new Error("Bytes came back as text");
    opened.fill(0);
    expect(sealed).toEqual(before);
    expect(value.toString()).toBe("given");
  });
});

describe("readHeader", () => {
  const headers = ["k", "k1", "K", "a-b_c", "x".repeat(32), "2026-11"].flatMap((id) =>
    ([".", ":"] as const).map((separator) => ({ id, separator, written: `kw1${separator}${id}${separator}` })),
  );

  it("returns the header as it is written in the value, whatever headers it has read before", () => {
    fc.assert(
      fc.property(fc.array(fc.tuple(fc.constantFrom(...headers), fc.boolean()), { maxLength: 30 }), (reads) => {
        for (const [{ id, separator, written }, asBytes] of reads) {
          const stored = asBytes ? Buffer.from(`${written}body`) : `${written}body`;
          if (separator === ":" && !asBytes) {
            expect(() => readHeader(stored, address)).toThrow(expect.objectContaining({ code: "RECORD_MALFORMED" }));
          } else {
            expect(readHeader(stored, address)).toEqual({
              version: 1,
              form: separator === "." ? "text" : "binary",
              keyId: id,
              written,
            });
          }
        }
      }),
    );
  });

  it("does not confuse a value with an earlier value that begins in almost the same way", () => {
    for (const { written } of headers) readHeader(Buffer.from(written), address);
    for (const stored of ["kw1.k1", "kw1", "kw", "", "KW1.k1.", " kw1.k1.", "no header"]) {
      const read = () => readHeader(stored, address)?.keyId;
      if (stored === "kw1.k1") expect(read).toThrow(expect.objectContaining({ code: "RECORD_MALFORMED" }));
      else expect(read()).toBeUndefined();
    }
    expect(readHeader("kw1.k11.body", address)?.keyId).toBe("k11");
    expect(() => readHeader("kw1.k1:body", address)).toThrow(expect.objectContaining({ code: "RECORD_MALFORMED" }));
    expect(() => readHeader("kw2.k1.body", address)).toThrow(expect.objectContaining({ code: "ENVELOPE_UNSUPPORTED" }));
  });
});

describe("a text with a character that decoding may change", () => {
  it.each(["\ufffd", "a\ufffdb", "\ufeff\ufffd", "\u0001", "\0", "żółw \ufffd 🔐", `${"x".repeat(5_000)}\ufffd`])(
    "is decrypted unchanged: %j",
    (value) => {
      const root = new RootKey(randomBytes(32));
      for (const form of ["text", "binary"] as const) {
        for (const padTo of [undefined, 64]) {
          for (const expires of [undefined, 4e12]) {
            const content = expires === undefined ? { value } : { value, expires };
            expect(openStored(sealStored("k", root, address, content, { form, padTo }), "k", root, address)).toEqual(
              content,
            );
          }
        }
      }
    },
  );
});

describe("decryption", () => {
  it("fails if the record was moved to another address", () => {
    const root = new RootKey(randomBytes(32));
    fc.assert(
      fc.property(anyAddress, anyAddress, anyForm, (from, to, form) => {
        fc.pre(from.namespace !== to.namespace || from.key !== to.key);
        const sealed = sealStored("k", root, from, { value: "v" }, { form });
        expect(codeOf(() => openStored(sealed, "k", root, to))).toBe("RECORD_TAMPERED");
      }),
    );
  });

  it("fails if characters move from the end of the namespace to the beginning of the key, or back", () => {
    const root = new RootKey(randomBytes(32));
    fc.assert(
      fc.property(fc.string({ minLength: 1 }), fc.nat(), fc.nat(), anyForm, (joined, one, other, form) => {
        const cut = (at: number): RecordAddress => {
          const index = at % (joined.length + 1);
          return { namespace: joined.slice(0, index), key: joined.slice(index) };
        };
        fc.pre(cut(one).key !== cut(other).key);
        const sealed = sealStored("k", root, cut(one), { value: "v" }, { form });
        expect(codeOf(() => openStored(sealed, "k", root, cut(other)))).toBe("RECORD_TAMPERED");
      }),
    );
  });

  it("fails if the envelope names another key id, even if that key has the same material", () => {
    const material = randomBytes(32);
    const [one, other] = [new RootKey(material), new RootKey(material)];
    const sealed = String(sealStored("one", one, address, { value: "v" }, { form: "text" }));
    const renamed = sealed.replace("kw1.one.", "kw1.other.");
    expect(codeOf(() => openStored(sealed, "one", other, address))).toBeUndefined();
    expect(codeOf(() => openStored(renamed, "other", other, address))).toBe("RECORD_TAMPERED");
  });

  it("fails if an envelope in text form was rewritten in binary form", () => {
    const root = new RootKey(randomBytes(32));
    const text = String(sealStored("k", root, address, { value: "v" }, { form: "text" }));
    const binary = Buffer.concat([Buffer.from("kw1:k:"), Buffer.from(text.slice(6), "base64url")]);
    expect(codeOf(() => openStored(binary, "k", root, address))).toBe("RECORD_TAMPERED");
  });

  it("succeeds under only one key, even if AES-GCM can decrypt the ciphertext under two keys", () => {
    const materials = [randomBytes(32), randomBytes(32)] as const;
    for (const form of ["text", "binary"] as const) {
      const header = headerOf("shared", form);
      const data = pae(Buffer.from(header), Buffer.from(address.namespace), Buffer.from(address.key));
      const { nonce, ciphertext, tag } = collidingRecord(materials, data);

      // AES-GCM itself accepts the ciphertext under both subkeys, and both plaintexts are well laid out: flags 0,
      // bytes.
      const plaintexts = materials.map((material) => {
        const subkey = subkeyOf(sealingKey(material), nonce);
        const decipher = createDecipheriv("aes-256-gcm", subkey, nonce.subarray(12), { authTagLength: 16 });
        decipher.setAAD(data).setAuthTag(tag);
        return Buffer.concat([decipher.update(ciphertext), decipher.final()]);
      });
      expect(plaintexts.map((plain) => plain[0])).toEqual([0, 0]);
      expect(plaintexts[0]).not.toEqual(plaintexts[1]);

      for (const [index, material] of materials.entries()) {
        const body = Buffer.concat([commitmentOf(material), nonce, ciphertext, tag]);
        const stored =
          form === "text" ? header + body.toString("base64url") : Buffer.concat([Buffer.from(header), body]);
        const codes = materials.map((other) => codeOf(() => openStored(stored, "shared", new RootKey(other), address)));
        expect(codes).toEqual(index === 0 ? [undefined, "KEY_MISMATCH"] : ["KEY_MISMATCH", undefined]);
      }
    }
  });
});

describe("encryption", () => {
  const root = new RootKey(randomBytes(32));
  const lone = ["\ud800", "a\udc00", "\udc00\ud800"];

  it.each(lone)("refuses an address or a text that contains the lone surrogate %j", (text) => {
    for (const form of ["text", "binary"] as const) {
      expect(codeOf(() => seal("k", root, address, { value: text }, { form }))).toBe("VALUE_INVALID");
    }
    expect(codeOf(() => requireAddress(text, "key"))).toBe("VALUE_INVALID");
    expect(codeOf(() => requireAddress("namespace", text))).toBe("VALUE_INVALID");
  });

  it.each(lone)(
    "refuses a record's key or a text that contains the lone surrogate %j, in calls of a store",
    async (text) => {
      const map = new Map<string, unknown>();
      const store = new EncryptedStore(map, { keys: Keyring.generate() });
      for (const call of [store.set("key", text), store.set(text, "value"), store.get(text), store.has(text)]) {
        await expect(call).rejects.toMatchObject({ code: "VALUE_INVALID" });
      }
      expect(map.size).toBe(0);
    },
  );

  it("refuses an expiry that is not a number", () => {
    expect(codeOf(() => requireExpires("key", Number.NaN))).toBe("VALUE_INVALID");
    expect(codeOf(() => seal("k", root, address, { value: "v", expires: Number.NaN }, { form: "text" }))).toBe(
      "VALUE_INVALID",
    );
  });
});

describe("an expiry", () => {
  const root = new RootKey(randomBytes(32));

  it.each([
    [1.2, 2],
    [1_700_000_000_000.5, 1_700_000_000_001],
    [2 ** 48 - 1, 2 ** 48 - 1],
    [2 ** 48, 2 ** 48 - 1],
    [1e300, 2 ** 48 - 1],
    [Number.POSITIVE_INFINITY, 2 ** 48 - 1],
    [-0.5, 0],
    [-7, 0],
    [Number.NEGATIVE_INFINITY, 0],
  ])("that a caller sets to %d is stored as %d", (given, kept) => {
    expect(requireExpires("key", given)).toBe(kept);
    for (const form of ["text", "binary"] as const) {
      const sealed = sealStored("k", root, address, { value: "v", expires: given }, { form });
      expect(openStored(sealed, "k", root, address)).toEqual({ value: "v", expires: kept });
    }
  });

  it("makes a record absent after the expiry has passed, even if the store still has the record", async () => {
    const ring = Keyring.generate("k");
    const key = keyOf(ring, "k");
    if (key === undefined) throw new Error("The keyring lacks its key");
    for (const [expires, value] of [
      [Date.now() - 1, undefined],
      [Date.now() + 3_600_000, "v"],
    ] as const) {
      const sealed = seal("k", key.root, { namespace: "", key: "a" }, { value: "v", expires }, { form: "text" });
      // Someone has extended the expiry that the backend keeps.
      const map = new Map<string, unknown>([["a", { value: sealed, expires: Date.now() + 1e9 }]]);
      const store = new EncryptedStore(map, { keys: ring });
      expect(await store.get("a")).toBe(value);
      expect(await store.has("a")).toBe(value !== undefined);
      expect(map.size).toBe(1);
    }
  });
});

describe("padding", () => {
  it("makes the envelopes of all values of up to 58 bytes equally long if padTo is 64, in text form and in binary form", () => {
    const root = new RootKey(randomBytes(32));
    for (const form of ["text", "binary"] as const) {
      const lengths = new Set(
        Array.from(
          { length: 59 },
          (_, length) => sealStored("k", root, address, { value: "x".repeat(length) }, { form, padTo: 64 }).length,
        ),
      );
      expect(lengths.size).toBe(1);
      expect(sealStored("k", root, address, { value: "x".repeat(60) }, { form, padTo: 64 }).length).toBeGreaterThan(
        Math.max(...lengths),
      );
    }
  });
});

describe("an error about a record", () => {
  it("does not show plaintext, key material, an envelope or the record's key", async () => {
    const ring = Keyring.generate("k");
    const key = keyOf(ring, "k");
    if (key === undefined) throw new Error("The keyring lacks its key");
    const at = { namespace: "flows", key: "session-id-that-is-secret" };
    const sealed = String(seal("k", key.root, at, { value: "plaintext that is secret" }, { form: "text" }));
    const broken = [
      sealed.slice(0, -1),
      sealed.slice(0, 60),
      `${sealed}=`,
      `${sealed.slice(0, 100)}${sealed[100] === "A" ? "B" : "A"}${sealed.slice(101)}`,
      `kw2${sealed.slice(3)}`,
      `kw1.${sealed.slice(6)}`,
      `kw${"9".repeat(500)}.`,
      "plaintext that is secret",
    ];
    const codec = new RecordCodec(KeyringSource.of(ring), "text", { scopes: new RecordScopes(undefined), accept: [] });
    for (const stored of broken) {
      const error: unknown = await codec.open(stored, at).then(
        () => undefined,
        (reason: unknown) => reason,
      );
      if (!(error instanceof KeywardError)) throw new Error("The record was decrypted");
      const message = `${error.message} ${error.hint} ${error.stack} ${String(error.cause)}`;
      expect(message).not.toContain("secret");
      expect(message).not.toContain(sealed.slice(30, 50));
      expect(message).not.toContain(key.root.commitment.toString("base64url").slice(0, 12));
      expect(message.includes("9".repeat(20))).toBe(false);
    }
  });
});

interface Colliding {
  readonly nonce: Buffer;
  readonly ciphertext: Buffer;
  readonly tag: Buffer;
}

/** Tries nonces until both plaintexts begin with the flags 0, which happens for one nonce in 256. */
function collidingRecord(materials: readonly [Buffer, Buffer], data: Buffer): Colliding {
  const [first, second] = [sealingKey(materials[0]), sealingKey(materials[1])];
  for (;;) {
    const nonce = randomBytes(24);
    const keys = [subkeyOf(first, nonce), subkeyOf(second, nonce)] as const;
    const colliding = collide(keys, nonce.subarray(12), data);
    if (colliding !== undefined) return { nonce, ...colliding };
  }
}
