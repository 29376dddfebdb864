import { once } from "node:events";
import { mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv, EncryptedStore, exportKeyring, Keyring } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";
import { keyward, startKeyward } from "./keyward-process.ts";

const servers = await findRedisServers();
const plaintext = "a plaintext that stays in its record";
const passphrase = "a passphrase that stays in its file";

async function newFolder(): Promise<string> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), "keyward-secrecy-")));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

/** Every text in which a key, or the plaintext, may be printed. */
async function secretsIn(folder: string): Promise<readonly string[]> {
  const document = await readFile(join(folder, "production.keyring"), "utf8");
  const materials = [...document.matchAll(/"material":\s*"([^"]+)"/g)].map(([, text = ""]) =>
    Buffer.from(text, "base64"),
  );
  expect(materials.length).toBeGreaterThan(0);
  const words = [plaintext, passphrase].flatMap((text) => [
    text,
    Buffer.from(text).toString("base64").replace(/=*$/, ""),
  ]);
  return [
    ...words,
    ...materials.flatMap((material) => [
      material.toString("base64").replace("=", ""),
      material.toString("base64url"),
      material.toString("hex"),
      // As node:util shows bytes.
      [...material.subarray(0, 8)].map((byte) => byte.toString(16).padStart(2, "0")).join(" "),
      [...material.subarray(0, 6)].join(", "),
      [...material.subarray(0, 6)].join(","),
    ]),
  ];
}

async function expectNoSecret(folder: string, what: string, text: string): Promise<void> {
  const found = (await secretsIn(folder)).filter((secret) => text.includes(secret));
  expect({ what, found: found.length }).toEqual({ what, found: 0 });
}

const commands: readonly (readonly string[])[] = [
  ["doctor"],
  ["keyring", "show"],
  ["keyring", "add", "--id", "second"],
  ["keyring", "export", "backup", "--passphrase-file", "passphrase"],
  ["keyring", "import", "backup", "--passphrase-file", "passphrase"],
  ["keyring", "import", "production.keyring"],
  ["census"],
  ["census", "--by", "namespace"],
  ["replicas"],
  ["status"],
  ["inspect", "session:1", "--namespace", "sessions"],
  ["record", "put", "session:2", "--namespace", "sessions"],
  ["record", "delete", "session:2", "--namespace", "sessions"],
  ["migrate", "--from", "plaintext"],
  ["reencrypt"],
  ["rotate", "--new-key", "second", "--dry-run"],
  ["rotate", "--new-key", "second", "--unregistered", "0s"],
  ["rollback", "--unregistered", "0s"],
  ["retire", "first"],
  ["revoke", "first"],
  ["revoke", "gone"],
  ["keyring", "remove", "second"],
];

describe("keys and plaintexts", () => {
  it("are in no output of a command, not even with --json or in the debug output of Node.js and of libraries", {
    timeout: 300_000,
  }, async () => {
    const folder = await newFolder();
    expect(await keyward(folder, {}, "init", "--id", "first")).toMatchObject({ exitCode: 0 });
    await writeFile(join(folder, "passphrase"), passphrase);
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    const keys = fileKeys(join(folder, "production.keyring"));
    const sessions = createKeyv({ store, keys, namespace: "sessions" });
    await sessions.set("session:1", plaintext);
    // A record that cannot be decrypted, and one that Keyward did not write.
    const elsewhere = new SqliteStore(":memory:");
    await new EncryptedStore(elsewhere, { keys: Keyring.generate("elsewhere") }).set("session:3", plaintext);
    await store.namespaced("other").set("session:3", await elsewhere.get("session:3"));
    await elsewhere.disconnect();
    await store.namespaced("sessions").set("session:4", JSON.stringify({ value: plaintext }));
    await sessions.disconnect();
    await store.disconnect();
    // Without the modules that are loaded, which fill megabytes.
    const everything = {
      NODE_DEBUG: "fs,net,tls,http,https,http2,stream,fetch,undici,timer,worker",
      DEBUG: "*",
      NODE_OPTIONS: "--trace-uncaught --trace-warnings",
    };
    const shown = await keyward(folder, {}, "record", "get", "session:1", "--namespace", "sessions");
    await expect(expectNoSecret(folder, "record get", shown.stdout)).rejects.toThrow("to deeply equal");
    const document = await readFile(join(folder, "production.keyring"), "utf8");
    await expect(expectNoSecret(folder, "the keyring", document)).rejects.toThrow("to deeply equal");
    for (const command of commands) {
      for (const [env, flags] of [
        [{}, []],
        [everything, ["--json"]],
      ] as const) {
        const { stdout, stderr } = await keyward(folder, env, ...command, ...flags);
        await expectNoSecret(folder, [...command, ...flags].join(" "), stdout + stderr);
      }
    }
  });
});

describeWithRedis(servers, "keys and plaintexts over Redis", () => {
  it("are not in the report that Node.js writes about a command that hangs or is aborted", async () => {
    const redis = await startRedis(servers);
    onTestFinished(() => redis.stop());
    const folder = await newFolder();
    const document = exportKeyring(Keyring.generate("first"));
    await writeFile(join(folder, "production.keyring"), document, { mode: 0o600 });
    const store = new RedisStore(redis.url);
    const sessions = createKeyv({ store, keys: fileKeys(join(folder, "production.keyring")), namespace: "sessions" });
    await sessions.set("session:1", plaintext);
    await sessions.disconnect();
    await store.disconnect();
    const env = {
      KEYWARD_KEYS: "file:production.keyring",
      KEYWARD_STORE_SESSIONS: `${redis.url}?timeoutMs=60000`,
      NODE_OPTIONS: "--report-on-signal --report-signal=SIGUSR2 --report-uncaught-exception --report-on-fatalerror",
    };
    const rotation = ["rotate", "--new-key", "second", "--unregistered", "10m"];
    const child = startKeyward(folder, env, ...rotation);
    onTestFinished(() => void child.kill("SIGKILL"));
    const exited = once(child, "exit");
    let printed = "";
    child.stderr.on("data", (data) => {
      printed += String(data);
    });
    // The rotation has the keyring, and waits.
    await expect.poll(() => printed, { timeout: 60_000 }).toContain("distribute");
    const reports = async () => (await readdir(folder)).filter((name) => name.startsWith("report."));
    child.kill("SIGUSR2");
    await expect.poll(reports, { timeout: 60_000 }).toHaveLength(1);
    const [name = ""] = await reports();
    const readReport = async () => await readFile(join(folder, name), "utf8");
    // The report is written in parts.
    await expect.poll(readReport, { timeout: 60_000 }).toMatch(/\}\s*$/);
    child.kill("SIGABRT");
    expect((await exited)[1]).toBe("SIGABRT");
    await expectNoSecret(folder, "report", (await readReport()) + printed);
  });
});
