import { inspect } from "node:util";
import {
  aesGcm,
  EncryptedStore,
  type ForeignFormat,
  type Keyring,
  KeywardError,
  plaintext,
  reencrypt,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { newRing, rotation } from "../rings.ts";
import { expectNoSecrets, guardMaterial, marker } from "../secrets.ts";
import { textOf } from "./inner-stores.ts";

// The errors in the other tests of this folder are checked in the same way, by refusals.ts.

const value = `${marker}value that nobody may see`;

/** The changes that damage a record. Each one changes the text of the envelope at a position between 0 and 1. */
const damage = fc.array(
  fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    how: fc.constantFrom("cut", "change", "insert", "begin"),
    text: fc.constantFrom("", "=", ".", ":", "kw2.", "kw1.__proto__.", "\n", "\u00ff", marker),
  }),
  { minLength: 1, maxLength: 3 },
);

function apply(text: string, steps: readonly { at: number; how: string; text: string }[]): string {
  let changed = text;
  for (const step of steps) {
    const at = Math.floor(step.at * changed.length);
    if (step.how === "cut") changed = changed.slice(0, at);
    else if (step.how === "change") changed = changed.slice(0, at) + step.text + changed.slice(at + 1);
    else if (step.how === "insert") changed = changed.slice(0, at) + step.text + changed.slice(at);
    else changed = step.text + changed.slice(at);
  }
  return changed;
}

function keyIdOf(envelope: string): string {
  return /^kw1([.:])([A-Za-z0-9_-]{1,32})\1/.exec(envelope)?.[2] ?? "";
}

async function errorsOf(store: EncryptedStore): Promise<unknown[]> {
  const calls = [
    () => store.get("key"),
    () => store.getMany(["key", "other"]),
    () => store.set("key", value),
    () => store.set("key", { value }),
    () => store.setMany([{ key: "key", value }]),
    async () => {
      for await (const _ of store.iterator());
    },
  ];
  const errors: unknown[] = [];
  for (const call of calls) await call().catch((error: unknown) => errors.push(error));
  return errors;
}

describe("a record that is damaged or replaced", () => {
  it.each(["text", "binary"])(
    "does not expose its value, key material or envelope in an error, event or report: %s (property)",
    async (form) => {
      const rings = rotation();
      const lenient: ForeignFormat = { name: "lenient", read: (stored) => ({ value: stored, expires: 2 ** 50 }) };
      await fc.assert(
        fc.asyncProperty(
          damage,
          fc.constantFrom("promoted", "disabled", "after", "stranger"),
          fc.boolean(),
          async (steps, who, foreign) => {
            const ring: Keyring =
              who === "stranger"
                ? newRing("old")
                : rings[who === "promoted" ? "promoted" : who === "after" ? "after" : "disabled"];
            const inner = new MemoryStore();
            await new EncryptedStore(inner, { keys: rings.before }).set("key", value);
            const sealed = textOf((await inner.get("key")) ?? "");
            const text =
              form === "binary" ? sealed : `kw1.old.${Buffer.from(sealed.slice(8), "latin1").toString("base64url")}`;
            const changed = apply(text, steps);
            // A damage can put the marker into the key id of the header. A key id is not a secret, and errors name it.
            fc.pre(!keyIdOf(changed).includes(marker));
            await inner.set("key", form === "binary" ? Buffer.from(changed, "latin1") : changed);
            const accept = foreign
              ? [lenient]
              : [aesGcm({ key: `${marker}key`, layout: "iv-tag-ciphertext" }), plaintext()];
            const store = new EncryptedStore(inner, { keys: ring, accept });
            const shown: unknown[] = [];
            for (const event of [
              "reencrypted",
              "reencrypt:conflict",
              "reencrypt:error",
              "keyring:changed",
              "provider:error",
            ]) {
              store.on(event, (details: unknown) => shown.push(details));
            }
            const before = await inner.get("key");
            let opened = false;
            await store.get("key").then(
              (found) => {
                opened = found !== undefined;
              },
              () => undefined,
            );
            if (!opened) {
              const errors = await errorsOf(store);
              expect(errors.every((error) => error instanceof KeywardError)).toBe(true);
              shown.push(...errors);
              expect(textOf((await inner.get("key")) ?? "")).toBe(textOf(before ?? ""));
            }
            await store.settled();
            await reencrypt(store).then(
              (report) => shown.push(report),
              (error: unknown) => shown.push(error),
            );
            for (const thing of shown) expectNoSecrets(thing);
          },
        ),
        { numRuns: 150 },
      );
    },
  );
});

it("stores and keyrings do not expose their content when they are inspected", async () => {
  const ring = guardMaterial(newRing());
  const inner = new MemoryStore();
  const store = new EncryptedStore(inner, { keys: ring });
  await store.set("key", value);
  for (const thing of [ring, ring.scope("billing"), store]) {
    for (const shown of [inspect(thing, { depth: 4 }), String(thing), JSON.stringify(Object.keys(thing))])
      expectNoSecrets(shown);
  }
  expectNoSecrets(JSON.stringify(ring));
});
