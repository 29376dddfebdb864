import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RootKey } from "../../src/envelope/root-key.ts";
import { KeywardError } from "../../src/errors/errors.ts";
import type { RecordAddress } from "../../src/store-interface/record.ts";
import { anyAddress, anyContent, anyForm, anyKeyId, anyPadTo, anyRoot, openStored, sealStored } from "../records.ts";
import { commitmentOf, layOut, NaiveRefusal, openNaively, scopedRoot, sealPlain } from "./naive-envelope.ts";

const address: RecordAddress = { namespace: "flows", key: "session:42" };

describe("a second implementation of the specification", () => {
  it("decrypts every record that Keyward encrypts", () => {
    fc.assert(
      fc.property(
        anyRoot,
        anyKeyId,
        anyAddress,
        anyContent,
        anyForm,
        anyPadTo,
        (material, id, at, content, form, padTo) => {
          const sealed = sealStored(id, new RootKey(material), at, content, { form, padTo });
          expect(openNaively(sealed, { root: material, keyId: id, ...at })).toEqual(content);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("encrypts records that Keyward decrypts, and returns the same bytes as Keyward for the same nonce", () => {
    fc.assert(
      fc.property(
        anyRoot,
        anyKeyId,
        anyAddress,
        anyContent,
        anyForm,
        anyPadTo,
        (material, id, at, content, form, padTo) => {
          const nonce = randomBytes(24);
          const root = new RootKey(material);
          const sealed = sealPlain({ root: material, keyId: id, ...at }, form, nonce, layOut(content, padTo));
          expect(openStored(sealed, id, root, at)).toEqual(content);
          expect(sealStored(id, root, at, content, { form, padTo, knownAnswerNonce: nonce })).toEqual(sealed);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("returns the same value or error as Keyward for every plaintext with a valid tag, even if the plaintext is broken", () => {
    const material = randomBytes(32);
    const record = { root: material, keyId: "k", ...address };
    const root = new RootKey(material);
    const anyPlain = fc.oneof(
      fc.uint8Array({ maxLength: 24 }),
      // Mostly small numbers, so that lengths fall within the record now and then.
      fc.array(fc.constantFrom(0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 0x61, 0xc3, 0xa9), { maxLength: 20 }),
    );
    fc.assert(
      fc.property(anyPlain, anyForm, (plain, form) => {
        const sealed = sealPlain(record, form, randomBytes(24), Buffer.from(plain));
        expect(outcomeOf(() => openStored(sealed, "k", root, address))).toEqual(
          outcomeOf(() => openNaively(sealed, record)),
        );
      }),
      { numRuns: 3_000 },
    );
  });

  it("returns the same value or error as Keyward for every altered envelope", () => {
    const material = randomBytes(32);
    const record = { root: material, keyId: "2026-11", ...address };
    const root = new RootKey(material);
    const text = String(sealPlain(record, "text", randomBytes(24), layOut({ value: "text" })));
    const binary = Buffer.from(sealPlain(record, "binary", randomBytes(24), layOut({ value: "binary" })));
    const anyEdit = fc.tuple(
      fc.nat({ max: 120 }),
      fc.nat({ max: 3 }),
      fc.oneof(fc.string({ maxLength: 3 }), fc.constantFrom(".", ":", "kw1.", "=", "==", "\n", "é", "Ā", "2", "_")),
    );
    const edit = (value: string, [at, cut, put]: readonly [number, number, string]): string =>
      value.slice(0, at) + put + value.slice(at + cut);
    fc.assert(
      fc.property(fc.array(anyEdit, { minLength: 1, maxLength: 3 }), (edits) => {
        const altered = edits.reduce(edit, text);
        const alteredBytes = Buffer.from(edits.reduce(edit, binary.toString("latin1")), "latin1");
        for (const stored of [altered, alteredBytes]) {
          expect(outcomeOf(() => openStored(stored, "2026-11", root, address))).toEqual(
            outcomeOf(() => openNaively(stored, record)),
          );
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it("derives the same commitment and scoped roots as Keyward", () => {
    fc.assert(
      fc.property(anyRoot, fc.string({ unit: "binary", minLength: 1, maxLength: 200 }), (material, name) => {
        const root = new RootKey(material);
        expect(root.commitment).toEqual(commitmentOf(material));
        expect(root.scoped(name).material()).toEqual(scopedRoot(material, name));
      }),
    );
  });
});

type Outcome = { readonly code: string } | { readonly content: unknown };

function outcomeOf(open: () => unknown): Outcome {
  try {
    return { content: open() };
  } catch (error) {
    if (error instanceof KeywardError) return { code: error.code };
    if (error instanceof NaiveRefusal) return { code: error.message };
    throw error;
  }
}
