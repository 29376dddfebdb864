import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { createKeyv, exportKeyring, Keyring } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";
import { keyward } from "./keyward-process.ts";

const servers = await findRedisServers();
const packages = join(dirname(fileURLToPath(import.meta.url)), "../..");

async function newFolder(): Promise<string> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), "keyward-doctor-")));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

async function begun(): Promise<string> {
  const folder = await newFolder();
  expect(await keyward(folder, {}, "init", "--id", "first")).toMatchObject({ exitCode: 0 });
  return folder;
}

/** Lets files in a folder import the packages of this workspace by their names. */
async function linkPackages(folder: string, ...names: readonly string[]): Promise<void> {
  await mkdir(join(folder, "node_modules", "@keyward"), { recursive: true });
  for (const name of names) await symlink(join(packages, name), join(folder, "node_modules/@keyward", name));
}

/** A process of an application whose clock differs from the clock of this machine. */
async function startApplication(folder: string, name: string, clockOffsetMs: number): Promise<void> {
  await linkPackages(folder, "core", "keys-env", "store-sqlite");
  const script = [
    `const now = Date.now; Date.now = () => now() + ${clockOffsetMs};`,
    'const { createKeyv } = await import("@keyward/core");',
    'const { fileKeys } = await import("@keyward/keys-env");',
    'const { SqliteStore } = await import("@keyward/store-sqlite");',
    `const store = new SqliteStore(${JSON.stringify(join(folder, "sessions.sqlite"))});`,
    `const keys = fileKeys(${JSON.stringify(join(folder, "production.keyring"))});`,
    `const sessions = createKeyv({ store, keys, namespace: "sessions", replica: { name: ${JSON.stringify(name)} } });`,
    'await sessions.set("session:1", "value");',
    'console.log("ready");',
    "setInterval(() => {}, 1_000);",
  ];
  await writeFile(join(folder, `${name}.mjs`), script.join("\n"));
  const child = spawn(process.execPath, ["--conditions", "development", join(folder, `${name}.mjs`)]);
  onTestFinished(async () => {
    child.kill("SIGKILL");
    if (child.exitCode === null) await once(child, "exit");
  });
  await once(child.stdout, "data");
}

