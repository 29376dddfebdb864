import {
  aesGcm,
  EncryptedStore,
  exportKeyring,
  type ForeignFormat,
  Keyring,
  type KeywardErrorCode,
  plaintext,
  type StoredValue,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { expectRefusal, refusal } from "../refusals.ts";
import { newRing, rotation } from "../rings.ts";
import { marker } from "../secrets.ts";
import { damaged, textOf, WatchedStore } from "./inner-stores.ts";

const value = `${marker}value`;

/** A store with a good record under "good", and a broken copy of it under "bad". */
async function storeWith(breakIt: (stored: StoredValue, inner: MemoryStore) => unknown, ring = newRing("k1")) {
  const inner = new MemoryStore();
  const store = new EncryptedStore(inner, { keys: ring });
  await store.setMany([
    { key: "good", value },
    { key: "bad", value },
  ]);
  const stored = await inner.get("bad");
  if (stored === undefined) throw new Error("nothing was written");
  await inner.set("bad", breakIt(stored, inner));
  return { inner, store };
}

const asText = (stored: StoredValue) => {
  const text = textOf(stored);
  return `kw1.k1.${Buffer.from(text.slice("kw1:k1:".length), "latin1").toString("base64url")}`;
};

const broken: Readonly<Record<string, readonly [KeywardErrorCode, (stored: StoredValue) => unknown]>> = {
  "a flipped bit": ["RECORD_TAMPERED", damaged],
  "a flipped bit in text": ["RECORD_TAMPERED", (stored) => damaged(asText(stored))],
  "a commitment of zeros": [
    "KEY_MISMATCH",
    (stored) => {
      const bytes = Buffer.from(textOf(stored), "latin1");
      return bytes.fill(0, 7, 39);
    },
  ],
  "its end cut off": ["RECORD_TAMPERED", (stored) => stored.slice(0, -1)],
  "only a header": ["RECORD_MALFORMED", () => "kw1.k1."],
  "an unknown key": ["KEY_UNKNOWN", (stored) => Buffer.from(textOf(stored).replace(":k1:", ":k2:"), "latin1")],
  "the key __proto__": [
    "KEY_UNKNOWN",
    (stored) => Buffer.from(textOf(stored).replace(":k1:", ":__proto__:"), "latin1"),
  ],
  "a key id of 33 characters": ["RECORD_MALFORMED", (stored) => asText(stored).replace(".k1.", `.${"k".repeat(33)}.`)],
  "a later version": ["ENVELOPE_UNSUPPORTED", (stored) => asText(stored).replace("kw1.", "kw2.")],
  "a version of many digits": [
    "ENVELOPE_UNSUPPORTED",
    (stored) => asText(stored).replace("kw1.", `kw${"9".repeat(100)}.`),
  ],
  "padding after base64url": ["RECORD_MALFORMED", (stored) => `${asText(stored)}=`],
  "a line end after the envelope": ["RECORD_MALFORMED", (stored) => `${asText(stored)}\n`],
  "the binary form as text": ["RECORD_MALFORMED", (stored) => textOf(stored).replace(/[^ -~]/g, "x")],
  "Keyv's plaintext": ["RECORD_NOT_SEALED", () => JSON.stringify({ value })],
  "an empty string": ["RECORD_NOT_SEALED", () => ""],
  "empty bytes": ["RECORD_NOT_SEALED", () => new Uint8Array()],
};

describe.each(Object.entries(broken))("a record with %s", (_, [code, breakIt]) => {
  it(`makes every read reject with ${code}`, async () => {
    const { inner, store } = await storeWith(breakIt);
    const before = await inner.get("bad");
    const error = await expectRefusal(store.get("bad"), code);
    expect(error).toMatchObject({ key: "bad", namespace: "" });
    expect(error.message).not.toContain("bad");
    await expectRefusal(store.has("bad"), code);
    for (const call of [
      () => store.getMany(["good", "bad", "absent"]),
      () => store.hasMany(["good", "bad", "absent"]),
      async () => {
        for await (const [key] of store.iterator()) expect(key).toBe("good");
      },
    ]) {
      const listed = await expectRefusal(call, "RECORDS_UNREADABLE");
      expect(listed.errors).toMatchObject([{ code, key: "bad" }]);
    }
    expect(await store.get("good")).toBe(value);
    await store.settled();
    expect(await inner.get("bad")).toEqual(before);
  });
});

it("a read rejects with KEY_DISABLED if the key is disabled, and with KEY_MISMATCH if its material differs", async () => {
  const { before, disabled } = rotation();
  const inner = new MemoryStore();
  await new EncryptedStore(inner, { keys: before }).set("key", value);
  await expectRefusal(new EncryptedStore(inner, { keys: disabled }).get("key"), "KEY_DISABLED");
  await expectRefusal(new EncryptedStore(inner, { keys: newRing("old") }).get("key"), "KEY_MISMATCH");
});

it("getMany rejects with one error for each record that cannot be decrypted", async () => {
  const { inner, store } = await storeWith(damaged);
  await inner.set("plain", "x");
  await inner.set("later", "kw9.k1.AA");
  const error = await expectRefusal(store.getMany(["bad", "good", "plain", "absent", "later"]), "RECORDS_UNREADABLE");
  expect(error.errors?.map(({ key, code }) => [key, code])).toEqual([
    ["bad", "RECORD_TAMPERED"],
    ["plain", "RECORD_NOT_SEALED"],
    ["later", "ENVELOPE_UNSUPPORTED"],
  ]);
});

it("an iterator yields every readable record before it throws, and does not throw if the loop ends early", async () => {
  const { store } = await storeWith(damaged);
  await store.setMany([
    { key: "z1", value },
    { key: "z2", value },
  ]);
  const seen: string[] = [];
  await expectRefusal(async () => {
    for await (const [key] of store.iterator()) seen.push(key);
  }, "RECORDS_UNREADABLE");
  expect(seen.sort()).toEqual(["good", "z1", "z2"]);
  for await (const [key] of store.iterator()) {
    expect(key).toBe("good");
    break;
  }
});

it("each batch makes one call of the wrapped store, and expired records in a batch cause one more call", async () => {
  const inner = new WatchedStore();
  const store = new EncryptedStore(inner, { keys: newRing() });
  const keys = Array.from({ length: 50 }, (_, index) => `key ${index}`);
  await store.setMany(keys.map((key) => ({ key, value })));
  expect(inner.calls).toEqual(["setMany"]);
  await store.getMany(keys);
  await store.hasMany(keys);
  await store.deleteMany(keys);
  expect(inner.calls).toEqual(["setMany", "getMany", "getMany", "deleteMany"]);
  inner.calls.length = 0;
  await store.setMany(keys.map((key, index) => ({ key, value, ...(index % 2 === 0 ? { expires: 1 } : {}) })));
  expect(inner.calls).toEqual(["setMany", "deleteMany"]);
  expect(await store.getMany([])).toEqual([]);
  expect(await store.setMany([])).toEqual([]);
});

describe("foreign formats", () => {
  it("make a read reject with a KeywardError that does not quote the value, if they throw", async () => {
    const inner = new MemoryStore();
    const triple: ForeignFormat = { name: "triple", read: (stored) => JSON.parse(String(stored)) };
    const store = new EncryptedStore(inner, { keys: newRing(), accept: [triple] });
    await inner.set("bad", `${value} is not JSON`);
    const error = await refusal(store.get("bad"));
    expect(error.key).toBe("bad");
    const listed = await expectRefusal(store.getMany(["bad"]), "RECORDS_UNREADABLE");
    expect(listed.errors).toHaveLength(1);
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
  });

  it("are not called for a record that begins like an envelope", async () => {
    const inner = new MemoryStore();
    const asked: string[] = [];
    const everything: ForeignFormat = {
      read(stored) {
        asked.push(textOf(stored));
        return { value: stored };
      },
    };
    const store = new EncryptedStore(inner, {
      keys: newRing(),
      accept: [everything, plaintext({ matches: () => true })],
    });
    for (const stored of ["kw1.", "kw1:", "kw1.k", "kw2.x.y", "kw999:x", "kw1.k1.AA", Buffer.from("kw1:k1:x")]) {
      await inner.set("key", stored);
      await refusal(store.get("key"));
    }
    expect(asked).toEqual([]);
    for (const stored of ["kw", "kw.", "kwx1.", "KW1.k.", " kw1.k.", "kw1", "kw1-"]) {
      await inner.set("key", stored);
      expect(await store.get("key")).toBe(stored);
    }
  });

  it("are called in the order of accept, with plaintext last, and the read rejects if none of them reads the record", async () => {
    const inner = new MemoryStore();
    const order: string[] = [];
    const named = (name: string): ForeignFormat => ({
      name,
      read() {
        order.push(name);
        return undefined;
      },
    });
    const matches = () => {
      order.push("plaintext");
      return false;
    };
    const store = new EncryptedStore(inner, {
      keys: newRing(),
      accept: [plaintext({ matches }), named("one"), named("two")],
    });
    await inner.set("key", value);
    await expectRefusal(store.get("key"), "RECORD_NOT_SEALED");
    expect(order).toEqual(["one", "two", "plaintext"]);
  });

  it("include plaintext(), which recognizes the JSON that Keyv writes, and keeps the expiry in it", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing(), accept: [plaintext()], reencrypt: "off" });
    const live = JSON.stringify({ value, expires: Date.now() + 60_000 });
    await inner.set("live", live);
    await inner.set("past", JSON.stringify({ value, expires: Date.now() - 1 }));
    await inner.set("other", JSON.stringify({ value, session: 1 }));
    await inner.set("text", value);
    expect(await store.get("live")).toBe(live);
    expect(await store.get("past")).toBeUndefined();
    await expectRefusal(store.get("other"), "RECORD_NOT_SEALED");
    await expectRefusal(store.get("text"), "RECORD_NOT_SEALED");
  });

  it("include aesGcm(), which throws for a record that it recognizes but cannot decrypt", async () => {
    const inner = new MemoryStore();
    const format = aesGcm({ key: `${marker}passphrase`, layout: "iv-tag-ciphertext" });
    const store = new EncryptedStore(inner, { keys: newRing(), accept: [format, plaintext({ matches: () => true })] });
    await inner.set("key", Buffer.alloc(60).toString("base64"));
    await expectRefusal(store.get("key"), "RECORD_TAMPERED");
  });
});

