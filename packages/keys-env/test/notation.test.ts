import { createHook } from "node:async_hooks";
import { randomBytes, randomFillSync, scryptSync } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportKeyring, type KeyProvider, Keyring, KeywardError } from "@keyward/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type EnvKeysOptions, envKeys, fileKeys } from "../src/index.ts";
import { leak, rejection, shown } from "./shown.ts";

const material = (() => {
  // The bytes contain both characters in which base64 and base64url differ, and hex digits that are not decimal.
  const bytes = randomBytes(32);
  bytes.set([0xfb, 0xff, 0xbf, 0x3e]);
  return bytes;
})();
const base64 = material.toString("base64");
const base64url = material.toString("base64url");
const hex = material.toString("hex");
const sameRing = exportKeyring(Keyring.fromKeys([{ material }]));

function load(value: string, options: EnvKeysOptions = {}): Promise<Keyring> {
  return envKeys("APP_KEY", { ...options, env: { APP_KEY: value } }).load();
}

describe("the text of a key", () => {
  it.each([
    ["base64", base64],
    ["base64 without padding", base64.slice(0, 43)],
    ["base64url", base64url],
    ["base64url with padding", `${base64url}=`],
    ["hex", `hex:${hex}`],
    ["hex in capitals", `hex:${hex.toUpperCase()}`],
    ["a key and a newline", `${base64}\n`],
    ["a key and white space around it", ` \t${base64}\r\n`],
  ])("is read in the notation: %s", async (_name, value) => {
    expect(exportKeyring(await load(value))).toBe(sameRing);
  });

  it.each([
    ["base64", `2026-11=${base64}`],
    ["base64url", `2026-11=${base64url}`],
    ["hex", `2026-11=hex:${hex}`],
  ])("gives the key the id that is written before the equals sign: %s", async (_name, value) => {
    expect(exportKeyring(await load(value))).toBe(exportKeyring(Keyring.fromKeys([{ id: "2026-11", material }])));
  });

  it.each([
    ["a base64 key that lost four characters", base64.slice(0, 40), "40 characters"],
    ["a base64 key of 31 bytes", randomBytes(31).toString("base64"), "44 characters found (31 bytes"],
    ["a base64 key of 33 bytes", randomBytes(33).toString("base64"), "44 characters found (33 bytes"],
    ["a stray character", `${base64.slice(0, 20)}!${base64.slice(21)}`, "44 characters found (1 of them not base64"],
    ["white space inside", `${base64.slice(0, 20)} ${base64.slice(20)}`, "45 characters found (1 of them"],
    ["a newline inside", `${base64.slice(0, 20)}\n${base64.slice(20)}`, "45 characters found (1 of them"],
    ["padding inside", `${base64.slice(0, 38)}=${base64.slice(38)}`, "45 characters found (1 of them"],
    ["too much padding", `${base64}=`, "45 characters found"],
    ["both alphabets", `+-${base64url.slice(2)}`, "mix"],
    ["extra bits in the last character", `${base64url.slice(0, 42)}${base64url.slice(42) === "B" ? "C" : "B"}`, "bits"],
    ["quotes", `"${base64url}"`, "45 characters found (2 of them"],
    ["a byte order mark", `\uFEFF${base64}`, "45 characters found (1 of them"],
    ["hex without its prefix", hex, "64 characters"],
    ["too few hex digits", `hex:${hex.slice(2)}`, "62 characters found"],
    ["too many hex digits", `hex:${hex}00`, "66 characters found"],
    ["hex with a stray character", `hex:${hex.slice(1)}g`, "64 characters found"],
    ["hex with white space inside", `hex: ${hex}`, "65 characters found"],
    ["two keys", `${base64},${base64}`, "89 characters"],
    ["an empty text", "", "0 characters"],
    ["only white space", " \n", "0 characters"],
    ["a passphrase without its prefix", "correct horse battery staple, and some more", "43 characters"],
    ["a short passphrase", "passphrase:correct horse battery staple", "28 characters"],
    ["an id without a key", "2026-11=", "8 characters"],
    ["an id of 33 characters", `${"i".repeat(33)}=${base64}`, "78 characters"],
    ["a placeholder", Buffer.alloc(32, 7).toString("base64"), "placeholder"],
    ["a placeholder with an id", `dev=hex:${"00".repeat(32)}`, "placeholder"],
  ])("is refused with an error that describes the invalid value: %s", async (_name, value, found) => {
    const error = await rejection(load(value));
    expect(error).toBeInstanceOf(KeywardError);
    expect(error).toMatchObject({
      code: "KEY_INVALID",
      message: expect.stringContaining("APP_KEY"),
      hint: expect.stringMatching(/openssl rand -(base64|hex) 32/),
    });
    expect(String(error)).toContain(found);
  });

  it.each([
    ["hex digits", hex, "hex:"],
    ["hex digits with 0x", `0x${hex}`, '"0x"'],
    ["a prefix in capitals", `HEX:${hex}`, "lower case"],
    ["quotes", `'${base64}'`, "quote"],
    ["only the first quote", `"${base64}`, "quote"],
    ["only the last quote", `${base64}"`, "quote"],
    ["the quotes of a text processor", `\u201C${base64}\u201D`, "quote"],
    ["the prefix of Laravel", `base64:${base64}`, '"base64:"'],
    ["a byte order mark", `\uFEFF${base64}`, "byte order mark"],
    ["a byte order mark before a keyring document", `\uFEFF${exportKeyring(Keyring.generate())}`, "byte order mark"],
    ["UTF-16 that was read as UTF-8", [...base64].join("\0"), "UTF-8"],
    ["a comment after the key", `${base64} # production`, "comment"],
    ["a line of a shell script", `export APP_KEY=${base64}`, "whole line"],
    ["a line of a .env file", `APP_KEY="${base64}"`, "quote"],
    ["an escaped line break", `${base64}\\n`, "backslash"],
    ["an invisible character", `${base64}\u200B`, "invisible"],
    ["a plus sign that became a space", `${base64.slice(0, 20)} ${base64.slice(21)}`, "plus sign"],
    ["a line break inside", `${base64.slice(0, 20)}\n${base64.slice(20)}`, "white space"],
    ["several keys", `${base64},${randomBytes(32).toString("base64")}`, "several keys"],
    ["several keys with versions", `2:${base64},1:${randomBytes(32).toString("base64")}`, "several keys"],
    ["base64 of base64", Buffer.from(`${base64}\n`).toString("base64"), "twice"],
    ["a text of 32 characters", hex.slice(0, 32), "32 characters"],
    ["PEM", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEI\n-----END PRIVATE KEY-----", "PEM"],
    ["a sentence", "correct horse battery staple, and some more", "passphrase:"],
  ])("is refused with advice on the likely mistake: %s", async (name, value, advice) => {
    const { hint }: { hint: string } = await rejection(load(value)).then((error) => JSON.parse(JSON.stringify(error)));
    expect(hint).toContain(advice);
    // The advice to add this prefix would turn a damaged key, or a good one, into another key.
    if (name !== "a sentence") expect(hint).not.toContain("passphrase:");
    // The hint names a new key last, because a new key cannot decrypt existing records.
    expect(hint).toMatch(/restore the key, because a new key cannot decrypt these records\. .*make a first key with `/);
  });

  it("is refused with advice on the encoding if the file of the key is in UTF-16", async () => {
    const directory = await mkdtemp(join(tmpdir(), "keyward-utf16-"));
    try {
      const path = join(directory, "key");
      await writeFile(path, Buffer.concat([Buffer.from([0xff, 0xfe]), Buffer.from(base64, "utf16le")]));
      expect(await rejection(fileKeys(path).load())).toMatchObject({ hint: expect.stringContaining("UTF-16") });
      await writeFile(path, Buffer.concat([Buffer.from([0xfe, 0xff]), Buffer.from(base64, "utf16le").swap16()]));
      expect(await rejection(fileKeys(path).load())).toMatchObject({ hint: expect.stringContaining("UTF-16") });
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it.each([
    ["a keyring document", "{}"],
    ["hex", `hex:${hex}`],
  ])("is refused if it follows a byte order mark, even if the option passphrase is true: %s", async (_name, text) => {
    expect(await rejection(load(`\uFEFF${text.padEnd(40)}`, { passphrase: true }))).toMatchObject({
      code: "KEY_INVALID",
      hint: expect.stringContaining("byte order mark"),
    });
  });

  // Texts of the maximum length of a file. If the time grew with the square of the length, one of them would take minutes.
  it.each([
    ["white space", `x${" ".repeat(2 ** 20 - 2)}x`],
    ["padding", `x${"=".repeat(2 ** 20 - 2)}x`],
    ["quotes", `"${"'".repeat(2 ** 20 - 2)}x`],
    ["hex digits", `hex:${"0".repeat(2 ** 20 - 4)}`],
  ])("is refused if it is invalid, in a time that grows only linearly with its length: %s", async (_name, text) => {
    expect(await rejection(load(text))).toMatchObject({ code: "KEY_INVALID" });
    expect(
      await rejection(envKeys("APP_KEY", { env: { APP_KEY: base64, APP_KEY_OTHERS: text } }).load()),
    ).toMatchObject({
      code: "KEY_INVALID",
    });
  });

  it("is refused with an error that names the number of its characters if the key was cut", async () => {
    for (let length = 0; length < 43; length++) {
      const error = await rejection(load(base64.slice(0, length)));
      expect(error).toMatchObject({
        code: "KEY_INVALID",
        message: expect.stringContaining(`${length} characters found`),
      });
    }
  });

  it("is refused, or gives another key, if one character is altered", async () => {
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const index = fc.integer({ min: 0, max: 42 });
    await fc.assert(
      fc.asyncProperty(index, fc.constantFrom(...alphabet), async (at, character) => {
        fc.pre(base64url[at] !== character);
        const altered = base64url.slice(0, at) + character + base64url.slice(at + 1);
        const ring = await load(altered).then(exportKeyring, (error) => error.code);
        expect(ring).not.toBe(sameRing);
      }),
    );
  });

  it("is never shown by an error, no matter how the key is damaged", async () => {
    const spoiled = fc.record({
      bytes: fc.uint8Array({ minLength: 24, maxLength: 40 }).filter((bytes) => new Set(bytes).size > 12),
      encoding: fc.constantFrom("base64" as const, "base64url" as const, "hex" as const),
      prefix: fc.constantFrom(
        "",
        "hex:",
        "id=",
        "id=hex:",
        "=",
        '"',
        "{",
        '{"',
        '{"keyward":1,',
        "passphrase",
        "hex: ",
      ),
      at: fc.nat({ max: 60 }),
      insert: fc.constantFrom("", "!", "=", "==", ",", " ", "\n", "\0", "é", "}", ":", '"'),
    });
    await fc.assert(
      fc.asyncProperty(spoiled, async ({ bytes, encoding, prefix, at, insert }) => {
        const secret = Buffer.from(bytes).toString(encoding);
        const value = prefix + secret.slice(0, at) + insert + secret.slice(at);
        for (const env of [
          { APP_KEY: value },
          { APP_KEY_FILE: value.replaceAll("\0", "") },
          { APP_KEY: base64, APP_KEY_OTHERS: value },
          { APP_KEY: value, APP_KEY_FILE: value },
          { APP_KEY_OTHERS: value },
        ]) {
          const provider = envKeys("APP_KEY", { env });
          const outcome = await provider.load().catch((error: unknown) => error);
          expect(leak(shown(outcome), secret)).toBeUndefined();
          expect(leak(shown(provider), secret)).toBeUndefined();
        }
      }),
      { numRuns: 300 },
    );
  });

  it("is refused and not shown if it is passed as the name of the environment variable", () => {
    const value = randomBytes(32).toString("base64");
    let caught: unknown;
    try {
      envKeys(value);
    } catch (error) {
      caught = error;
    }
    expect(caught).toMatchObject({ code: "KEY_INVALID" });
    expect(leak(shown(caught), value)).toBeUndefined();
  });
});

describe("a keyring document", () => {
  it("is read with all its keys, its primary and its name", async () => {
    const ring = Keyring.generate("a").add({ id: "b" }).promote("b").disable("a").rename("production");
    expect(exportKeyring(await load(`\n${exportKeyring(ring)}\n`))).toBe(exportKeyring(ring));
  });

  it.each([
    ["a cut document", (document: string) => document.slice(0, -20)],
    ["an extra comma", (document: string) => document.replace("]", ",]")],
    ["an unknown field", (document: string) => document.replace("{", '{"unknown":1,')],
    ["another version", (document: string) => document.replace('"keyward": 1', '"keyward": 2')],
    ["material that was cut", (document: string) => document.replace(/("material": ".{20})..../, "$1")],
    ["material in base64", (document: string) => document.replace(/("material": ".{43})/, "$1=")],
    ["a missing primary", (document: string) => document.replace('"primary": "a"', '"primary": "z"')],
  ])(
    "is refused with an error that names the environment variable and does not show the key material: %s",
    async (_name, spoil) => {
      const document = exportKeyring(Keyring.fromKeys([{ id: "a", material }]));
      expect(spoil(document)).not.toBe(document);
      const error = await rejection(load(spoil(document)));
      expect(error).toBeInstanceOf(KeywardError);
      expect(error).toMatchObject({
        code: expect.stringMatching(/^(KEYRING|KEY)_INVALID$/),
        message: expect.stringContaining("APP_KEY"),
      });
      expect(leak(shown(error), base64url)).toBeUndefined();
    },
  );
});

describe("a passphrase", () => {
  const passphrase = `correct horse ${randomBytes(16).toString("hex")}`;
  const derive = (salt: string) => scryptSync(passphrase, salt, 32, { N: 2 ** 17, r: 8, p: 1, maxmem: 2 ** 28 });

  it("gives the key that the documentation specifies if it has the prefix passphrase: or the option passphrase is true", async () => {
    const expected = exportKeyring(Keyring.fromKeys([{ material: derive("keyward/v1 passphrase") }]));
    expect(exportKeyring(await load(`passphrase:${passphrase}`))).toBe(expected);
    expect(exportKeyring(await load(`${passphrase}\n`, { passphrase: true }))).toBe(expected);
    expect(exportKeyring(await load(`passphrase:${passphrase}`, { passphrase: true }))).toBe(expected);
  });

  it("gives another key if the option salt has another value", async () => {
    const salted = exportKeyring(Keyring.fromKeys([{ id: "p", material: derive("shop, production") }]));
    expect(exportKeyring(await load(`p=passphrase:${passphrase}`, { salt: "shop, production" }))).toBe(salted);
  });

  it("may contain an equals sign, and the text before this equals sign is not used as the id of the key", async () => {
    const withEquals = `id=${passphrase}`;
    const asOption = await load(withEquals, { passphrase: true });
    expect(exportKeyring(asOption)).toBe(exportKeyring(await load(`passphrase:${withEquals}`)));
    expect(asOption.primary).not.toBe("id");
  });

  it.each([
    [31, "KEY_INVALID"],
    [0, "KEY_INVALID"],
  ])("is refused if it has only %d characters", async (length, code) => {
    const error = await rejection(load("€".repeat(length), { passphrase: true }));
    expect(error).toMatchObject({ code, message: expect.stringContaining(`${length} characters`) });
    expect(await rejection(load(`passphrase:${"€".repeat(length)}`))).toMatchObject({ code });
  });

  it("has its length counted in characters, not in UTF-16 units", async () => {
    expect(await rejection(load(`passphrase:${"🔑".repeat(31)}`))).toMatchObject({ code: "KEY_INVALID" });
  });

  it("is not confused with a hex key or a keyring document, even if the option passphrase is true", async () => {
    expect(exportKeyring(await load(`hex:${hex}`, { passphrase: true }))).toBe(sameRing);
    const document = exportKeyring(Keyring.generate());
    expect(exportKeyring(await load(document, { passphrase: true }))).toBe(document);
  });

  it("is refused if the option salt is empty", async () => {
    expect(await rejection(load(`passphrase:${passphrase}`, { salt: "" }))).toMatchObject({ code: "KEY_INVALID" });
  });

  it("is converted into a key only once, and all providers together run only one derivation at a time", async () => {
    const running = new Set<number>();
    let started = 0;
    let mostAtOnce = 0;
    const hook = createHook({
      init(id, type) {
        if (type !== "SCRYPTREQUEST") return;
        started++;
        running.add(id);
        mostAtOnce = Math.max(mostAtOnce, running.size);
      },
      before: (id) => running.delete(id),
    }).enable();
    try {
      const env = { APP_KEY: `passphrase:1 ${passphrase}`, APP_KEY_OTHERS: `passphrase:2 ${passphrase}` };
      const one = envKeys("APP_KEY", { env });
      const other = envKeys("APP_KEY", { env: { APP_KEY: `passphrase:3 ${passphrase}` } });
      const twin = envKeys("APP_KEY", { env });
      await Promise.all([one.load(), other.load(), twin.load(), one.load()]);
      await one.load();
      expect(started).toBe(3);
      expect(mostAtOnce).toBe(1);
    } finally {
      hook.disable();
    }
  });

  it("does not delay the rejection of a load that is aborted, and the next load returns its key", async () => {
    const env = { APP_KEY: `passphrase:4 ${passphrase}` };
    const provider = envKeys("APP_KEY", { env });
    const controller = new AbortController();
    const aborted = rejection(provider.load({ signal: controller.signal }));
    const reason = new Error("enough");
    controller.abort(reason);
    expect(await aborted).toBe(reason);
    expect((await provider.load()).keys).toHaveLength(1);
  });
});

describe("the memory pool of small Buffers", () => {
  const encoded = {
    base64: (bytes: Buffer) => bytes.toString("base64"),
    base64url: (bytes: Buffer) => bytes.toString("base64url"),
    hex: (bytes: Buffer) => `hex:${bytes.toString("hex")}`,
    "an id and base64": (bytes: Buffer) => `2026-11=${bytes.toString("base64")}`,
    "a document": (bytes: Buffer) => exportKeyring(Keyring.fromKeys([{ material: bytes }])),
  };

  /** Returns the memory pool, which any holder of a small Buffer can read through its `buffer`. */
  function sharedMemory(): Buffer {
    return Buffer.from(Buffer.from("x").buffer);
  }

  it.each(Object.entries(encoded))("holds no key after a provider has loaded a key: %s", async (name, encode) => {
    const directory = await mkdtemp(join(tmpdir(), "keyward-pool-"));
    try {
      const sources: Readonly<Record<string, (text: string) => Promise<KeyProvider>>> = {
        "a variable": async (text) => envKeys("APP_KEY", { env: { APP_KEY: text } }),
        "a further key": async (text) => envKeys("APP_KEY", { env: { APP_KEY: base64, APP_KEY_OTHERS: text } }),
        "a file": async (text) => {
          await writeFile(join(directory, "key"), text);
          return fileKeys(join(directory, "key"));
        },
        "a directory": async (text) => {
          const path = join(directory, "keys");
          await mkdir(path);
          await writeFile(join(path, "one"), text);
          await writeFile(join(path, "primary"), "one");
          return fileKeys(path);
        },
      };
      for (const [source, open] of Object.entries(sources)) {
        if (source === "a further key" && name === "a document") continue;
        if (source === "a directory" && ["a document", "an id and base64"].includes(name)) continue;
        // These bytes are not allocated in the pool.
        const bytes = randomFillSync(Buffer.alloc(32));
        const provider = await open(encode(bytes));
        const before = sharedMemory();
        const ring = await provider.load();
        expect(ring.keys.length).toBeGreaterThan(0);
        for (const memory of [before, sharedMemory()]) expect(memory.includes(bytes), source).toBe(false);
      }
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
