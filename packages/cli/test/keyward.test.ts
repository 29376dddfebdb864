import { spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv, EncryptedStore, exportKeyring, Keyring, type KeywardKeyv } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { sourceOfCommand } from "../../../test/command-files.ts";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";
import { type Ended, executable, keyward, startKeyward } from "./keyward-process.ts";

const servers = await findRedisServers();
const sources = { KEYWARD_KEYS: "file:production.keyring", KEYWARD_STORE_SESSIONS: "sqlite:sessions.sqlite" };
const secretValue = "a value that no command prints";

async function newFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-cli-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

/** A folder with a keyring, and a store that an application has written ten records to. */
async function begun() {
  const folder = await newFolder();
  const run = (...commandLine: readonly string[]) => keyward(folder, sources, ...commandLine);
  const created = await run("keyring", "create", "--id", "2026-11", "--stores", "sessions");
  expect(created).toMatchObject({ exitCode: 0, stdout: 'The keyring was saved. Its primary is key "2026-11".\n' });
  const names = Array.from({ length: 10 }, (_, index) => `session:${index}`);
  // The application is not running while a command runs.
  const inApplication = async (work: (sessions: KeywardKeyv) => Promise<void>): Promise<void> => {
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    const sessions = createKeyv({ store, keys: fileKeys(join(folder, "production.keyring")), namespace: "sessions" });
    await work(sessions);
    await sessions.encryptedStore.settled();
    await sessions.disconnect();
    await store.disconnect();
  };
  await inApplication(async (sessions) => {
    for (const name of names) await sessions.set(name, secretValue);
  });
  const expectReadable = () =>
    inApplication(async (sessions) => expect(await sessions.getMany(names)).toEqual(names.map(() => secretValue)));
  return { folder, run, expectReadable };
}

async function expectNoSecrets(folder: string, ended: Ended): Promise<void> {
  const printed = ended.stdout + ended.stderr;
  expect(printed).not.toContain(secretValue);
  const document = await readFile(join(folder, "production.keyring"), "utf8");
  for (const [, material = ""] of document.matchAll(/"material":"([^"]+)"/g)) expect(printed).not.toContain(material);
}