describe("a keyring without keys", () => {
  it("makes a store write and read plaintext, and reject every envelope", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: Keyring.dangerouslyPlaintext() });
    await store.set("key", value);
    expect(await inner.get("key")).toBe(value);
    expect(await store.get("key")).toBe(value);
    for (const sealed of ["kw1.k1.AAAA", "kw1.", "kw2:x", Buffer.from("kw1:k1:x")]) {
      await expectRefusal(store.set("key", sealed), "VALUE_INVALID");
    }
    await new EncryptedStore(inner, { keys: newRing("k1") }).set("sealed", value);
    await expectRefusal(store.get("sealed"), "KEY_UNKNOWN");
  });

  it("makes a store return a text unchanged, even if the text resembles Keyv's JSON", async () => {
    const store = new EncryptedStore(new MemoryStore(), { keys: Keyring.dangerouslyPlaintext() });
    const text = '{"expires":5}';
    await store.set("key", text);
    expect(await store.get("key")).toBe(text);
    expect(await store.getMany(["key"])).toEqual([text]);
    expect(await store.has("key")).toBe(true);
  });

  it("cannot be changed or exported", async () => {
    const ring = Keyring.dangerouslyPlaintext();
    for (const change of [
      () => ring.add(),
      () => ring.rename("other"),
      () => ring.withStores(["cache"]),
      () => ring.forbidPlaintext(""),
    ]) {
      expect((await expectRefusal(change, "KEYRING_INVALID")).message).toMatch(/without keys.*changed/);
    }
    expect((await expectRefusal(() => exportKeyring(ring), "KEYRING_INVALID")).message).toMatch(
      /without keys.*exported/,
    );
  });
});
