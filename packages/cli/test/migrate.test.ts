import { createCipheriv, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as Iron from "@hapi/iron";
import { createKeyv, EncryptedStore, Keyring, plaintext } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import CryptoJS from "crypto-js";
import Fernet from "fernet";
import * as jose from "jose";
import { Keyv } from "keyv";
import sodium from "libsodium-wrappers";
import { describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";
import { type Ended, keyward, startKeyward } from "./keyward-process.ts";

const sources = { KEYWARD_KEYS: "file:production.keyring", KEYWARD_STORE_SESSIONS: "sqlite:sessions.sqlite" };
const value = { step: "a value that no command prints" };
const keyvJson = JSON.stringify({ value });

/** Records that a program wrote before Keyward, and the flag `--from` that reads them. */
interface OldRecords {
  readonly from: string;
  /** The text in the file of the old key. Absent for plaintext. */
  readonly oldKey?: string;
  readonly records: Readonly<Record<string, string>>;
}

await sodium.ready;
const servers = await findRedisServers();

const formats: Readonly<Record<string, () => Promise<OldRecords>>> = {
  async plaintext() {
    return { from: "plaintext", records: { "secret-id:a": keyvJson } };
  },
  async "plaintext:json"() {
    return { from: "plaintext:json", records: { "secret-id:a": JSON.stringify(value) } };
  },
  async fernet() {
    const oldKey = randomBytes(32).toString("base64url");
    const secret = new Fernet.Secret(oldKey);
    return {
      from: "fernet",
      oldKey,
      records: { "secret-id:a": new Fernet.Token({ secret, ttl: 0 }).encode(keyvJson) },
    };
  },
  async "fernet:json"() {
    const oldKey = randomBytes(32).toString("base64url");
    const token = new Fernet.Token({ secret: new Fernet.Secret(oldKey), ttl: 0 }).encode(JSON.stringify(value));
    return { from: "fernet:json", oldKey, records: { "secret-id:a": token } };
  },
  async iron() {
    const oldKey = randomBytes(24).toString("base64");
    return { from: "iron", oldKey, records: { "secret-id:a": await Iron.seal(value, oldKey, Iron.defaults) } };
  },
  async jwe() {
    const key = randomBytes(32);
    const jwe = new jose.CompactEncrypt(Buffer.from(JSON.stringify(value)));
    const token = await jwe.setProtectedHeader({ alg: "dir", enc: "A256GCM" }).encrypt(key);
    return { from: "jwe", oldKey: key.toString("base64url"), records: { "secret-id:a": token } };
  },
  async secretbox() {
    const key = sodium.crypto_secretbox_keygen();
    const nonce = sodium.randombytes_buf(24);
    const box = Buffer.concat([nonce, sodium.crypto_secretbox_easy(keyvJson, nonce, key)]);
    return {
      from: "secretbox",
      oldKey: Buffer.from(key).toString("base64"),
      records: { "secret-id:a": box.toString("base64") },
    };
  },
  async cryptojs() {
    const oldKey = "a passphrase of the old application";
    const records = { "secret-id:a": CryptoJS.AES.encrypt(keyvJson, oldKey).toString() };
    return { from: "cryptojs", oldKey, records };
  },
  async "keyv-encrypt-node"() {
    const { key, stored } = recorded("keyv-encrypt-node");
    return { from: "keyv-encrypt-node", oldKey: key, records: { "secret-id:a": stored } };
  },
  async openssl() {
    const { key, stored } = recorded("openssl-enc");
    return { from: "openssl", oldKey: key, records: { "secret-id:a": stored } };
  },
  async laravel() {
    const { key, stored } = recorded("laravel");
    return { from: "laravel", oldKey: key, records: { "secret-id:a": stored } };
  },
};
const unauthenticatedFormats = ["cryptojs", "openssl"];

/** A record that another program wrote earlier, because the program cannot run here. */
function recorded(name: string): { readonly key: string; readonly stored: string } {
  const file = new URL(`../../../test/vectors/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(file, "utf8")).variants[0].records[0];
}

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-migrate-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

/** A folder with a keyring, and a store with records in the namespace "flows" that Keyward did not write. */
async function existing(records: Readonly<Record<string, string | Uint8Array>>, namespace = "flows") {
  const folder = await newFolder();
  const run = (...commandLine: readonly string[]) => keyward(folder, sources, ...commandLine);
  expect(await run("keyring", "create", "--id", "2026-11", "--stores", "sessions")).toMatchObject({ exitCode: 0 });
  const inStore = async <Result>(work: (store: SqliteStore) => Promise<Result>): Promise<Result> => {
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    store.namespace = namespace;
    try {
      return await work(store);
    } finally {
      await store.disconnect();
    }
  };
  await inStore(async (store) => {
    for (const [key, stored] of Object.entries(records)) await store.set(key, stored);
  });
  /** What the application reads through Keyv after the migration, when it accepts only envelopes. */
  const readByApplication = (key: string): Promise<unknown> =>
    inStore(async (store) => {
      const keys = fileKeys(join(folder, "production.keyring"));
      const keyv = createKeyv({ store, keys, namespace });
      return await keyv.get(key).catch((error: unknown) => error);
    });
  const readStored = (key: string) => inStore((store) => store.get(key));
  return { folder, run, readByApplication, readStored };
}

function expectNoSecrets(ended: Ended, secrets: readonly string[]): void {
  for (const secret of [...secrets, value.step, "secret-id"]) expect(ended.stdout + ended.stderr).not.toContain(secret);
}

const table = (text: string) => text.split("\n").map((line) => line.split(/ {2,}/));

describe("keyward migrate", () => {
  it.each(Object.entries(formats))("counts and encrypts the records of %s", async (name, write) => {
    const { from, oldKey, records } = await write();
    const { folder, run, readByApplication, readStored } = await existing(records);
    const [format] = name.split(":");
    if (oldKey !== undefined) await writeFile(join(folder, "old.key"), `${oldKey}\n`);
    const unauthenticated = unauthenticatedFormats.includes(name) ? ["--encrypt-unauthenticated"] : [];
    const command = ["migrate", "--from", oldKey === undefined ? from : `${from}=old.key`, ...unauthenticated];

    const before = await readStored("secret-id:a");
    const counted = await run(...command);
    expect(counted).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("1 record can be encrypted") });
    const shown = format === "keyv-encrypt-node" ? "@keyv/encrypt-node" : (format ?? "");
    expect(table(counted.stdout).slice(0, 2)).toEqual([
      ["store", "records", "count"],
      ["sessions", shown, "1"],
    ]);
    expect(await readStored("secret-id:a")).toEqual(before);

    const unconfirmed = await run(...command, "--encrypt");
    expect(unconfirmed).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(NOT_CONFIRMED)") });
    expect(await readStored("secret-id:a")).toEqual(before);

    const encrypted = await run(...command, "--encrypt", "--yes");
    expect(encrypted).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining('sessions: 1 record encrypted under key "2026-11"\nEvery record is encrypted.'),
    });
    const read = await readByApplication("secret-id:a");
    // The recorded programs encrypted another value.
    if (["keyv-encrypt-node", "laravel", "openssl"].includes(name)) expect(read).toEqual({ step: "zażółć 🔐" });
    else expect(read).toEqual(value);
    const again = await run(...command);
    expect(again.stdout).toBe(
      "store     records               count\nsessions  encrypted by Keyward  1\nThere is no record to encrypt.\n",
    );
    for (const ended of [counted, unconfirmed, encrypted, again]) expectNoSecrets(ended, oldKey ? [oldKey] : []);
  });

  it("does not change unreadable records, and prints for each form which format may read it and what to do", async () => {
    const fernet = await formats["fernet"]?.();
    const other = await formats["fernet"]?.();
    if (fernet?.oldKey === undefined || other?.oldKey === undefined) throw new Error("fernet has no key");
    const token = fernet.records["secret-id:a"] ?? "";
    const parts = [randomBytes(12), randomBytes(16), randomBytes(80)].map((part) => part.toString("hex"));
    const records = {
      "secret-id:good": token,
      "secret-id:damaged": token.slice(0, 60) + (token[60] === "A" ? "B" : "A") + token.slice(61),
      "secret-id:other-key": other.records["secret-id:a"] ?? "",
      "secret-id:iron": await Iron.seal(value, randomBytes(24).toString("hex"), Iron.defaults),
      "secret-id:gcm": parts.join(":"),
    };
    const { folder, run, readByApplication, readStored } = await existing(records);
    await writeFile(join(folder, "old.key"), fernet.oldKey);
    const counted = await run("migrate", "--from", "fernet=old.key");
    expect(counted.exitCode).toBe(1);
    expect(table(counted.stdout)).toEqual(
      expect.arrayContaining([
        ["sessions", "fernet", "1"],
        ["sessions", "UNREADABLE: Fernet token", "2", "RECORD_TAMPERED"],
        ["sessions", "UNREADABLE: iron", "1", "RECORD_NOT_SEALED, may be --from iron"],
        [
          "sessions",
          "UNREADABLE: hex(12 bytes):hex(16 bytes):hex(bytes)",
          "1",
          "RECORD_NOT_SEALED, may be aesGcm or aesCbc in the configuration",
        ],
      ]),
    );
    expect(counted.stderr).toContain("(RECORDS_UNREADABLE)");
    expect(counted.stderr).toMatch(/2 with RECORD_TAMPERED: .*add the former key of this format/);
    expect(counted.stderr).toMatch(/2 with RECORD_NOT_SEALED: .*`--from`/);

    const encrypted = await run("migrate", "--from", "fernet=old.key", "--encrypt", "--yes", "--json");
    expect(encrypted.exitCode).toBe(1);
    expect(encrypted.stdout.trim().split("\n")).toHaveLength(1);
    expect(JSON.parse(encrypted.stdout)).toMatchObject({
      stores: { sessions: { complete: false, reencryption: { reencrypted: 1, unreadable: 4, unauthenticated: 0 } } },
    });
    expect(await readByApplication("secret-id:good")).toEqual(value);
    for (const key of ["damaged", "other-key", "iron", "gcm"] as const) {
      const stored = await readStored(`secret-id:${key}`);
      expect(Buffer.from(stored ?? "").toString()).toBe(records[`secret-id:${key}`]);
    }

    await writeFile(join(folder, "other.key"), other.oldKey);
    const both = ["migrate", "--from", "fernet=other.key", "--from", "fernet=old.key", "--encrypt", "--yes"];
    const withBoth = await run(...both);
    expect(withBoth.stdout).toContain("1 record encrypted");
    expect(await readByApplication("secret-id:other-key")).toEqual(value);
    for (const ended of [counted, encrypted, withBoth]) expectNoSecrets(ended, [fernet.oldKey, other.oldKey]);
  });

  it("changes nothing with a wrong old key", async () => {
    const { records } = (await formats["iron"]?.()) ?? { records: {} };
    const { run, readStored } = await existing(records);
    const before = await readStored("secret-id:a");
    const env = { ...sources, OLD_PASSWORD: randomBytes(24).toString("base64") };
    const { folder } = await existing(records);
    const wrong = await keyward(folder, env, "migrate", "--from", "iron=env:OLD_PASSWORD", "--encrypt", "--yes");
    expect(wrong).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("1 with RECORD_TAMPERED") });
    expectNoSecrets(wrong, [env.OLD_PASSWORD]);
    expect(await readStored("secret-id:a")).toEqual(before);
    expect((await run("migrate")).stdout).toContain("RECORD_NOT_SEALED, may be --from iron");
  });

  it("does not change records without authentication unless --encrypt-unauthenticated is passed", async () => {
    const { oldKey = "", records } = (await formats["cryptojs"]?.()) ?? { records: {} };
    const { folder, run, readStored } = await existing(records);
    await writeFile(join(folder, "old.key"), oldKey);
    const before = await readStored("secret-id:a");
    const counted = await run("migrate", "--from", "cryptojs=old.key");
    expect(counted.stdout).toContain("There is no record to encrypt.");
    expect(counted.stdout).toContain("add --encrypt-unauthenticated");
    const left = await run("migrate", "--from", "cryptojs=old.key", "--encrypt", "--yes");
    expect(left).toMatchObject({
      exitCode: 1,
      stdout: expect.stringContaining("1 without authentication and unchanged"),
    });
    expect(await readStored("secret-id:a")).toEqual(before);
  });

  it("does not change values that Keyv could not read afterwards, unless --any-value is passed", async () => {
    const oldKey = randomBytes(32).toString("base64url");
    const token = new Fernet.Token({ secret: new Fernet.Secret(oldKey), ttl: 0 }).encode("text of the application");
    const { folder, run, readStored } = await existing({ "secret-id:a": token });
    await writeFile(join(folder, "old.key"), oldKey);
    const counted = await run("migrate", "--from", "fernet=old.key");
    expect(counted).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("RECORD_MALFORMED") });
    expect(counted.stderr).toContain("`--from <format>:text`");
    const encrypted = await run("migrate", "--from", "fernet=old.key", "--any-value", "--encrypt", "--yes");
    expect(encrypted.exitCode).toBe(0);
    const keys = fileKeys(join(folder, "production.keyring"));
    const inner = new SqliteStore(join(folder, "sessions.sqlite"));
    inner.namespace = "flows";
    expect(await new EncryptedStore(inner, { keys }).get("secret-id:a")).toBe("text of the application");
    await inner.disconnect();
    expect(Buffer.from((await readStored("secret-id:a")) ?? "").toString("latin1")).toMatch(/^kw/);
  });

  it("exits with code 1 if a record that Keyward encrypted earlier cannot be decrypted", async () => {
    const { folder, run } = await existing({ "secret-id:a": keyvJson, "secret-id:b": keyvJson });
    const command = ["migrate", "--from", "plaintext", "--encrypt", "--yes"];
    expect((await run(...command)).exitCode).toBe(0);
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    const flows = store.namespaced("flows");
    // A copy of an envelope at another address.
    await flows.set("secret-id:copy", await flows.get("secret-id:a"));
    await flows.set("secret-id:short", "kw1.2026-11.AAAA");
    await flows.set("secret-id:late", keyvJson);
    await store.disconnect();
    const ended = await run(...command);
    expect(ended).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("1 record encrypted") });
    expect(ended.stdout).toContain("2 unreadable and unchanged");
    expect(ended.stdout).not.toContain("Every record is encrypted");
    expect(ended.stderr).toContain("1 with RECORD_TAMPERED");
    expect(ended.stderr).toContain("1 with RECORD_MALFORMED");
    const json = await run(...command, "--json");
    expect(json.exitCode).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({ stores: { sessions: { complete: false } } });
    for (const one of [ended, json]) expectNoSecrets(one, []);
  });

  it("encrypts nothing without the scope of the application, or with a misspelt scope", async () => {
    const { folder, run, readStored } = await existing({ "secret-id:a": keyvJson });
    const inApplication = async <Result>(work: (keyv: Keyv) => Promise<Result>): Promise<Result> => {
      const store = new SqliteStore(join(folder, "sessions.sqlite"));
      const keys = fileKeys(join(folder, "production.keyring"));
      try {
        return await work(createKeyv({ store, keys, namespace: "flows", scope: "app" }));
      } finally {
        await store.disconnect();
      }
    };
    await inApplication((keyv) => keyv.set("secret-id:scoped", value));
    const command = ["migrate", "--from", "plaintext", "--yes"];
    const counted = await run(...command);
    expect(counted).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("First correct `--scope`") });
    expect(counted.stdout).not.toContain("with --encrypt");
    const unscoped = await run(...command, "--encrypt");
    expect(unscoped).toMatchObject({
      exitCode: 1,
      stdout: "",
      stderr: expect.stringContaining("(RECORDS_UNREADABLE)"),
    });
    expect(unscoped.stderr).toContain("Pass the scope of the application: `--scope <name>`");
    const misspelt = await run(...command, "--encrypt", "--scope", "ap");
    expect(misspelt).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('never used with the scope "ap"') });
    expect((await run("reencrypt", "--scope", "ap")).stderr).toContain("(STORE_INVALID)");
    expect(Buffer.from((await readStored("secret-id:a")) ?? "").toString()).toBe(keyvJson);

    // No record shows the scope any longer, but the check record does.
    await inApplication((keyv) => keyv.delete("secret-id:scoped"));
    const withoutRecord = await run(...command, "--encrypt");
    expect(withoutRecord).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(STORE_INVALID)") });
    expect(withoutRecord.stderr).toContain("`--scope <name>`");
    expect((await run(...command, "--encrypt", "--scope", "app")).exitCode).toBe(0);
    expect(await inApplication((keyv) => keyv.get("secret-id:a"))).toEqual(value);
  });

  it("keeps the expiry of a record, and removes expired records only with --remove-expired", async () => {
    const expired = JSON.stringify({ value, expires: Date.now() - 60_000 });
    const later = Date.now() + 3_600_000;
    const { run, folder, readByApplication, readStored } = await existing({
      "secret-id:expired": expired,
      "secret-id:later": JSON.stringify({ value, expires: later }),
    });
    const command = ["migrate", "--from", "plaintext"];
    expect((await run(...command)).stdout).toMatch(/^sessions +plaintext +2 +1 expired$/m);
    expect((await run(...command, "--encrypt", "--yes", "--remove-expired")).stdout).toContain(
      "1 expired ones removed",
    );
    expect(await readStored("secret-id:expired")).toBeUndefined();
    expect(await readByApplication("secret-id:later")).toEqual(value);
    const inner = new SqliteStore(join(folder, "sessions.sqlite"));
    const keyv = createKeyv({ store: inner, keys: fileKeys(join(folder, "production.keyring")), namespace: "flows" });
    expect(await keyv.getRaw("secret-id:later")).toMatchObject({ expires: later });
    await inner.disconnect();
  });

  it("uses the formats of the configuration file, which may contain any format", async () => {
    const oldKey = randomBytes(32);
    const iv = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", oldKey, iv);
    const ciphertext = Buffer.concat([cipher.update(JSON.stringify(value)), cipher.final()]);
    const stored = [iv, cipher.getAuthTag(), ciphertext].map((part) => part.toString("hex")).join(":");
    const { folder, readByApplication } = await existing({ "secret-id:a": stored });
    const core = new URL("../../core/src/index.ts", import.meta.url).href;
    await writeFile(
      join(folder, "keyward.config.ts"),
      `import { aesGcm } from ${JSON.stringify(core)};
export default {
  folder: import.meta.dirname,
  keys: "file:production.keyring",
  stores: { sessions: "sqlite:sessions.sqlite" },
  accept: [aesGcm({ key: process.env.OLD_KEY, keyFrom: "base64", layout: "iv-tag-ciphertext", joinedBy: ":", encoding: "hex", value: "json" })],
};
`,
    );
    const env = { OLD_KEY: oldKey.toString("base64") };
    const counted = await keyward(folder, env, "migrate");
    expect(counted).toMatchObject({
      exitCode: 0,
      stdout: expect.stringMatching(/^sessions +aes-gcm iv-tag-ciphertext +1$/m),
    });
    const encrypted = await keyward(folder, env, "migrate", "--encrypt", "--yes");
    expect(encrypted.exitCode).toBe(0);
    expect(await readByApplication("secret-id:a")).toEqual(value);
    for (const ended of [counted, encrypted]) expectNoSecrets(ended, [env.OLD_KEY]);
  });

  it("counts only the chosen namespaces", async () => {
    const { folder, run, readByApplication } = await existing({ "secret-id:a": keyvJson });
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    store.namespace = "other";
    await store.set("secret-id:b", keyvJson);
    await store.disconnect();
    const command = ["migrate", "--from", "plaintext", "--namespace", "flows"];
    expect(JSON.parse((await run(...command, "--json")).stdout)).toMatchObject({
      stores: { sessions: { scanned: 1 } },
    });
    for (const flags of [[], ["--encrypt", "--yes"]]) {
      const misspelt = await run(...command, "--namespace", "flow", ...flags);
      expect(misspelt).toMatchObject({ exitCode: 2, stdout: "", stderr: expect.stringContaining('"flow" (USAGE)') });
    }
    const encrypted = await run(...command, "--encrypt", "--yes");
    expect(encrypted).toMatchObject({
      exitCode: 0,
      stdout: expect.stringContaining('Every record of the namespace "flows" is encrypted.'),
    });
    expect(encrypted.stdout).toContain("Keep the formats in `accept`");
    expect(await readByApplication("secret-id:a")).toEqual(value);
    const census = JSON.parse((await run("census", "--json")).stdout).stores;
    expect(census.sessions.namespaces).toMatchObject({ flows: { unsealed: 0 }, other: { unsealed: 1 } });
  });

  it("continues from its checkpoint when it runs again after SIGINT", async () => {
    const names = Array.from({ length: 3_000 }, (_, index) => [`secret-id:${index}`, keyvJson]);
    const { folder, run, readByApplication } = await existing(Object.fromEntries(names));
    const command = ["migrate", "--from", "plaintext", "--encrypt", "--yes", "--checkpoint", "migration.checkpoint"];
    const child = startKeyward(folder, sources, ...command, "--max-per-second", "200");
    onTestFinished(() => void child.kill("SIGKILL"));
    let printed = "";
    const isEncrypting = Promise.withResolvers<void>();
    child.stderr.on("data", (data) => {
      printed += String(data);
      if (/, [1-9]\d* re-encrypted/.test(printed)) isEncrypting.resolve();
    });
    const exited = once(child, "exit");
    await isEncrypting.promise;
    child.kill("SIGINT");
    expect(await exited).toEqual([130, null]);
    expect(await readdir(folder)).toContain("migration.checkpoint");
    const other = new SqliteStore(join(folder, "other.sqlite"));
    await other.set("secret-id:a", keyvJson);
    await other.disconnect();
    const others = [
      [...command, "--store", "sessions=sqlite:other.sqlite"],
      [...command, "--any-value"],
      ["reencrypt", "--checkpoint", "migration.checkpoint"],
    ];
    for (const one of others) {
      expect(await run(...one)).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(CHECKPOINT_INVALID)") });
    }
    const keyring = await run(...command.with(-1, "production.keyring"));
    expect(keyring).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("This is not a checkpoint, so keep it."),
    });
    expect(keyring.stderr).not.toContain("emove");
    const rest = await run(...command, "--json");
    expect(JSON.parse(rest.stdout)).toMatchObject({
      stores: { sessions: { complete: true, reencryption: { scanned: 3_000, reencrypted: 3_000 } } },
    });
    expect(await readdir(folder)).not.toContain("migration.checkpoint");
    expect(await readByApplication("secret-id:2999")).toEqual(value);
    expect(await readByApplication("secret-id:0")).toEqual(value);
  });

  it("refuses a store without any record, and a store whose file does not exist", async () => {
    const { folder, run } = await existing({});
    await writeFile(join(folder, "empty.sqlite"), "");
    const empty = await run("migrate", "--store", "sessions=sqlite:empty.sqlite");
    expect(empty).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("The store sessions has no records") });
    expect((await run("census", "--store", "sessions=sqlite:empty.sqlite")).stderr).toContain("its file is empty");
    expect((await stat(join(folder, "empty.sqlite"))).size).toBe(0);
    const misspelt = await run("migrate", "--store", "sessions=sqlite:sesions.sqlite");
    expect(misspelt).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("does not exist") });
    expect(await readdir(folder)).not.toContain("sesions.sqlite");
  });

  it("refuses a store that `init` has prepared and that has no record, because another adapter may have the records", async () => {
    const { folder } = await existing({});
    await rm(join(folder, "production.keyring"), { force: true });
    expect(await keyward(folder, {}, "init", "--store", "begun=sqlite:begun.sqlite")).toMatchObject({ exitCode: 0 });
    for (const flags of [[], ["--encrypt", "--yes"]]) {
      const counted = await keyward(folder, {}, "migrate", "--from", "plaintext", ...flags);
      expect(counted).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("such as @keyv/redis") });
    }
  });

  it("never repeats the text of --from, which may be a key", async () => {
    const { folder } = await existing({ "secret-id:a": keyvJson });
    const secret = randomBytes(32).toString("base64url");
    await mkdir(join(folder, "directory"));
    await writeFile(join(folder, "bytes"), Buffer.from([0xff, 0xfe, 0xfd]));
    await writeFile(join(folder, "long"), "a".repeat(70_000));
    await writeFile(join(folder, "empty"), "\n");
    await writeFile(join(folder, "short"), secret.slice(0, 20));
    const cases: readonly (readonly [flags: readonly string[], problem: RegExp])[] = [
      [[secret], /unknown format[\s\S]*plaintext, keyv-encrypt-node/],
      [["fernet"], /needs an old key[\s\S]*Fernet\.generate_key/],
      [[`fernet=${secret}`], /The file with the old key .*cannot be read \(ENOENT\)/],
      [[`fernet=env:${secret}`], /environment variable .* is not set/],
      [[`fernet:${secret}`], /unknown value after its colon/],
      [["fernet=directory"], /not a regular file/],
      [["fernet=long"], /not a regular file of at most 64 KiB/],
      [["fernet=bytes"], /not text in UTF-8/],
      [["fernet=empty"], /is empty/],
      [["fernet=short"], /A key of fernet\(\) is not 32 bytes[\s\S]*base64url/],
      [["aes-gcm=short"], /need options[\s\S]*aesGcm/],
      [[`plaintext=${secret}`], /Plaintext has no old key/],
      [["plaintext:text"], /matches/],
      [["iron=short", "iron:text=short"], /different values after the colon/],
    ];
    const ended = await Promise.all(
      cases.map(([flags]) => keyward(folder, sources, "migrate", ...flags.flatMap((flag) => ["--from", flag]))),
    );
    for (const [index, [, problem]] of cases.entries()) {
      const one = ended[index];
      expect(one).toMatchObject({ exitCode: 2, stdout: "", stderr: expect.stringMatching(problem) });
      if (one !== undefined) expectNoSecrets(one, [secret, secret.slice(0, 20)]);
    }
    const unnamed = await keyward(folder, sources, "migrate", "--encrypt", "--yes");
    expect(unnamed).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("No format") });
  });
});

describeWithRedis(servers, "keyward migrate over Redis", () => {
  it("encrypts the records that Keyv wrote, while an application that accepts plaintext keeps running", async () => {
    const redis = await startRedis(servers);
    onTestFinished(() => redis.stop());
    const folder = await newFolder();
    const env = { KEYWARD_KEYS: "file:production.keyring", KEYWARD_STORE_SESSIONS: redis.url };
    const run = (...commandLine: readonly string[]) => keyward(folder, env, ...commandLine);
    await run("keyring", "create", "--id", "2026-11", "--stores", "sessions");
    expect(await run("migrate")).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("has no records") });
    const inner = new RedisStore(redis.url);
    onTestFinished(() => inner.disconnect());
    const before = new Keyv({ store: inner.namespaced("flows"), namespace: "flows" });
    const names = Array.from({ length: 300 }, (_, index) => `secret-id:${index}`);
    for (const name of names) await before.set(name, value, 3_600_000);

    const keys = fileKeys(join(folder, "production.keyring"));
    const flows = createKeyv({ store: inner, keys, namespace: "flows", accept: [plaintext()], reencrypt: "off" });
    const encrypting = run("migrate", "--from", "plaintext", "--encrypt", "--yes", "--json");
    let isRunning = true;
    const ended = encrypting.finally(() => {
      isRunning = false;
    });
    while (isRunning) expect(await flows.getMany(names)).toEqual(names.map(() => value));
    const { stdout, exitCode } = await ended;
    expect(exitCode).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      stores: { sessions: { complete: true, reencryption: { reencrypted: 300 } } },
    });
    expect(await run("refuse-plaintext", "flows", "--yes")).toMatchObject({ exitCode: 0 });
    const after = createKeyv({ store: inner, keys, namespace: "flows" });
    expect(await after.getMany(names)).toEqual(names.map(() => value));
  });
});

describe("keyward refuse-plaintext", () => {
  it("fails with the counts while the namespace has plaintext, and succeeds after the plaintext is encrypted", async () => {
    const { folder, run } = await existing({ "secret-id:a": keyvJson });
    await run("migrate", "--from", "plaintext", "--encrypt", "--yes");
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    onTestFinished(() => store.disconnect());
    await new Keyv({ store: store.namespaced("flows"), namespace: "flows" }).set("secret-id:late", value);
    const early = await run("refuse-plaintext", "flows", "--yes");
    expect(early).toMatchObject({ exitCode: 1, stdout: "" });
    expect(early.stderr).toContain("1 in sessions (RECORD_NOT_SEALED)");
    expect(early.stderr).toContain("`keyward migrate --from plaintext --encrypt`");
    const misspelt = await run("refuse-plaintext", "flow", "--yes");
    expect(misspelt).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('the namespace "flow"') });

    await run("migrate", "--from", "plaintext", "--encrypt", "--yes");
    const unconfirmed = await run("refuse-plaintext", "flows");
    expect(unconfirmed).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(NOT_CONFIRMED)") });
    const done = await run("refuse-plaintext", "flows", "--yes");
    expect(done).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("is refused from now on") });
    const again = await run("refuse-plaintext", "flows");
    expect(again).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("is refused already") });

    await store.namespaced("flows").set("secret-id:planted", keyvJson);
    const planted = await run("migrate", "--from", "plaintext");
    expect(planted.stdout).toMatch(
      /UNREADABLE: JSON object \{ value \} +1 +RECORD_NOT_SEALED, the keyring forbids plaintext in this namespace$/m,
    );
    const reencrypted = await run("reencrypt");
    for (const ended of [planted, reencrypted]) {
      expect(ended.exitCode).toBe(1);
      expect(ended.stderr).toContain("1 with RECORD_NOT_SEALED in a namespace in which the keyring forbids plaintext");
      expect(ended.stderr).toContain("`keyward record delete <key>`");
      expect(ended.stderr).not.toContain("keyward migrate");
      expectNoSecrets(ended, []);
    }
    for (const ended of [early, misspelt, unconfirmed, done, again, planted]) expectNoSecrets(ended, []);
    expect(await readFile(join(folder, "production.keyring"), "utf8")).toContain('"sealed"');
  });
});

describe("keyward census --watch", () => {
  it("prints a new count again and again, and exits with code 130 when it is stopped", async () => {
    const { folder } = await existing({ "secret-id:a": keyvJson });
    await keyward(folder, sources, "migrate", "--from", "plaintext", "--encrypt", "--yes");
    const child = startKeyward(folder, sources, "census", "--watch", "--every", "100ms", "--json");
    onTestFinished(() => void child.kill("SIGKILL"));
    let printed = "";
    child.stdout.on("data", (data) => {
      printed += String(data);
    });
    const exited = once(child, "exit");
    const counts = () =>
      printed
        .split("\n")
        .slice(0, -1)
        .map((line) => JSON.parse(line).stores.sessions.records);
    await expect.poll(() => counts().length).toBeGreaterThan(1);
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    await store.set("secret-id:b", keyvJson);
    await store.disconnect();
    await expect.poll(() => counts().at(-1)).toBe(2);
    expect(counts()[0]).toBe(1);
    child.kill("SIGINT");
    expect(await exited).toEqual([130, null]);
  });

  it("refuses a pause that is too short or too long", async () => {
    for (const every of ["10ms", "30d"]) {
      const ended = await keyward(await newFolder(), {}, "census", "--watch", "--every", every);
      expect(ended).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("between 100ms and 1d") });
    }
  });
});

describe("keyward reencrypt", () => {
  it("prints each code of unreadable records and what to do, but never the keys of records", async () => {
    const { folder, run } = await existing({ "secret-id:a": keyvJson });
    await run("migrate", "--from", "plaintext", "--encrypt", "--yes");
    const elsewhere = new SqliteStore(":memory:");
    await new EncryptedStore(elsewhere, { keys: Keyring.generate("elsewhere") }).set("secret-id:b", "value");
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    await store.set("secret-id:b", await elsewhere.get("secret-id:b"));
    await store.set("secret-id:c", keyvJson);
    for (const one of [elsewhere, store]) await one.disconnect();
    const failed = await run("reencrypt", "--concurrency", "2");
    expect(failed.exitCode).toBe(1);
    expect(failed.stdout).toContain("  1 without a namespace under key elsewhere: KEY_UNKNOWN\n");
    expect(failed.stderr).toMatch(/1 with KEY_UNKNOWN: Add the key to the keyring/);
    expect(failed.stderr).toMatch(/1 with RECORD_NOT_SEALED: .*`keyward migrate`/);
    const json = await run("reencrypt", "--json");
    expect(json).toMatchObject({ exitCode: 1, stderr: expect.not.stringContaining("RECORDS_UNREADABLE") });
    expect(JSON.parse(json.stdout)).toMatchObject({
      stores: {
        sessions: {
          unreadable: 2,
          unreadableGroups: expect.arrayContaining([
            { namespace: "", keyId: "elsewhere", code: "KEY_UNKNOWN", records: 1 },
          ]),
        },
      },
    });
    for (const ended of [failed, json]) expectNoSecrets(ended, []);
  });

  it("exits with code 1 after it resumed from a checkpoint, if an earlier run counted unreadable records", async () => {
    const names = Array.from({ length: 1_000 }, (_, index) => [`secret-id:${index}`, keyvJson]);
    const { folder, run } = await existing(Object.fromEntries(names));
    await run("migrate", "--from", "plaintext", "--encrypt", "--yes");
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    // The first record of a scan.
    await store.set("", keyvJson);
    await store.disconnect();
    const command = ["reencrypt", "--checkpoint", "job.checkpoint"];
    const child = startKeyward(folder, sources, ...command, "--max-per-second", "100");
    onTestFinished(() => void child.kill("SIGKILL"));
    const exited = once(child, "exit");
    await expect.poll(() => readdir(folder), { timeout: 20_000 }).toContain("job.checkpoint");
    child.kill("SIGINT");
    expect(await exited).toEqual([130, null]);
    const resumed = await run(...command);
    expect(resumed.stdout).toContain("1 unreadable\n  1 not listed: of an earlier run");
    expect(resumed).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(RECORDS_UNREADABLE)") });
    expect(resumed.stderr).toContain("1 others: `keyward reencrypt --dry-run`");
  });

  it("escapes the control characters of names from the store", async () => {
    const steering = "\u0007\u001b]0;x\u0007\u007f\u009b2J\r";
    const { run } = await existing({ "secret-id:a": keyvJson }, `n${steering}`);
    const namespace = ["--namespace", `n${steering}`];
    const commands = [
      ["reencrypt", "--empty-store", "sessions"],
      ["reencrypt", "--empty-store", "sessions", "--json"],
      ["migrate", "--namespace", `m${steering}`],
      ["migrate", "--from", "plaintext", ...namespace, "--encrypt", "--yes"],
      ["refuse-plaintext", `n${steering}`, "--yes"],
    ];
    for (const command of commands) {
      const { stdout, stderr } = await run(...command);
      expect(stdout + stderr).toMatch(/[nm]\\(?:x07|u0007)/);
      expect(stdout + stderr).not.toMatch(/[^\P{Cc}\n]/u);
    }
  });

  it("refuses one checkpoint for two stores", async () => {
    const { folder, run } = await existing({ "secret-id:a": keyvJson });
    const stores = ["--store", "a=sqlite:sessions.sqlite", "--store", "b=sqlite:sessions.sqlite"];
    const ended = await run("migrate", "--checkpoint", "one.checkpoint", ...stores);
    expect(ended).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("A checkpoint is for one store") });
    expect(await readdir(folder)).not.toContain("one.checkpoint");
  });
});