describe("keyward doctor", () => {
  it.each([
    ["ahead", 3_600_000],
    ["behind", -3_600_000],
  ])("warns if the clock of a process is an hour %s", async (direction, offsetMs) => {
    const folder = await begun();
    await startApplication(folder, "late-clock", offsetMs);
    const { exitCode, stdout } = await keyward(folder, {}, "doctor");
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(new RegExp(`warning {2}sessions: the clocks of processes are ${direction}.*: late-clock`));
    expect(stdout).toContain("Synchronize the clocks");
  });

  it("writes nothing into a store that was never used, so that a rotation still refuses the store", async () => {
    const folder = await begun();
    const flags = ["--store", "sessions=sqlite:typo.sqlite"];
    const looked = await keyward(folder, {}, "doctor", ...flags, "--empty-store", "sessions");
    expect(looked.stdout).toMatch(/^warning {2}sessions: no process has written to this store$/m);
    const refused = await keyward(folder, {}, "rotate", ...flags, "--unregistered", "0s", "--grace", "0s");
    expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("was never used with Keyward") });
  });

  it("reports a scope in which no process has written as a problem, and changes nothing", async () => {
    const folder = await begun();
    const count = async () => {
      const store = new SqliteStore(join(folder, "sessions.sqlite"));
      const { entries } = await store.reserved().scan({});
      await store.disconnect();
      return entries.map(({ key }) => key);
    };
    const before = await count();
    const { stdout } = await keyward(folder, {}, "doctor", "--scope", "typo");
    expect(stdout).toMatch(
      /^PROBLEM {2}sessions: The store sessions was never used with the scope "typo" \(STORE_INVALID\)$/m,
    );
    expect(await count()).toEqual(before);
  });

  it("prints which processes have other keys, and changes nothing", async () => {
    const folder = await begun();
    const path = join(folder, "production.keyring");
    const first = await fileKeys(path).load();
    await writeFile(join(folder, "other.keyring"), exportKeyring(first.add({ id: "second" })), { mode: 0o600 });
    const processes = [
      ["web-1", path],
      ["web-2", join(folder, "other.keyring")],
    ];
    for (const [name = "", source = ""] of processes) {
      const store = new SqliteStore(join(folder, "sessions.sqlite"));
      const sessions = createKeyv({ store, keys: fileKeys(source), namespace: "sessions", replica: { name } });
      onTestFinished(async () => {
        await sessions.disconnect();
        await store.disconnect();
      });
      await sessions.set(name, "value");
    }
    const before = await readFile(path, "utf8");
    const { stdout } = await keyward(folder, {}, "doctor");
    expect(stdout).toMatch(/^ok {7}sessions: 2 processes are registered$/m);
    expect(stdout).toMatch(/^warning {2}sessions: processes hold other keys than web-\d: web-\d$/m);
    expect(await readFile(path, "utf8")).toBe(before);
    expect(JSON.parse((await keyward(folder, {}, "census", "--json")).stdout).stores.sessions.records).toBe(2);
  });

  it("reports a problem if a store of the configuration cannot list its records", async () => {
    const folder = await begun();
    await linkPackages(folder, "store-sqlite");
    await rm(join(folder, "keyward.config.json"));
    const text = [
      "const records = new Map();",
      "const store = { opts: {}, namespace: undefined, get: async (key) => records.get(key), set: async (key, value) => void records.set(key, value), delete: async (key) => records.delete(key), clear: async () => records.clear() };",
      'export default { keys: "file:production.keyring", folder: import.meta.dirname, stores: { sessions: () => store } };',
    ];
    await writeFile(join(folder, "keyward.config.js"), text.join("\n"));
    await writeFile(join(folder, "package.json"), '{ "type": "module" }');
    const { exitCode, stdout } = await keyward(folder, {}, "doctor");
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/^PROBLEM {2}sessions: .*cannot list its records$/m);
  });

  it("warns if the connection to another machine is not encrypted", async () => {
    const folder = await begun();
    const source = "sessions=redis://user:hunter2@192.0.2.1:6379?timeoutMs=200";
    const { exitCode, stdout, stderr } = await keyward(
      folder,
      {},
      "doctor",
      "--store",
      source,
      "--empty-store",
      "sessions",
    );
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/^PROBLEM {2}sessions: .*\(STORE_UNAVAILABLE\)$/m);
    expect(stdout).toMatch(/^warning {2}sessions: the connection to another machine is not encrypted$/m);
    expect(stdout + stderr).not.toContain("hunter2");
  });
});

describeWithRedis(servers, "keyward doctor over Redis", () => {
  it("reports a problem if the Redis user lacks the permission to write", async () => {
    const redis = await startRedis(servers);
    onTestFinished(() => redis.stop());
    const folder = await newFolder();
    await writeFile(join(folder, "keyring"), exportKeyring(Keyring.generate("one")), { mode: 0o600 });
    const store = new RedisStore(redis.url);
    const sessions = createKeyv({ store, keys: fileKeys(join(folder, "keyring")), namespace: "sessions" });
    await sessions.set("one", "value");
    await sessions.disconnect();
    await store.disconnect();
    await redis.command("ACL", "SETUSER", "reader", "on", ">test-password", "~*", "&*", "+@all", "-@write");
    const url = redis.url.replace("redis://", "redis://reader:test-password@");
    const { exitCode, stdout } = await keyward(
      folder,
      { KEYWARD_STORE_SESSIONS: url },
      "doctor",
      "--keys",
      "file:keyring",
    );
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(/^ok {7}sessions: answers/m);
    expect(stdout).toMatch(/^PROBLEM {2}sessions: .*\n {9}/m);
  });
});
