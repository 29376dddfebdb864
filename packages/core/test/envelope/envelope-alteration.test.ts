import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RootKey } from "../../src/envelope/root-key.ts";
import { KeywardError } from "../../src/errors/errors.ts";
import { Keyring, keyOf } from "../../src/keyring/keyring.ts";
import type { RecordAddress } from "../../src/store-interface/record.ts";
import { anyContent, codeOf, openStored, sealStored, storeHolding } from "../records.ts";

const address: RecordAddress = { namespace: "flows", key: "session:42" };
const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

describe("decryption of an envelope", () => {
  const ring = Keyring.generate("2026-11");
  const key = keyOf(ring, "2026-11");
  if (key === undefined) throw new Error("The keyring lacks its key");
  const { root } = key;
  const text = String(
    sealStored("2026-11", root, address, { value: "short", expires: 4e12 }, { form: "text", padTo: 8 }),
  );
  const binary = Buffer.from(sealStored("2026-11", root, address, { value: "short" }, { form: "binary" }));

  /** Reads a stored value through a store, and returns the code of the error. Fails if there is no error. */
  async function read(stored: string | Buffer): Promise<string> {
    const store = storeHolding(stored, address, { keys: ring, reencrypt: "off" });
    let value: unknown;
    try {
      value = await store.get(address.key);
    } catch (error) {
      if (error instanceof KeywardError) return error.code;
      throw error;
    }
    throw new Error(`It read as ${value === undefined ? "absent" : "a value"}`);
  }

  it("succeeds if the envelope was not altered", async () => {
    for (const stored of [text, binary]) await expect(read(stored)).rejects.toThrow("It read as a value");
  });

  it("fails if any bit of the binary form is flipped", async () => {
    for (let bit = 0; bit < binary.length * 8; bit++) {
      const flipped = Buffer.from(binary);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(await read(flipped), `bit ${bit}`).toMatch(
        bit >> 3 < 12 ? /^(KEY_|RECORD_|ENVELOPE_)/ : /^(KEY_MISMATCH|RECORD_TAMPERED)$/,
      );
    }
  });

  it("fails if any bit is flipped in the ASCII bytes of the text form, or in its decoded body", async () => {
    const body = Buffer.from(text.slice(12), "base64url");
    for (let bit = 0; bit < body.length * 8; bit++) {
      const flipped = Buffer.from(body);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(await read(text.slice(0, 12) + flipped.toString("base64url")), `bit ${bit}`).toBe(
        bit < 32 * 8 ? "KEY_MISMATCH" : "RECORD_TAMPERED",
      );
    }
    const bytes = Buffer.from(text);
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const flipped = Buffer.from(bytes);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(await read(flipped), `bit ${bit}`).toMatch(/^(KEY_|RECORD_|ENVELOPE_)/);
      expect(await read(flipped.toString("utf8")), `bit ${bit}`).toMatch(/^(KEY_|RECORD_|ENVELOPE_)/);
    }
  });

  it("fails if any character of the text form is replaced", async () => {
    for (let at = 0; at < text.length; at++) {
      // Node's decoder reads a character as its lower eight bits.
      const lookalikes = [0x100, 0x2100, 0xff00].map((more) => String.fromCharCode(more + text.charCodeAt(at)));
      for (const character of [...`${alphabet}.:=+/ \n\0éĀ🔐`, ...lookalikes]) {
        if (character === text[at]) continue;
        expect(await read(text.slice(0, at) + character + text.slice(at + 1)), `${at} ${character}`).toMatch(
          /^(KEY_|RECORD_|ENVELOPE_)/,
        );
      }
    }
  });

  it("fails if the beginning or the end of the text form or the binary form is cut off", async () => {
    for (let at = 0; at < text.length; at++) {
      expect(await read(text.slice(0, at)), `to ${at}`).toMatch(/^RECORD_|^KEY_/);
      expect(await read(Buffer.from(text.slice(0, at))), `to ${at}, as bytes`).toMatch(/^RECORD_|^KEY_/);
      if (at > 0) expect(await read(text.slice(at)), `from ${at}`).toBe("RECORD_NOT_SEALED");
    }
    for (let at = 0; at < binary.length; at++) {
      expect(await read(binary.subarray(0, at)), `to ${at}`).toMatch(/^RECORD_/);
      if (at > 0) expect(await read(binary.subarray(at)), `from ${at}`).toBe("RECORD_NOT_SEALED");
    }
  });

  it("fails if a character or a byte is inserted anywhere into the text form or the binary form", async () => {
    for (let at = 0; at <= text.length; at++) {
      for (const more of ["A", "=", ".", "\n"]) {
        expect(await read(text.slice(0, at) + more + text.slice(at)), `${at} ${more}`).toMatch(
          /^(RECORD_|KEY_|ENVELOPE_)/,
        );
      }
    }
    for (let at = 0; at <= binary.length; at++) {
      const longer = Buffer.concat([binary.subarray(0, at), Buffer.of(0x30), binary.subarray(at)]);
      expect(await read(longer), `${at}`).toMatch(/^(RECORD_|KEY_|ENVELOPE_)/);
    }
  });
});

describe("the text form of a record", () => {
  it("is the only text that decrypts to the record", () => {
    const root = new RootKey(randomBytes(32));
    fc.assert(
      fc.property(
        anyContent,
        fc.nat(),
        fc.nat(),
        fc.constantFrom("replace", "insert", "append", "drop"),
        (content, where, what, how) => {
          const text = String(sealStored("k", root, address, content, { form: "text" }));
          const character = [...alphabet, "=", "==", "+", "/", " ", "\n", "\t", "\0", ".", "é"][what % 74] ?? "A";
          const at = where % text.length;
          const other = {
            replace: text.slice(0, at) + character + text.slice(at + 1),
            insert: text.slice(0, at) + character + text.slice(at),
            append: text + character,
            drop: text.slice(0, at) + text.slice(at + 1),
          }[how];
          fc.pre(other !== text);
          expect(codeOf(() => openStored(other, "k", root, address))).toBeDefined();
        },
      ),
      { numRuns: 3_000 },
    );
  });

  it("cannot be decrypted if its last character is replaced, even by a character that base64url decodes to the same bytes", () => {
    const root = new RootKey(randomBytes(32));
    for (const length of [0, 1, 2]) {
      const text = String(sealStored("k", root, address, { value: "x".repeat(length) }, { form: "text" }));
      const open = [...alphabet].filter(
        (last) => codeOf(() => openStored(text.slice(0, -1) + last, "k", root, address)) === undefined,
      );
      expect(open).toEqual([text.at(-1)]);
    }
  });
});
