import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { readHeader, seal } from "../../src/envelope/envelope.ts";
import { RootKey } from "../../src/envelope/root-key.ts";
import { KeywardError } from "../../src/errors/errors.ts";
import { KeyringSource } from "../../src/keyring/keyring-source.ts";
import { RecordCodec } from "../../src/store/record-codec.ts";
import { RecordScopes } from "../../src/store/record-scopes.ts";
import type { RecordAddress } from "../../src/store-interface/record.ts";
import { storeHolding } from "../records.ts";
import { fromHex, readValue, ringOf, vectors } from "./envelope-vectors.ts";
import {
  commitmentOf,
  layOut,
  openNaively,
  pae,
  scopedRoot,
  sealingKey,
  sealPlain,
  subkeyOf,
  xaesSeal,
} from "./naive-envelope.ts";

/**
 * Returns the forms in which a store may return a written value. A store that keeps bytes returns a string as bytes.
 */
const asStored = (value: string | Buffer): (string | Buffer)[] =>
  typeof value === "string" ? [value, Buffer.from(value, "utf8")] : [value];

/** Re-encrypts a record as bulk re-encryption does, without decoding the value. */
async function sealAgainAtOnce(codec: RecordCodec, stored: string | Buffer, address: RecordAddress) {
  const header = readHeader(stored, address);
  return header === undefined ? undefined : codec.sealAgainAtOnce(await codec.ring(), stored, header, address);
}

describe("an accepted test vector", () => {
  it.each(vectors.accept)("is encrypted to its sealed value, and decrypted to its content: $name", async (vector) => {
    const { kid, namespace, key, scope, padTo } = vector;
    const value = readValue(vector.value);
    const sealed = readValue(vector.sealed);
    const form = typeof sealed === "string" ? "text" : "binary";
    const content = vector.expires === null ? { value } : { value, expires: vector.expires };
    const unscoped = new RootKey(fromHex(vector.root));
    const root = scope === null ? unscoped : unscoped.scoped(scope);
    const options = { form, padTo: padTo ?? undefined, knownAnswerNonce: fromHex(vector.nonce) } as const;

    expect(seal(kid, root, { namespace, key }, content, options)).toEqual(sealed);

    const ring = ringOf([{ id: kid, root: vector.root, status: "enabled" }]);
    const codec = new RecordCodec(KeyringSource.of(ring), "text", {
      scopes: new RecordScopes(scope ?? undefined),
      accept: [],
    });
    for (const stored of asStored(sealed)) {
      const opened = await codec.open(stored, { namespace, key });
      expect(opened).toEqual({ content, keyId: kid, current: false });
      const again = await sealAgainAtOnce(codec, stored, { namespace, key });
      expect(again).toEqual({ sealed: expect.stringMatching(/^kw1\./), expires: content.expires });
      expect(await codec.open(again?.sealed, { namespace, key })).toMatchObject({ content });
      const store = storeHolding(stored, { namespace, key }, { keys: ring, ...(scope === null ? {} : { scope }) });
      await expect(store.get(key)).resolves.toEqual(vector.absent === true ? undefined : value);
    }
  });

  it.each(vectors.accept)(
    "is encrypted and decrypted in the same way by the second implementation: $name",
    (vector) => {
      const { kid, scope, namespace, key } = vector;
      const root = scope === null ? fromHex(vector.root) : scopedRoot(fromHex(vector.root), scope);
      const record = { root, keyId: kid, namespace, key };
      const value = readValue(vector.value);
      const sealed = readValue(vector.sealed);
      const content = vector.expires === null ? { value } : { value, expires: vector.expires };
      const plain = layOut(content, vector.padTo ?? undefined);
      expect(sealPlain(record, typeof sealed === "string" ? "text" : "binary", fromHex(vector.nonce), plain)).toEqual(
        sealed,
      );
      for (const stored of asStored(sealed)) expect(openNaively(stored, record)).toEqual(content);
    },
  );

  it.each(vectors.defaultKeyId)("has the default key id that Keyward derives from the root: $id", ({ root, id }) => {
    expect(new RootKey(fromHex(root)).defaultId).toBe(id);
  });
});

describe("a rejected test vector", () => {
  it.each(vectors.reject)("is refused with $code: $name", async (vector) => {
    const { namespace, key, scope } = vector;
    const ring = ringOf(vector.ring);
    const codec = new RecordCodec(KeyringSource.of(ring), "binary", {
      scopes: new RecordScopes(scope ?? undefined),
      accept: [],
    });
    for (const stored of asStored(readValue(vector.stored))) {
      // A binary header is an error only in a string. The same header in bytes is legal.
      if (typeof stored !== "string" && "text" in vector.stored && vector.stored.text.startsWith("kw1:")) continue;
      const sealedAgain = sealAgainAtOnce(codec, stored, { namespace, key }).catch((error: unknown) =>
        error instanceof KeywardError ? error.code : error,
      );
      // The result is undefined if the codec would have to wait.
      expect([undefined, vector.code]).toContain(await sealedAgain);
      await expect(codec.open(stored, { namespace, key })).rejects.toMatchObject({
        name: "KeywardError",
        code: vector.code,
        namespace,
        key,
        message: expect.not.stringContaining("session"),
        hint: expect.stringMatching(/./),
      });
    }
  });

  it("exists for every error code with which decryption fails", () => {
    expect(new Set(vectors.reject.map(({ code }) => code))).toEqual(
      new Set([
        "KEY_UNKNOWN",
        "KEY_DISABLED",
        "KEY_MISMATCH",
        "RECORD_TAMPERED",
        "RECORD_MALFORMED",
        "RECORD_NOT_SEALED",
        "ENVELOPE_UNSUPPORTED",
      ]),
    );
  });
});

it("docs/envelope.md shows the values that the implementation computes", () => {
  const page = readFileSync(new URL("../../../../docs/envelope.md", import.meta.url), "utf8");
  const example = /```\n(root {8}[\s\S]*?)\n```/.exec(page)?.[1] ?? "";
  const lines = new Map<string, string>();
  let label = "";
  for (const line of example.split("\n")) {
    label = line.slice(0, 12).trim() || label;
    lines.set(label, (lines.get(label) ?? "") + line.slice(12));
  }
  const pageValue = (name: string): string => lines.get(name) ?? "";
  const root = fromHex(pageValue("root"));
  const nonce = fromHex(pageValue("N"));
  const record = { root, keyId: pageValue("key id"), namespace: pageValue("namespace"), key: pageValue("key") };
  const data = pae(Buffer.from(pageValue("header")), Buffer.from(record.namespace), Buffer.from(record.key));
  const plain = layOut({ value: "short-lived", expires: 4_102_444_800_000 });
  expect({
    C: commitmentOf(root).toString("hex"),
    K: sealingKey(root).toString("hex"),
    Kx: subkeyOf(sealingKey(root), nonce).toString("hex"),
    AAD: data.toString("hex"),
    plain: plain.toString("hex"),
    "ct ‖ tag": xaesSeal(sealingKey(root), nonce, plain, data).toString("hex"),
    "text form": sealPlain(record, "text", nonce, plain),
  }).toEqual(Object.fromEntries([...lines].filter(([name]) => /^(C|K|Kx|AAD|plain|ct ‖ tag|text form)$/.test(name))));
  for (const { sealed } of vectors.xaes256gcm) expect(page).toContain(sealed);
  expect(page).toContain(vectors.xaes256gcmAccumulated.digest);
});

it("no two test vectors have the same name", () => {
  const names = [...vectors.accept, ...vectors.reject].map(({ name }) => name);
  expect(names).toEqual([...new Set(names)]);
});
