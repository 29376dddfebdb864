import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as core from "@keyward/core";
import * as aws from "@keyward/keys-aws";
import * as env from "@keyward/keys-env";
import * as from from "@keyward/keys-from";
import * as vault from "@keyward/keys-vault";
import { describe, expect, it } from "vitest";
import { readPage } from "../../../test/markdown.ts";
import { repository } from "../../../test/workspace.ts";
import { inCommandTerms } from "../src/terminal/command-terms.ts";
import { type SourceText, textsIn } from "./hint-texts.ts";

/** The packages whose errors a command can print. */
const packages = [
  "core",
  "http-kv",
  "keys-aws",
  "keys-env",
  "keys-from",
  "keys-vault",
  "store-memory",
  "store-redis",
  "store-sqlite",
  "stores-from",
].map((name) => `packages/${name}`);

/** The functions that these packages export, which a hint may also name without quotation marks. */
const functions = [core, aws, env, from, vault]
  .flatMap((exported) => Object.entries(exported))
  .filter(([name, value]) => typeof value === "function" && /^[a-z]+[A-Z]/.test(name))
  .map(([name]) => name);

/** A command line of this or another program, or a flag. */
const commandLine = /^(?:(?:keyward|keyward-kv|npm|openssl|bao|vault|aws|chown|mkdir|base64)(?: |$)|--)/;

/** The names that are not translated, by the reason. */
const exceptions: Readonly<Record<string, readonly string[]>> = {
  "a part of a source of keys or of a store": ["region", "keyId", "mount", "path", "key", "place=store", "keys"],
  "a value or a parameter with its value, as it is written in a source or an environment variable": [
    "place=file:/path",
    "env:APP_ENCRYPTION_KEY",
    "mode=cluster",
    "sentinel=",
    "nodes=redis-2:6379,redis-3:6379",
    "alias/",
    "app/keyring",
    "data/",
    "/v1/",
    "secret",
    "transit",
    "app",
    "redis:",
    "rediss:",
    "kv_",
    "NODE_EXTRA_CA_CERTS",
    "KEY_MISMATCH",
  ],
  "a field of the keyring document, or a file in a directory of keys": ["primary"],
  "an option of the application, which the operator has to change there": [
    "replica",
    "serialization: false",
    "serialization",
    "compression",
    "getMany()",
    "createKeyv",
  ],
  "a format, or an option of a format, in `accept` of keyward.config.ts": [
    "accept",
    "value",
    "expires",
    "{ value }",
    "undefined",
    "layout",
    "joinedBy",
    "encoding",
    "ignoredFields",
    "matches",
    "plaintext()",
    "aesGcm(…)",
    'aesGcm({ …, value: "json" })',
    "insideKeyvValue(…)",
    "insideKeyvValue",
    "hmac.key",
    "compactDecrypt",
    "serialized",
    "kdf",
    "keyFrom",
    "sodium.crypto_secretbox_open_easy",
  ],
  "a function of keyward.config.ts, which makes the keys, the stores or the scope": [
    "scope",
    "keysFrom",
    "keysFrom(source, { store })",
    "load()",
    "keyv.store",
    "store.namespaced(…)",
    "disconnect()",
    "keyPrefix",
    "RedisOptions",
    "ClusterOptions",
    "sentinels",
    "useRedisSets",
    "useRedisSets: false",
    "redis",
    "new MemoryStore()",
    "awsKeys",
    "kmsKeys",
    "envKeys",
    "fileKeys",
  ],
  "no command does this, so that an operator needs a program": [
    "overwriteCheckRecord()",
    "rewrap()",
    "exportKeyring",
    "document",
  ],
  "a setting or a command of a server or of the operating system": [
    "GET /v1/sys/health",
    "sys/quotas/rate-limit",
    "min_decryption_version",
    "derived=true",
    "automountServiceAccountToken",
    "ENCRYPT_DECRYPT",
    "kms:Decrypt",
    "kms:GenerateDataKey",
    "~prefix:*",
    "~keyward:*",
    "maxmemory",
    "maxclients",
    "CLUSTER NODES",
    "SCRIPT KILL",
    "-wal",
    "-shm",
  ],
  "only for a program that passes wrong values: commands check their flags, and pass no such option": [
    "null",
    "checkExpired",
    "sanitize",
    "decode",
    "error.errors",
    "expected",
    "next",
    "replica.name",
    "material",
    "instruct: ({ text }) => console.log(text)",
    "namespaces",
    '["sessions"]',
    "range",
    "ranges()",
    "stores",
    "{ sessions: store }",
    "…",
    "status",
    "newKey",
    "save",
    'secretId: "production/keyring"',
    'keyId: "alias/keyward"',
    "whenMissing",
    "salt",
    "keyward/v1 passphrase",
    "method",
    "revokeKey",
  ],
};

