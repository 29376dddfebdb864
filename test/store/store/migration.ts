import { createKeyv, EncryptedStore, type ForeignFormat, type ReencryptEvent, reencrypt } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { contentOf, keyIdIn } from "./inner-stores.ts";

/** A program that encrypted records before Keyward, and the format that reads these records. */
export interface OldProgram<Key> {
  /** Makes a new key of the program. */
  newKey(): Key;
  /** Encrypts text as the program does. */
  write(text: string, key: Key): string | Uint8Array | Promise<string | Uint8Array>;
  /** Returns the format, with the keys in the order in which they are tried. */
  format(keys: readonly Key[]): ForeignFormat;
  /** The text that the program encrypts for the value `{ step: "zażółć 🔐" }`. Default: the text that Keyv writes. */
  readonly text?: string;
  /** Number of records under wrong keys that a test writes. Default: 20. */
  readonly wrongRecords?: number;
}

const value = { step: "zażółć 🔐" };

/** Tests that a format reads what a program wrote under its current and its former key, and nothing else. */
export function readsAndMigrates<Key>(program: OldProgram<Key>) {
  const { newKey, write, format, text = JSON.stringify({ value }), wrongRecords = 20 } = program;

  it("the format reads the records under the current key and a former key, and re-encryption encrypts them", async () => {
    const [current, former, wrong] = [newKey(), newKey(), newKey()];
    const inner = new MemoryStore();
    await inner.set("current", await write(text, current));
    await inner.set("former", await write(text, former));
    await inner.set("wrong", await write(text, wrong));
    const untouched = await inner.get("wrong");
    const keys = newRing("k1");
    const accepted = format([current, former]);
    const keyv = createKeyv({ store: inner, keys, accept: [accepted], reencrypt: "off" });
    const isEncrypted = accepted.authenticated !== false || accepted.encryptUnauthenticated === true;
    expect(await keyv.get("current")).toEqual(value);
    expect(await keyv.get("former")).toEqual(value);
    await expectRefusal(keyv.get("wrong"), "RECORD_TAMPERED");
    expect(await reencrypt(keyv)).toMatchObject({
      reencrypted: isEncrypted ? 2 : 0,
      unauthenticated: isEncrypted ? 0 : 2,
      unreadableRecords: [{ key: "wrong", code: "RECORD_TAMPERED" }],
      complete: false,
    });
    expect(await inner.get("wrong")).toEqual(untouched);
    if (!isEncrypted) return;
    for (const key of ["current", "former"]) expect(keyIdIn(await inner.get(key))).toBe("k1");
    const after = createKeyv({ store: inner, keys });
    expect(await after.getMany(["current", "former"])).toEqual([value, value]);
  });

  it("the format leaves a record under a wrong key unchanged after a read, and after lazy and bulk re-encryption", async () => {
    const inner = new MemoryStore();
    for (let index = 0; index < wrongRecords; index++) await inner.set(`wrong ${index}`, await write(text, newKey()));
    const before = await contentOf(inner);
    const store = new EncryptedStore(inner, { keys: newRing(), accept: [format([newKey(), newKey()])] });
    const events: ReencryptEvent[] = [];
    store.on("reencrypted", (event: ReencryptEvent) => events.push(event));
    for (let index = 0; index < wrongRecords; index++) {
      // Without authentication, a wrong key sometimes results in garbage that is text.
      await store.get(`wrong ${index}`).catch((error: unknown) => {
        expect(error).toMatchObject({ code: "RECORD_TAMPERED" });
      });
    }
    await store.settled();
    expect(events).toEqual([]);
    expect(await reencrypt(store)).toMatchObject({ reencrypted: 0, complete: false });
    expect(await contentOf(inner)).toEqual(before);
  });
}

/** Tests that no alteration of a record changes its value: each byte of the stored form is altered once. */
export function detectsAlterations<Key>({ newKey, write, format, text = JSON.stringify({ value }) }: OldProgram<Key>) {
  it("the format never returns a wrong value for an altered record", async () => {
    const key = newKey();
    const stored = await write(text, key);
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing(), accept: [format([key])], reencrypt: "off" });
    await inner.set("k", stored);
    const original = await store.get("k");
    for (let index = 0; index < stored.length; index++) {
      await inner.set("k", alteredAt(stored, index));
      // An alteration may leave the meaning as it is, such as another letter after the end of base64.
      const read = await store.get("k").catch((error: unknown) => {
        expect(error).toMatchObject({ code: expect.stringMatching(/^RECORD_(TAMPERED|MALFORMED|NOT_SEALED)$/) });
      });
      if (read !== undefined) expect(read).toEqual(original);
    }
  });
}

function alteredAt(stored: string | Uint8Array, index: number): string | Uint8Array {
  if (typeof stored === "string") {
    const letter = stored[index] === "B" ? "C" : "B";
    return stored.slice(0, index) + letter + stored.slice(index + 1);
  }
  const altered = Buffer.from(stored);
  altered[index] = (altered[index] ?? 0) ^ 1;
  return altered;
}