describe("keyward", () => {
  it("rotates a key in five commands, none of which prints a secret", async () => {
    const { folder, run, expectReadable } = await begun();
    const planned = await run("rotate", "--new-key", "2026-12", "--dry-run");
    expect(planned.stderr).not.toContain("an example");
    expect((await run("rotate", "--dry-run")).stderr).toContain("The id of the new key is an example");
    expect(planned.stdout.split("\n").map((line) => line.split(/ {2,}/))).toEqual([
      ["step", "what it would do"],
      ["add", 'add key "2026-12"'],
      ["distribute", "no process is registered in sessions, so the rotation needs --unregistered"],
      ["promote", 'make key "2026-12" the primary'],
      ["drain", "no process is registered in sessions, so the rotation needs --unregistered"],
      ["reencrypt", "re-encrypt the records: 10 in sessions"],
      ["disable", 'disable key "2026-11". Records under this key now: 10 in sessions'],
      ["grace", "wait 1d"],
      ["remove", 'remove key "2026-11"'],
      [""],
    ]);
    const rotated = await run("rotate", "--new-key", "2026-12", "--unregistered", "0s");
    expect(rotated).toMatchObject({ exitCode: 0 });
    expect(rotated.stdout).toBe('rotation from key "2026-11" to "2026-12": the next step is grace\n');
    expect(rotated.stderr).toMatch(/^add\ndistribute\npromote\ndrain\nreencrypt\n/);
    expect(rotated.stderr).toMatch(/Run the same command again in (?:23h 59m|1d)/);
    const counted = await run("census");
    expect(counted.stdout).toMatch(/^store +records +status +count\nsessions +key 2026-12 +primary +10 +█{20}\n$/);
    expect((await run("doctor")).stdout).toMatch(
      /warning {2}keys: a rotation from key "2026-11" to "2026-12" began \S+ ago, and is at step grace\n +Finish the rotation with `keyward rotate --resume`/,
    );
    expect((await run("status")).stdout).toMatch(/^rotation from key "2026-11" to "2026-12": at step grace, begun /);
    const ended = await run("rotate", "--new-key", "2026-12", "--unregistered", "0s", "--grace", "0s");
    expect(ended.stdout).toBe('rotation from key "2026-11" to "2026-12": done\n');
    const shown = await run("keyring", "show");
    expect(shown.stdout).toMatch(
      /^Keyring "keyring", generation 6, stores sessions\nkey +status +age\n2026-12 +primary +/,
    );
    for (const each of [planned, rotated, counted, ended, shown]) await expectNoSecrets(folder, each);
    await expectReadable();
  });

  it("counts each namespace separately, marks keys that the keyring lacks, and escapes control characters of names", async () => {
    const { folder, run } = await begun();
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    const elsewhere = new SqliteStore(":memory:");
    await new EncryptedStore(elsewhere, { keys: Keyring.generate("elsewhere") }).set("one", "value");
    store.namespace = "a\u009b2J";
    await store.set("one", await elsewhere.get("one"));
    await elsewhere.disconnect();
    await store.disconnect();
    const { stdout } = await run("census", "--by", "namespace");
    expect(stdout).toMatch(/^namespace +records +status +count\n/);
    expect(stdout).toMatch(/^sessions sessions +key 2026-11 +primary +10 +█{20}$/m);
    expect(stdout).toMatch(/ key elsewhere +NOT IN THE KEYRING +1 /);
    expect(stdout).not.toContain("\u009b");
  });

  it("enables a key that a rotation has disabled", async () => {
    const { run } = await begun();
    await run("rotate", "--new-key", "2026-12", "--unregistered", "0s");
    expect((await run("keyring", "show")).stdout).toMatch(/^2026-11 +disabled +/m);
    expect((await run("keyring", "enable", "2026-11")).stdout).toBe('Key "2026-11" is enabled.\n');
    expect((await run("keyring", "show")).stdout).toMatch(/^2026-11 +enabled +/m);
    expect((await run("keyring", "enable", "2026-11")).stdout).toBe('Key "2026-11" is enabled already.\n');
    const unknown = await run("keyring", "enable", "2026-10");
    expect(unknown).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(KEY_UNKNOWN)") });
    const rotated = await run("rotate", "--new-key", "2026-12", "--unregistered", "0s", "--grace", "0s");
    expect(rotated.stdout).toBe('rotation from key "2026-11" to "2026-12": done\n');
  });

  it("prints one line of JSON with --json, also for an error", async () => {
    const { run } = await begun();
    const { stdout } = await run("census", "--json");
    expect(JSON.parse(stdout)).toMatchObject({
      stores: { sessions: { records: 10, recordsByKey: { "2026-11": 10 } } },
    });
    const failed = await run("retire", "2026-11", "--json");
    expect(failed.exitCode).toBe(1);
    expect(JSON.parse(failed.stdout)).toMatchObject({
      error: { code: "KEYRING_INVALID", hint: "Make another key the primary first: `keyward rotate`." },
    });
    expect(failed.stderr).toBe("");
    const plan = JSON.parse((await run("rotate", "--dry-run", "--json")).stdout);
    expect(plan).toMatchObject({
      from: "2026-11",
      steps: expect.arrayContaining([{ step: "add", keyId: null, done: false }]),
    });
  });

  it("exits with code 3 and prints a hint with flags of the command if no process is registered", async () => {
    const { run } = await begun();
    const { exitCode, stdout, stderr } = await run("rotate");
    expect({ exitCode, stdout }).toEqual({ exitCode: 3, stdout: "" });
    expect(stderr).toContain("(NO_REPLICAS)");
    expect(stderr).toContain("`--unregistered 0s`");
    expect(stderr).not.toContain("waitMs");
  });

  it("rolls a rotation back, and revokes a key only with an order", async () => {
    const { run, expectReadable } = await begun();
    const alone = ["--unregistered", "0s", "--grace", "0s"];
    expect(await run("rotate", "--new-key", "2026-12", "--until", "reencrypt", ...alone)).toMatchObject({
      exitCode: 0,
    });
    const back = await run("rollback", ...alone);
    expect(back.stdout).toBe('roll-back from key "2026-12" to "2026-11": done\n');
    await expectReadable();
    const cost = await run("revoke", "2026-11");
    expect(cost.exitCode).toBe(2);
    expect(cost.stdout).toMatch(/^10 records are under key "2026-11"\.\n[\s\S]*Nothing was changed/);
    const revoked = await run("revoke", "2026-11", "--order", "reencrypt-first", "--new-key", "2027-01", ...alone);
    expect(revoked.stdout).toBe('revocation from key "2026-11" to "2027-01": done\n');
    await expectReadable();
    expect((await run("reencrypt")).stdout).toBe("sessions: 0 of 10 records re-encrypted, 0 unreadable\n");
  });

  it("checks keys and stores with doctor, and exits with code 1 if the keys do not belong to a store", async () => {
    const { folder, run } = await begun();
    const good = await run("doctor");
    expect(good.exitCode).toBe(0);
    expect(good.stdout.split("\n").filter((line) => !line.startsWith(" "))).toEqual([
      "ok       keys: generation 2, primary 2026-11, 1 key",
      "ok       keys: this process can save a changed keyring",
      "ok       sessions: answers, and the keys belong to it",
      "ok       sessions: accepts writes of this process",
      "warning  sessions: no process is registered",
      "",
    ]);
    await writeFile(join(folder, "other.keyring"), exportKeyring(Keyring.generate("other")), { mode: 0o600 });
    const bad = await run("doctor", "--keys", "file:other.keyring");
    expect(bad.exitCode).toBe(1);
    expect(bad.stdout).toMatch(/^PROBLEM +sessions: The keys do not belong to the store\..*\(OVERWRITE_REFUSED\)$/m);
    const text = await run("doctor", "--store", "sessions=sqlite:production.keyring", "--json");
    expect(text.exitCode).toBe(1);
    expect(JSON.parse(text.stdout).findings).toContainEqual(
      expect.objectContaining({ level: "problem", subject: "store", store: "sessions", code: expect.any(String) }),
    );
    for (const each of [good, bad, text]) await expectNoSecrets(folder, each);
  });

  it("refuses a store that was never used, and a store whose file does not exist, before it changes anything", async () => {
    const { folder, run, expectReadable } = await begun();
    const rotation = ["rotate", "--new-key", "2026-12", "--unregistered", "0s", "--grace", "0s"];
    const misspelt = await run(...rotation, "--store", "sessions=sqlite:sesions.sqlite");
    expect(misspelt.exitCode).toBe(1);
    expect(misspelt.stderr).toContain("--empty-store sessions");
    expect(await readdir(folder)).not.toContain("sesions.sqlite");
    await writeFile(join(folder, "empty.sqlite"), "");
    const empty = await run(...rotation, "--store", "sessions=sqlite:empty.sqlite");
    expect(empty.stderr).toContain("The store sessions was never used with Keyward");
    expect((await run("keyring", "show", "--json")).stdout).toContain('"primary":"2026-11"');
    await expectReadable();
  });

  it("exits with code 1 if its output cannot be written", async () => {
    const child = spawn("sh", [
      "-c",
      '"$0" --conditions development "$1" keygen > /dev/full',
      process.execPath,
      executable,
    ]);
    let printed = "";
    child.stderr.on("data", (data) => {
      printed += String(data);
    });
    expect(await once(child, "close")).toEqual([1, null]);
    expect(printed).toContain("the output cannot be written");
  });

  it("finishes a rotation that was stopped when the grace was over", async () => {
    const { run, expectReadable } = await begun();
    const rotation = ["rotate", "--new-key", "2026-12", "--unregistered", "0s", "--grace", "0s"];
    expect((await run(...rotation, "--until", "grace")).stdout).toContain("the next step is remove");
    expect((await run(...rotation)).stdout).toBe('rotation from key "2026-11" to "2026-12": done\n');
    await expectReadable();
  });

  it("guides through a rotation of keys in a directory", async () => {
    const folder = await newFolder();
    const directory = join(folder, "keys");
    await mkdir(directory);
    await writeFile(join(directory, "2026-11"), randomBytes(32).toString("base64"));
    await writeFile(join(directory, "primary"), "2026-11");
    const { PATH = "", HOME = "" } = process.env;
    const flags = [
      "--keys",
      "file:keys",
      "--store",
      "sqlite:sessions.sqlite",
      "--empty-store",
      "records",
      "--unregistered",
      "0s",
      "--grace",
      "0s",
    ];
    const child = spawn(
      process.execPath,
      ["--conditions", "development", executable, "rotate", "--new-key", "2026-12", ...flags],
      { cwd: folder, env: { PATH, HOME } },
    );
    let printed = "";
    const changes: [RegExp, () => Promise<void>][] = [
      [/Add a file "2026-12"/, () => put("2026-12", randomBytes(32).toString("base64"))],
      [/Write "2026-12" into the file "primary"/, () => put("primary", "2026-12")],
      [/Remove the file "2026-11"/, () => rm(join(directory, "2026-11"))],
    ];
    child.stderr.on("data", (data) => {
      printed += String(data);
      const [next] = changes;
      if (next?.[0].test(printed) !== true) return;
      changes.shift();
      void next[1]();
    });
    async function put(file: string, text: string): Promise<void> {
      await writeFile(join(directory, ".new"), text);
      await rename(join(directory, ".new"), join(directory, file));
    }
    expect(await once(child, "exit")).toEqual([0, null]);
    expect((await readdir(directory)).toSorted()).toEqual(["2026-12", "primary"]);
  });

  it("prints which change of an environment variable is needed, and exits with code 3", async () => {
    const folder = await newFolder();
    const env = {
      KEYWARD_KEYS: "env:APP_KEY",
      APP_KEY: randomBytes(32).toString("base64"),
      KEYWARD_STORE: "sqlite:a.sqlite",
    };
    const { exitCode, stderr } = await keyward(
      folder,
      env,
      "rotate",
      "--new-key",
      "2026-12",
      "--empty-store",
      "records",
      "--unregistered",
      "0s",
    );
    expect(exitCode).toBe(3);
    expect(stderr).toContain('Add the text "2026-12=hex:" and the new key to APP_KEY_OTHERS');
    expect(stderr).toContain("(CHANGE_NEEDED)");
    expect(stderr).not.toContain(env.APP_KEY);
  });

  it("writes a new file for only one of two commands with the same path, and removes no other file", async () => {
    const folder = await newFolder();
    await writeFile(join(folder, "key.unfinished"), "precious");
    for (let round = 0; round < 5; round++) {
      const out = `key-${round}`;
      const both = await Promise.all(
        ["base64", "hex"].map((format) => keyward(folder, {}, "keygen", "--format", format, "--out", out)),
      );
      expect(both.map(({ exitCode }) => exitCode).toSorted()).toEqual([0, 1]);
      expect(both.find(({ exitCode }) => exitCode === 1)?.stderr).toContain("exists already");
      const isHex = both[1]?.exitCode === 0;
      expect((await readFile(join(folder, out), "utf8")).startsWith("hex:")).toBe(isHex);
    }
    await keyward(folder, {}, "keygen", "--out", "key");
    expect(await readFile(join(folder, "key.unfinished"), "utf8")).toBe("precious");
  });

  it("stops `census --watch` when the reader of its output has exited", async () => {
    const { folder } = await begun();
    const command = `"$0" --conditions development "$1" census --watch --every 100ms | head -n 1`;
    const { PATH = "", HOME = "" } = process.env;
    const child = spawn("sh", ["-c", command, process.execPath, executable], {
      cwd: folder,
      env: { PATH, HOME, ...sources },
    });
    onTestFinished(() => void child.kill("SIGKILL"));
    expect(await once(child, "close")).toEqual([0, null]);
  });

  it.each([[["--help"]], [["keygen"]], [["rotate", "--help"]]])(
    "loads only the package commander for %j",
    (commandLine) => {
      const hook =
        'import { registerHooks } from "node:module"; registerHooks({ load(url, context, next) { console.error(url); return next(url, context); } });';
      // The bundle that other tests run has modules of several packages in one file.
      const flags = [`--import=data:text/javascript,${encodeURIComponent(hook)}`, sourceOfCommand("keyward")];
      const { status, stderr } = spawnSync(process.execPath, [...flags, ...commandLine], { encoding: "utf8" });
      expect(status).toBe(0);
      const loaded = stderr.split("\n").filter((url) => url.startsWith("file:"));
      const packages = loaded.map((url) => /.*\/(node_modules|packages)\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[2]);
      expect(new Set(packages)).toEqual(new Set(["cli", "commander"]));
    },
  );

  it.each([
    [["keygen"], /^[\w+/]{43}=\n$/],
    [["keygen", "--format", "hex"], /^hex:[0-9a-f]{64}\n$/],
    [["keygen", "--format", "keyring", "--id", "first"], /^\{\s*"keyward": 1,[\s\S]*"primary": "first"/],
  ])("prints a new key: %j", async (commandLine, form) => {
    const { exitCode, stdout } = await keyward(await newFolder(), {}, ...commandLine);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(form);
  });

  it("writes a key to a new file that only its owner can read, and never over an existing file", async () => {
    const folder = await newFolder();
    const first = await keyward(folder, {}, "keygen", "--out", "key");
    expect(first.stdout).toBe("The key is in key. Only its owner can read the file.\n");
    expect((await stat(join(folder, "key"))).mode & 0o777).toBe(0o600);
    const before = await readFile(join(folder, "key"), "utf8");
    const second = await keyward(folder, {}, "keygen", "--out", "key");
    expect(second.exitCode).toBe(1);
    expect(second.stderr).toContain("exists already, so nothing was written");
    expect(await readFile(join(folder, "key"), "utf8")).toBe(before);
    expect((await keyward(folder, {}, "keygen", "--out", "missing/key")).stderr).toContain("its folder does not exist");
  });

  it.each([
    [["rotat"], 2, /unknown command 'rotat'/],
    [["rotate", "--grace", "7"], 2, /A duration is a number and a unit/],
    [["rotate", "--until", "middle"], 2, /Allowed choices are add, distribute/],
    [["revoke"], 2, /missing required argument 'id'/],
    [["census"], 2, /The source of the keys is not set/],
    [["census", "--keys", "env:APP_KEY"], 2, /No store is set/],
    [
      ["census", "--keys", "env:APP_KEY", "--store", "a=memory:"],
      2,
      /The store a keeps its records in the memory of a process/,
    ],
    [["census", "--keys", "env:K", "--store", "sqlite:gone"], 1, /The file of the store records does not exist/],
    [["census", "redis://:secret@localhost"], 2, /too many arguments for 'census'. Expected 0 arguments but got 1\.$/m],
    [
      ["census", "--keys", "env:K", "--store", "a=sqlite:x", "--store", "a=sqlite:x", "--empty-store", "a"],
      2,
      /Two stores have the name "a"/,
    ],
    [["keyring", "create", "--keys", "env:APP_KEY"], 1, /PROVIDER_READ_ONLY/],
    [["keyring", "enable"], 2, /missing required argument 'id'/],
    [["--help"], 0, /^$/],
    [["--version"], 0, /^$/],
  ])("makes %j exit with code %d", async (commandLine, exitCode, stderr) => {
    const ended = await keyward(await newFolder(), {}, ...commandLine);
    expect(ended.exitCode).toBe(exitCode);
    expect(ended.stderr).toMatch(stderr);
    expect(ended.stderr).not.toMatch(/\n {4}at /);
  });

  it("prints on an older Node.js which version it needs, before it loads any package", async () => {
    const older = `data:text/javascript,Object.defineProperty(process, "versions", { value: { node: "20.19.0" } })`;
    const child = spawn(process.execPath, ["--import", older, sourceOfCommand("keyward"), "--help"], { stdio: "pipe" });
    let printed = "";
    child.stderr.on("data", (data) => {
      printed += String(data);
    });
    expect(await once(child, "close")).toEqual([1, null]);
    expect(printed).toBe("keyward: this is Node.js 20.19.0, and keyward needs Node.js 22.19 or newer.\n");
  });

  it("exits with code 130 on SIGINT, and the same command then continues the rotation", async () => {
    const { folder, run, expectReadable } = await begun();
    const flags = ["rotate", "--new-key", "2026-12", "--unregistered", "10m", "--grace", "0s"];
    const child = startKeyward(folder, sources, ...flags);
    let printed = "";
    const isWaiting = Promise.withResolvers<void>();
    child.stderr.on("data", (data) => {
      printed += String(data);
      if (printed.includes("distribute")) isWaiting.resolve();
    });
    const exited = once(child, "exit");
    await isWaiting.promise;
    child.kill("SIGINT");
    expect(await exited).toEqual([130, null]);
    expect(printed).toContain(
      "To continue, run the same command again:\n  keyward rotate --new-key 2026-12 --unregistered 10m --grace 0s\n",
    );
    expect(await run("rotate", "--new-key", "2026-12", "--unregistered", "0s", "--grace", "0s")).toMatchObject({
      exitCode: 0,
    });
    await expectReadable();
  });

  it("exits on the second SIGINT, even if a backend does not answer", async () => {
    const connected = Promise.withResolvers<void>();
    const silent = createServer(() => connected.resolve()).listen(0, "127.0.0.1");
    onTestFinished(() => void silent.close());
    await once(silent, "listening");
    const address = silent.address();
    const port = typeof address === "object" ? address?.port : undefined;
    const folder = await newFolder();
    await writeFile(join(folder, "production.keyring"), exportKeyring(Keyring.generate("one")), { mode: 0o600 });
    const store = `sessions=redis://127.0.0.1:${port}?timeoutMs=3600000`;
    const child = startKeyward(folder, sources, "census", "--store", store);
    onTestFinished(() => void child.kill("SIGKILL"));
    const isStopping = Promise.withResolvers<void>();
    child.stderr.on("data", (data) => {
      if (String(data).includes("Press Ctrl-C again")) isStopping.resolve();
    });
    const exited = once(child, "exit");
    await connected.promise;
    child.kill("SIGINT");
    await isStopping.promise;
    // A signal at the same time would count as the first one.
    const pressing = setInterval(() => child.kill("SIGINT"), 100);
    onTestFinished(() => clearInterval(pressing));
    expect(await exited).toEqual([130, null]);
  });
});

describeWithRedis(servers, "keyward over Redis", () => {
  it("waits for the registered processes, and lists these processes with their keys", async () => {
    const redis = await startRedis(servers);
    onTestFinished(() => redis.stop());
    const folder = await newFolder();
    await writeFile(join(folder, "keyring"), exportKeyring(Keyring.generate("old")), { mode: 0o600 });
    const inner = new RedisStore(redis.url);
    const app = createKeyv({
      store: inner,
      keys: fileKeys(join(folder, "keyring")),
      namespace: "sessions",
      replica: { name: "web-1", heartbeatMs: 50, lapseMs: 5_000 },
    });
    onTestFinished(async () => {
      await app.disconnect();
      await inner.disconnect();
    });
    await app.set("session:1", secretValue);
    const flags = ["--keys", "file:keyring", "--store", `sessions=${redis.url}`];
    const listed = await keyward(folder, {}, "replicas", ...flags);
    expect(listed.stdout).toMatch(/\nsessions +web-1 +[\w-]{12} +1 +old +old:[0-9a-f]{8} +seen /);
    const rotated = await keyward(folder, {}, "rotate", "--new-key", "new", "--grace", "0s", ...flags);
    expect(rotated).toMatchObject({ exitCode: 0, stdout: 'rotation from key "old" to "new": done\n' });
    expect(await app.get("session:1")).toBe(secretValue);
  });
});