/** Returns the first cells of the tables of parameters in a README. */
function parametersOf(folder: string): readonly string[] {
  const { prose } = readPage("README.md", readFileSync(join(repository, folder, "README.md"), "utf8"));
  const start = prose.findIndex((line) => line.startsWith("| parameter |"));
  const rows = prose.slice(start);
  return rows.slice(0, rows.indexOf("")).flatMap((row) => /^\| `(\w+)/.exec(row)?.[1] ?? []);
}

/** Returns the names of functions and options in a text. */
function namesIn(text: string): readonly string[] {
  const quoted = [...text.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name);
  const words = text.replace(/`[^`]*`/g, "").match(/\w+/g) ?? [];
  return [...quoted, ...words.filter((word) => functions.includes(word))].filter((name) => !commandLine.test(name));
}

/** Returns the names that a text shows to an operator although they are not exceptions. */
function foreignNames({ text }: SourceText, known: ReadonlySet<string>): readonly string[] {
  return namesIn(inCommandTerms(text)).filter((name) => !known.has(name));
}

describe("the translation of messages and hints into terms of the command", () => {
  const texts = textsIn(repository, packages);
  const parameters = [...parametersOf("packages/keys-from"), ...parametersOf("packages/stores-from")];
  const excepted = Object.values(exceptions).flat();
  const known = new Set([...parameters, ...excepted]);

  it("is checked with texts of every package, with names that need a translation, and with the parameters of sources", () => {
    for (const folder of packages) expect(texts.map(({ file }) => file.split("/src/")[0])).toContain(folder);
    const names = texts.flatMap(({ text }) => namesIn(text));
    expect(names).toEqual(expect.arrayContaining(["rotateKey", "rollBackRotation", "graceMs", "load()", "reencrypt"]));
    expect(parameters).toEqual(expect.arrayContaining(["refreshMs", "place", "prefix", "apiKeyIn"]));
    expect(functions).toEqual(expect.arrayContaining(["rotateKey", "createKeyv", "awsKeys", "fileKeys"]));
  });

  it("replaces every name of a function or option in the messages and hints of the packages", () => {
    const left = texts.flatMap((one) => foreignNames(one, known).map((name) => `${one.file}: ${name}`));
    expect(left).toEqual([]);
  });

  it("leaves out only names that occur in a message or hint", () => {
    const shown = new Set(texts.flatMap(({ text }) => namesIn(inCommandTerms(text))));
    expect(excepted.filter((name) => !shown.has(name))).toEqual([]);
    expect(excepted.filter((name, index) => excepted.indexOf(name) !== index || parameters.includes(name))).toEqual([]);
  });

  it.each([
    "Call `rotateKeys` again.",
    "Call `load()`, and set `graceMillis`.",
    "Call exportKeyrings or census: awsKeys.",
  ])("is reported as incomplete if a new hint contains an untranslated name: %s", (text) =>
    expect(foreignNames({ file: "new.ts", text }, new Set())).not.toEqual([]),
  );

  it.each([
    ["Call `rotateKey` to finish the rotation.", "Run `keyward rotate` to finish the rotation."],
    ["Then repeat this call.", "Then run the command again."],
    [
      'promote "2026-12" and repeat the call that began',
      'make key "2026-12" the primary at the source of the keys and run the command that began',
    ],
    ["If no keyring has existed yet, call `create()`.", "If no keyring has existed yet, run `keyward keyring create`."],
    ["pass `unregistered: { waitMs: 0 }`.", "pass `--unregistered 0s`."],
    ["`census` counts the records under each key.", "`keyward census` counts the records under each key."],
    [
      "If encrypted records exist, mount the key that encrypted these records, because a new key cannot decrypt these records. If no encrypted records exist yet, make a first key with `openssl rand -base64 32`.",
      "If encrypted records exist, restore their keyring from a backup with `keyward keyring import <file>`, or mount the key that encrypted these records, because a new key cannot decrypt these records. If no encrypted records exist yet, run `keyward keyring create`.",
    ],
    ["the function `scope` threw an error", "the function `scope` threw an error"],
  ])("turns %j into %j", (text, shown) => expect(inCommandTerms(text)).toBe(shown));
});
