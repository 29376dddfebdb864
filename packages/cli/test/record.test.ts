import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import KeyvRedis from "@keyv/redis";
import { type CreateKeyvOptions, createKeyv, exportKeyring, Keyring, type KeywardKeyv } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";
import { openAddressOf } from "../src/commands/record-address.ts";
import { type Ended, executable, keyward, keywardReading, startKeyward } from "./keyward-process.ts";
import { Terminal } from "./terminal.ts";

const servers = await findRedisServers();
const namespaced = ["--namespace", "sessions"];
// Keys of records may be secrets, so no error may repeat this one.
const key = "session:sk-7f3a";

type OpenStore = (folder: string) => SqliteStore | RedisStore;

/** A folder with a keyring, a store that an application uses, and the commands over both. */
async function begun(source: (folder: string) => string, open: OpenStore) {
  const folder = await mkdtemp(join(tmpdir(), "keyward-record-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  const keyring = join(folder, "production.keyring");
  await writeFile(keyring, exportKeyring(Keyring.generate("2026-11")), { mode: 0o600 });
  const stores = { KEYWARD_STORE_SESSIONS: source(folder) };
  const sources = { KEYWARD_KEYS: "file:production.keyring", ...stores };
  const inApplication = async <Result>(
    work: (sessions: KeywardKeyv) => Promise<Result>,
    options: Partial<CreateKeyvOptions> = { namespace: "sessions" },
  ): Promise<Result> => {
    const store = open(folder);
    const sessions = createKeyv({ store, keys: fileKeys(keyring), ...options });
    try {
      return await work(sessions);
    } finally {
      await sessions.disconnect();
      await store.disconnect();
    }
  };
  return {
    folder,
    stores,
    sources,
    inApplication,
    run: (...commandLine: readonly string[]) => keyward(folder, sources, ...commandLine),
    pipe: (input: string | Uint8Array, ...commandLine: readonly string[]) =>
      keywardReading(input, folder, sources, ...commandLine),
  };
}

const overSqlite = () =>
  begun(
    () => "sqlite:sessions.sqlite",
    (folder) => new SqliteStore(join(folder, "sessions.sqlite")),
  );

async function overRedis() {
  const redis = await startRedis(servers);
  onTestFinished(() => redis.stop());
  const tools = await begun(
    () => redis.url,
    () => new RedisStore(redis.url),
  );
  return { ...tools, url: redis.url };
}

function expectNoSecret(ended: Ended, ...secrets: readonly string[]): void {
  const printed = ended.stdout + ended.stderr;
  for (const secret of secrets) expect(printed).not.toContain(secret);
  expect(printed).not.toMatch(/\n {4}at /);
}

function expiryOf(raw: unknown): unknown {
  return typeof raw === "object" && raw !== null && "expires" in raw ? raw.expires : undefined;
}

async function expectSameValues({ inApplication, run, pipe }: Awaited<ReturnType<typeof begun>>): Promise<void> {
  const values: readonly (readonly [string, unknown, string])[] = [
    ["object", { user: "u-1007", roles: ["a", "b"], n: 1.5, none: null }, ""],
    ["string", 'a text: "quoted" é\u2028\u009b', ""],
    ["marked", ":base64:eA==", ""],
    ["number", 42, ""],
    ["date", { at: new Date(0) }, '{"at":"1970-01-01T00:00:00.000Z"}'],
    ["bytes", Buffer.from([0, 255, 1]), Buffer.from([0, 255, 1]).toString("base64")],
    ["parts", { b: Buffer.from("x"), i: 12n }, '{"b":"eA==","i":"12"}'],
  ];
  await inApplication(async (sessions) => {
    for (const [name, value] of values) await sessions.set(name, value, 600_000);
  });
  for (const [name, value, text] of values) {
    const { exitCode, stdout, stderr } = await run("record", "get", name, ...namespaced);
    expect({ name, exitCode }).toEqual({ name, exitCode: 0 });
    if (text === "") expect(JSON.parse(stdout)).toEqual(value);
    else expect(stdout).toBe(`${text}\n`);
    expect(stdout).not.toContain("\u009b");
    expect(stderr).toMatch(["bytes", "parts"].includes(name) ? /in base64/ : /^$/);
  }
  const json = await run("record", "get", "bytes", ...namespaced, "--json");
  expect(JSON.parse(json.stdout)).toEqual({ value: "AP8B", encoding: "base64" });

  const put = await pipe('{"step":"checkout","mark":":base64:eA=="}\n', "record", "put", key, ...namespaced);
  expect(put).toEqual({ exitCode: 0, stdout: "The record was written.\n", stderr: "" });
  expectNoSecret(put, "checkout");
  await pipe("a text\n", "record", "put", "text", "--text", ...namespaced, "--ttl", "1h");
  const beforeMs = Date.now();
  await inApplication(async (sessions) => {
    expect(await sessions.get(key)).toEqual({ step: "checkout", mark: ":base64:eA==" });
    expect(await sessions.get("text")).toBe("a text\n");
    const expires = expiryOf(await sessions.getRaw("text"));
    expect(expires).toBeGreaterThan(beforeMs);
    expect(expires).toBeLessThanOrEqual(Date.now() + 3_600_000);
    expect(expiryOf(await sessions.getRaw(key))).toBeUndefined();
  });
}

describe("keyward record over SQLite", () => {
  it("`get` prints what the application wrote, and the application reads what `put` wrote", async () => {
    await expectSameValues(await overSqlite());
  });

  it("reads a record only with the scope and the namespace of the record", async () => {
    const { inApplication, run, pipe } = await overSqlite();
    const scope = ["--scope", "tenant-7"];
    await inApplication((sessions) => sessions.set(key, "scoped"), { scope: "tenant-7" });
    expect(await run("record", "get", key, ...scope)).toMatchObject({ exitCode: 0, stdout: '"scoped"\n' });
    const unscoped = await run("record", "get", key);
    expect(unscoped).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(KEY_MISMATCH)") });
    expectNoSecret(unscoped, "scoped", key);
    expect((await run("record", "get", key, ...namespaced, ...scope)).stderr).toContain("(NO_RECORD)");
    expect((await pipe("7", "record", "put", "new", ...scope)).stdout).toBe("The record was written.\n");
    expect(await inApplication((sessions) => sessions.get("new"), { scope: "tenant-7" })).toBe(7);
  });

  it("writes nothing without the scope of the application, or with a scope that was never used", async () => {
    const { inApplication, run, pipe } = await overSqlite();
    const options = { namespace: "sessions", scope: "tenant-7" };
    await inApplication((sessions) => sessions.set("other", "value"), options);
    const put = ["record", "put", key, ...namespaced];
    const unscoped = await pipe("7", ...put);
    expect(unscoped).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(STORE_INVALID)") });
    expect(unscoped.stderr).toContain("`--scope <name>`");
    const misspelt = await pipe("7", ...put, "--scope", "tenant-77");
    expect(misspelt).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining('scope "tenant-77"') });
    expect((await run("record", "get", key, ...namespaced, "--scope", "tenant-7")).stderr).toContain("(NO_RECORD)");
    expect(await pipe("7", ...put, "--scope", "tenant-7")).toMatchObject({ exitCode: 0 });
    expect(await inApplication((sessions) => sessions.get(key), options)).toBe(7);
    const isNew = await pipe("8", ...put, "--scope", "tenant-8", "--empty-store", "sessions");
    expect(isNew.stderr).toContain("(KEY_MISMATCH)");
    // A store may have records with and without a scope, each in a namespace of its own.
    await inApplication((sessions) => sessions.set("other", "value"), { namespace: "unscoped" });
    expect(await pipe("9", "record", "put", key, "--namespace", "unscoped")).toMatchObject({ exitCode: 0 });
    expect(await inApplication((sessions) => sessions.get(key), { namespace: "unscoped" })).toBe(9);
  });

  it("exits with code 1 and prints NO_RECORD if there is no record, with and without --json", async () => {
    const { inApplication, run } = await overSqlite();
    await inApplication((sessions) => sessions.set("other", "value"));
    for (const command of [["record", "get"], ["inspect"]]) {
      const missing = await run(...command, key, ...namespaced);
      expect(missing).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(NO_RECORD)") });
      expectNoSecret(missing, key);
      const inJson = await run(...command, key, ...namespaced, "--json");
      expect(JSON.parse(inJson.stdout)).toMatchObject({ error: { code: "NO_RECORD" } });
    }
  });

  it("overwrites a record only with --yes, and never a record that it cannot decrypt", async () => {
    const { folder, inApplication, pipe, run } = await overSqlite();
    await inApplication((sessions) => sessions.set(key, "first"));
    const refused = await pipe('"second"', "record", "put", key, ...namespaced);
    expect(refused).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(NOT_CONFIRMED)") });
    expectNoSecret(refused, key, "second", "first");
    expect(await inApplication((sessions) => sessions.get(key))).toBe("first");
    const done = await pipe('"second"', "record", "put", key, ...namespaced, "--yes");
    expect(done.stdout).toBe("The record was overwritten.\n");
    expect(await inApplication((sessions) => sessions.get(key))).toBe("second");
    await writeFile(join(folder, "other"), exportKeyring(Keyring.generate("other")), { mode: 0o600 });
    for (const command of [
      ["put", key, "--yes"],
      ["get", key],
    ]) {
      const unknown = await pipe('"third"', "record", ...command, ...namespaced, "--keys", "file:other");
      expect(unknown).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(KEY_UNKNOWN)") });
      expectNoSecret(unknown, key, "third");
    }
    expect((await run("record", "get", key, ...namespaced)).stdout).toBe('"second"\n');
  });

  it("refuses a value that is not JSON, not UTF-8 or too long, and never repeats the value", async () => {
    const { inApplication, pipe, run } = await overSqlite();
    await inApplication((sessions) => sessions.set("other", "value"));
    const put = ["record", "put", key, ...namespaced];
    const invalid: readonly (readonly [string | Uint8Array, RegExp])[] = [
      ['{"password":"hunter2"', /is not JSON/],
      ["hunter2", /is not JSON/],
      ["", /is not JSON/],
      [Buffer.from([0xff, 0xfe]), /is not UTF-8/],
      [`"hunter2${"x".repeat(16 * 2 ** 20)}"`, /more than 16 MiB/],
    ];
    for (const [input, problem] of invalid) {
      const ended = await pipe(input, ...put);
      expect(ended).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringMatching(problem) });
      expectNoSecret(ended, "hunter2", key);
    }
    const deep = await pipe(`${"[".repeat(200_000)}${"]".repeat(200_000)}`, ...put);
    expect(deep).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(VALUE_INVALID)") });
    expect((await run("record", "get", key, ...namespaced)).stderr).toContain("(NO_RECORD)");
    expect((await pipe("null", ...put)).exitCode).toBe(0);
    expect((await run("record", "get", key, ...namespaced)).stdout).toBe("null\n");
  });

  it("refuses numbers that JavaScript cannot keep exactly, and writes all other numbers", async () => {
    const { inApplication, pipe, run } = await overSqlite();
    await inApplication((sessions) => sessions.set("other", "value"));
    const put = ["record", "put", key, ...namespaced, "--yes"];
    for (const number of ["12345678901234567890", "9007199254740993", "3.14159265358979323846", "1e400", "1e-400"]) {
      const ended = await pipe(`{"a": ["\\"7", ${number}]}`, ...put);
      expect(ended).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(VALUE_INVALID)") });
      expect(ended.stderr).toMatch(/in quotes.*`--text`/);
      expectNoSecret(ended, number, key);
    }
    expect((await run("record", "get", key, ...namespaced)).stderr).toContain("(NO_RECORD)");
    const exact =
      '[0,-0,-0.0,1.50,0.1,1E5,1e+2,100e-2,0.00001,1e21,9007199254740991,12345678901234567000,{"12345678901234567890":"9007199254740993"}]';
    expect(await pipe(exact, ...put)).toMatchObject({ exitCode: 0 });
    expect(await inApplication((sessions) => sessions.get(key))).toEqual(JSON.parse(exact.replaceAll("-0", "0")));
    expect((await pipe("12345678901234567890", ...put, "--text")).exitCode).toBe(0);
    expect((await pipe('"12345678901234567890"', ...put)).exitCode).toBe(0);
  });

  it("deletes nothing if SIGINT arrives after the confirmation", async () => {
    const { folder, inApplication, stores } = await overSqlite();
    await inApplication((sessions) => sessions.set(key, "value"));
    const keysFrom = JSON.stringify(new URL("../../keys-env/src/index.ts", import.meta.url).href);
    await writeFile(
      join(folder, "keyward.config.js"),
      `import { existsSync } from "node:fs";
      import { writeFile } from "node:fs/promises";
      import { setTimeout as pause } from "node:timers/promises";
      import { fileKeys } from ${keysFrom};
      export default { folder: import.meta.dirname, keys: async () => {
        await writeFile("opening", "");
        while (!existsSync("continue")) await pause(20);
        return fileKeys("production.keyring");
      } };`,
    );
    const child = startKeyward(folder, stores, "record", "delete", key, ...namespaced, "--yes");
    onTestFinished(() => void child.kill("SIGKILL"));
    const exited = once(child, "exit");
    await expect.poll(() => readdir(folder), { timeout: 20_000 }).toContain("opening");
    child.kill("SIGINT");
    await once(child.stderr, "data");
    await writeFile(join(folder, "continue"), "");
    expect(await exited).toEqual([130, null]);
    expect(await inApplication((sessions) => sessions.get(key))).toBe("value");
  });

  it("refuses a store in memory, and creates no file for a source with spaces", async () => {
    const { folder, pipe } = await overSqlite();
    const put = ["record", "put", key, ...namespaced];
    const memory = ["r= memory:", "r=sqlite::memory:", " memory:", "r= sqlite::memory: "];
    for (const source of memory) {
      for (const flags of [[], ["--empty-store", "r"]]) {
        const ended = await pipe("7", ...put, "--store", source, ...flags);
        expect(ended).toMatchObject({ exitCode: 2, stdout: "", stderr: expect.stringContaining("in the memory of a") });
      }
    }
    const missing = await pipe("7", ...put, "--store", " sqlite:nofile.sqlite");
    expect(missing).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("does not exist") });
    expect(await readdir(folder)).not.toContain("nofile.sqlite");
  });

  it.each([
    "new Map()",
    'new SqliteStore(":memory:")',
    "new MemoryStore().namespaced('a')",
    "new KeyvMemoryAdapter(new Map())",
  ])("writes nothing if a function of the configuration returns %s", async (made) => {
    const { folder, pipe } = await overSqlite();
    const file = (path: string) => JSON.stringify(new URL(`../../${path}`, import.meta.url).href);
    await writeFile(
      join(folder, "keyward.config.js"),
      `import { createRequire } from "node:module";
        import { SqliteStore } from ${file("store-sqlite/src/index.ts")};
        import { MemoryStore } from ${file("store-memory/src/index.ts")};
        const { KeyvMemoryAdapter } = createRequire(${file("core/src/index.ts")})("keyv");
        export default { folder: import.meta.dirname, stores: { r: () => ${made} } };`,
    );
    const ended = await pipe("7", "record", "put", key, "--store", "r");
    expect(ended).toMatchObject({ exitCode: 2, stdout: "", stderr: expect.stringContaining("in the memory of a") });
  });

  it("stops on SIGINT while it waits for the value", async () => {
    const { folder, inApplication, sources } = await overSqlite();
    await inApplication((sessions) => sessions.set("other", "value"));
    const { PATH = "", HOME = "" } = process.env;
    const line = ["--conditions", "development", executable, "record", "put", key];
    const child = spawn(process.execPath, line, { cwd: folder, env: { PATH, HOME, ...sources } });
    onTestFinished(() => void child.kill("SIGKILL"));
    child.stdin.on("error", () => undefined);
    const exited = once(child, "exit");
    // More than a pipe holds, so the end of this write shows that the command reads.
    await new Promise((resolve) => child.stdin.write(`"${"x".repeat(2 ** 20)}`, resolve));
    child.kill("SIGINT");
    expect(await exited).toEqual([130, null]);
  });

  it("deletes a record only after a confirmation, and prints whether there was a record", async () => {
    const { inApplication, run } = await overSqlite();
    await inApplication((sessions) => sessions.set(key, "value"));
    const refused = await run("record", "delete", key, ...namespaced);
    expect(refused).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(NOT_CONFIRMED)") });
    expectNoSecret(refused, key);
    expect(await inApplication((sessions) => sessions.get(key))).toBe("value");
    const deleted = await run("record", "delete", key, ...namespaced, "--yes");
    expect(deleted).toEqual({ exitCode: 0, stdout: "The record was deleted.\n", stderr: "" });
    expect(await inApplication((sessions) => sessions.get(key))).toBeUndefined();
    const again = await run("record", "delete", key, ...namespaced, "--yes", "--json");
    expect(again).toEqual({ exitCode: 0, stdout: '{"deleted":false}\n', stderr: "" });
  });

  it("asks on a terminal before it shows plaintext or deletes a record, and reads no value from a terminal", async () => {
    const { folder, inApplication, sources } = await overSqlite();
    await inApplication((sessions) => sessions.set(key, "shown after a yes"));
    const onTerminal = (command: string, ...flags: readonly string[]) =>
      new Terminal(folder, sources, "record", command, key, ...namespaced, ...flags);
    const no = onTerminal("get");
    await no.answer("The value is plaintext", "n");
    expect(await no.end()).toBe(1);
    expect(no.text).toContain("nothing was decrypted");
    expect(no.text).not.toContain("shown after a yes");
    const yes = onTerminal("get");
    await yes.answer("Go on?", "y");
    expect(await yes.end()).toBe(0);
    expect(yes.text).toContain('"shown after a yes"');
    const flagged = onTerminal("get", "--yes");
    expect(await flagged.end()).toBe(0);
    expect(flagged.text).toBe('"shown after a yes"\n');
    const typed = onTerminal("put");
    expect(await typed.end()).toBe(2);
    expect(typed.text).toContain("stdin, but stdin is a terminal");
    const deleted = onTerminal("delete");
    await deleted.answer("Go on?", "y");
    expect(await deleted.end()).toBe(0);
    expect(deleted.text).toContain("The record was deleted.");
  });

  it.each([
    ["Ctrl-D", (terminal: Terminal) => terminal.press("\x04")],
    ["Ctrl-C", (terminal: Terminal) => terminal.press("\x03")],
    ["SIGTERM", (terminal: Terminal) => terminal.signal("SIGTERM")],
  ])(
    "exits with code 130 on %s while it asks a question, and does not print the key of the record",
    async (_, stop) => {
      const { folder, inApplication, sources } = await overSqlite();
      await inApplication((sessions) => sessions.set(key, "a value"));
      const terminal = new Terminal(folder, sources, "record", "delete", key, ...namespaced);
      await terminal.waitFor("Go on?");
      stop(terminal);
      expect(await terminal.end()).toBe(130);
      expect(terminal.text).not.toContain(key);
      expect(terminal.text).not.toContain("top-level await");
      // The cursor is shown again.
      expect(terminal.printed.lastIndexOf("\x1b[?25h")).toBeGreaterThanOrEqual(
        terminal.printed.lastIndexOf("\x1b[?25l"),
      );
      expect(await inApplication((sessions) => sessions.get(key))).toBe("a value");
    },
  );

  it("refuses the records of the secrets service and of Keyward itself, also in stores that join namespace and key", () => {
    const refused = [
      ["keyward-service", "W"],
      ["keyward-service:a", "b"],
      ["keyward-", "service:W"],
      ["", "keyward-service:W"],
      ["", "keyward-service::W"],
      ["", "keyward:keyward-service:W"],
      ["", "namespace:keyward-service:W"],
      ["", "keyward:%reserved::check"],
      ["keyward", "%reserved::check"],
      ["keyward:%reserved", "check"],
      ["keyward:%reserved:", "check"],
      ["keyward:%reserved:", ":check"],
      ["%reserved", "check"],
      ["", "%reserved"],
      ["keyward:%res", "erved::check"],
    ] as const;
    for (const [namespace, each] of refused) {
      expect(() => openAddressOf(each, { namespace })).toThrow(expect.objectContaining({ code: "USAGE" }));
    }
    expect(openAddressOf("service", { namespace: "keyward" })).toEqual({ namespace: "keyward", key: "service" });
  });

  it("refuses records of the secrets service before it opens keys or stores, and inspects their headers", async () => {
    const { inApplication, run } = await overSqlite();
    const service = ["--namespace", "keyward-service"];
    await inApplication((keyv) => keyv.set(key, "secret of a service"), { namespace: "keyward-service" });
    for (const command of ["get", "put", "delete"]) {
      const refused = await run("record", command, key, ...service, "--yes", "--keys", "file:gone");
      expect(refused).toMatchObject({ exitCode: 2, stdout: "", stderr: expect.stringContaining("(USAGE)") });
      expectNoSecret(refused, "secret of a service", key);
    }
    expect((await run("inspect", key, ...service)).stdout).toMatch(/^key +2026-11$/m);
    expect(await inApplication((keyv) => keyv.get(key), { namespace: "keyward-service" })).toBe("secret of a service");
  });

  it.each([
    [["inspect"], /missing required argument 'key'/],
    [["inspect", ""], /The key of the record is empty/],
    [["record", "get", "one", key], /too many arguments for 'get'. Expected 1 argument but got 2\.$/m],
    [["inspect", `-${key}`], /unknown option \(not shown\)$/m],
    [["record", key], /unknown command \(not shown\)$/m],
    [["record", "put", "one", "--ttl", "0s"], /The duration must be longer than 0/],
    [["record", "put", "one", "--ttl", "7"], /A duration is a number and a unit/],
    [["record", "put", "one", "--ttl", "99999999999999999d"], /longer than 100,000 years/],
    [["record", "put", "one", "--ttl", "9007199254740993ms"], /longer than 100,000 years/],
    [["rotate", "--grace", `${"9".repeat(400)}d`], /longer than 100,000 years/],
    [["record", "get", "one", "--keys", "file:x"], /No store is set/],
    [["record", "get", "one", "--store", "sqlite:a"], /The source of the keys is not set/],
    [
      ["inspect", "one", "--store", "a=sqlite:a", "--store", "b=sqlite:b"],
      /2 are named \(USAGE\)\nPass the flag --store once/,
    ],
  ])("makes %j exit with code 2 and print no key of a record", async (commandLine, stderr) => {
    for (const flags of [[], ["--json"]]) {
      const ended = await keyward(tmpdir(), {}, ...commandLine, ...flags);
      expect(ended.exitCode).toBe(2);
      expect(flags.length === 0 ? ended.stderr : ended.stderr + ended.stdout).toMatch(
        flags.length === 0 ? stderr : /USAGE/,
      );
      expectNoSecret(ended, key);
    }
  });

  it("lists the stores of the environment variables in the error if the command needs one of them", async () => {
    const { folder, stores, inApplication } = await overSqlite();
    await inApplication((sessions) => sessions.set(key, "value"));
    const env = { ...stores, KEYWARD_STORE_FLOWS: "sqlite:gone.sqlite" };
    const several = await keyward(folder, env, "inspect", key, ...namespaced);
    expect(several).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("`--store flows` or `--store sessions`"),
    });
    expect((await keyward(folder, env, "inspect", key, ...namespaced, "--store", "sessions")).exitCode).toBe(0);
  });

  it("exits with an error message if the store is a text file, a directory, or was never used", async () => {
    const { folder, run, pipe } = await overSqlite();
    await writeFile(join(folder, "text"), "This is no database, but a text of some length. ".repeat(99));
    await mkdir(join(folder, "directory"));
    for (const [source, code] of [
      ["sqlite:text", "STORE_INVALID"],
      ["sqlite:directory", "STORE_"],
      ["sqlite:sessions.sqlite", "STORE_INVALID"],
    ] as const) {
      const ends = [
        await run("inspect", key, "--store", source),
        await run("record", "get", key, "--store", source),
        await pipe("7", "record", "put", key, "--store", source),
      ];
      for (const ended of ends) {
        expect(ended).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining(`(${code}`) });
        expectNoSecret(ended, key);
      }
    }
  });
});

describe("keyward inspect", () => {
  it("shows the header of a record without keys, and no part of the value or of the envelope's body", async () => {
    const { folder, stores, inApplication } = await overSqlite();
    const value = "a value that no command prints";
    await inApplication((sessions) => sessions.set(key, value, 600_000));
    const inspect = (...flags: readonly string[]) => keyward(folder, stores, "inspect", key, ...namespaced, ...flags);
    const shown = await inspect("--scope", "tenant-7");
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    store.namespace = "sessions";
    const stored = await store.get(key);
    await store.disconnect();
    if (!(stored instanceof Uint8Array)) throw new TypeError("SQLite stores bytes");
    expect(shown).toMatchObject({ exitCode: 0, stderr: "" });
    expect(shown.stdout.split("\n").map((line) => line.split(/ {2,}/))).toEqual([
      ["store", "sessions"],
      ["record", "an envelope, version 1"],
      ["form", "binary"],
      ["key", "2026-11"],
      ["size", `${stored.length} bytes`],
      ["scope", "tenant-7"],
      ["expires", expect.any(String)],
      [""],
    ]);
    const json = await inspect("--json");
    const header = { kind: "envelope", version: 1, form: "binary", keyId: "2026-11", sizeBytes: stored.length };
    expect(JSON.parse(json.stdout)).toEqual({ store: "sessions", scope: null, ...header });
    const body = Buffer.from(stored).subarray("kw1:2026-11:".length);
    for (const ended of [shown, json]) {
      expectNoSecret(ended, value, key);
      const printed = ended.stdout.toLowerCase();
      for (let at = 0; at + 6 <= body.length; at++) {
        const piece = body.subarray(at, at + 6);
        expect(printed).not.toContain(piece.toString("hex"));
        expect(ended.stdout).not.toContain(piece.toString("base64"));
        expect(ended.stdout).not.toContain(piece.toString("base64url"));
      }
    }
  });

  it("shows why an envelope is broken, and the form of a record that is not an envelope", async () => {
    const { folder, stores, inApplication } = await overSqlite();
    await inApplication((sessions) => sessions.set("other", "value"));
    const store = new SqliteStore(join(folder, "sessions.sqlite"));
    store.namespace = "sessions";
    await store.set("broken", "kw1.2026-11.AAAA");
    await store.set("later", "kw2.2026-11.AAAA");
    await store.set("foreign", JSON.stringify({ iv: "x", hunter2: "hunter3" }));
    await store.disconnect();
    const inspect = (name: string) => keyward(folder, stores, "inspect", name, ...namespaced);
    const broken = await inspect("broken");
    expect(broken.exitCode).toBe(0);
    expect(broken.stdout).toMatch(/^problem +A record is a broken envelope: it is cut short \(RECORD_MALFORMED\)$/m);
    expect(broken.stdout).toMatch(/^key +2026-11$/m);
    expect((await inspect("later")).stdout).toMatch(/^problem +.*version 2 \(ENVELOPE_UNSUPPORTED\)$/m);
    const foreign = await inspect("foreign");
    expect(foreign.stdout).toMatch(/^shape +JSON object \{ iv, 1 other field \}$/m);
    expectNoSecret(foreign, "hunter");
  });

  it("shows the scope that a function of the configuration returns, and leaves out the scope if the function fails", async () => {
    const { folder, inApplication } = await overSqlite();
    const secret = randomBytes(9).toString("hex");
    await inApplication((sessions) => sessions.set("a", secret));
    await inApplication((sessions) => sessions.set("b", secret));
    await writeFile(
      join(folder, "keyward.config.js"),
      `export default {
        folder: import.meta.dirname,
        stores: { sessions: "sqlite:sessions.sqlite" },
        scope: ({ key }) => { if (key === "b") throw new Error(key); return "tenant-" + key; },
      };`,
    );
    expect((await keyward(folder, {}, "inspect", "a", ...namespaced)).stdout).toMatch(/^scope +tenant-a$/m);
    const failed = await keyward(folder, {}, "inspect", "b", ...namespaced);
    expect(failed).toMatchObject({ exitCode: 0, stdout: expect.not.stringContaining("scope") });
  });
});

describeWithRedis(servers, "keyward record over Redis", () => {
  it("`get` prints what the application wrote, and the application reads what `put` wrote", async () => {
    const tools = await overRedis();
    await expectSameValues(tools);
    const shown = await keyward(tools.folder, tools.stores, "inspect", key, ...namespaced);
    expect(shown.stdout).toMatch(/^key +2026-11$/m);
    expect((await tools.run("record", "delete", key, ...namespaced, "--yes")).stdout).toBe("The record was deleted.\n");
    expect(await tools.inApplication((sessions) => sessions.get(key))).toBeUndefined();
  });

  it("exits with an error message if no server answers, or if the store was never used", async () => {
    const { run, pipe } = await overRedis();
    const closed = createServer().listen(0, "127.0.0.1");
    await once(closed, "listening");
    const address = closed.address();
    const port = typeof address === "object" ? address?.port : undefined;
    closed.close();
    const unreachable = `redis://user:hunter2@127.0.0.1:${port}?timeoutMs=500`;
    const ends = [
      await run("inspect", key, "--store", unreachable),
      await run("record", "get", key, "--store", unreachable),
      await pipe("7", "record", "put", key, "--store", unreachable),
      await run("record", "delete", key, "--yes", "--store", unreachable, "--empty-store", "records"),
    ];
    for (const ended of ends) {
      expect(ended).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("(STORE_UNAVAILABLE)") });
      expectNoSecret(ended, key, "hunter2");
    }
    const unused = await run("inspect", key);
    expect(unused).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("--empty-store sessions") });
  });

  it("reads and writes records in the form of @keyv/redis, and refuses records of the secrets service by their joined key", async () => {
    const { folder, url } = await overRedis();
    const redisPackage = new URL("../../store-redis/", import.meta.url);
    await writeFile(
      join(folder, "keyward.config.js"),
      `import { createRequire } from "node:module";
      import { keyvRedis } from ${JSON.stringify(new URL("src/index.ts", redisPackage).href)};
      const { default: KeyvRedis } = createRequire(${JSON.stringify(new URL("test/", redisPackage).href)})("@keyv/redis");
      export default {
        folder: import.meta.dirname,
        keys: "file:production.keyring",
        stores: { sessions: () => keyvRedis(new KeyvRedis(${JSON.stringify(url)})) },
      };`,
    );
    const raw = new KeyvRedis(url);
    onTestFinished(() => raw.disconnect());
    const pipe = (...commandLine: readonly string[]) => keywardReading('"value"', folder, {}, ...commandLine);
    const put = await pipe("record", "put", key, ...namespaced);
    expect(put).toMatchObject({ exitCode: 0, stdout: "The record was written.\n", stderr: "" });
    expect((await pipe("record", "get", key, ...namespaced)).stdout).toBe('"value"\n');
    raw.namespace = "sessions";
    expect(await raw.get(key)).toMatch(/^kw1\.2026-11\./);
    raw.namespace = "keyward-service";
    await raw.set("W", "kw1.2026-11.AAAA");
    for (const command of ["get", "put", "delete"]) {
      const refused = await pipe("record", command, "keyward-service::W", "--yes");
      expect(refused).toMatchObject({ exitCode: 2, stdout: "", stderr: expect.stringContaining("(USAGE)") });
    }
    expect(await raw.get("W")).toBe("kw1.2026-11.AAAA");
    // The check record of a RedisStore in the same database.
    const store = new RedisStore(url);
    onTestFinished(() => store.disconnect());
    await store.reserved().set("check", "kw1.2026-11.AAAA");
    const reserved = ["check", "--namespace", "keyward:%reserved", "--yes"];
    for (const command of ["get", "put", "delete"]) {
      expect(await pipe("record", command, ...reserved)).toMatchObject({ exitCode: 2, stdout: "" });
    }
    expect(await store.reserved().get("check")).toBeDefined();
    expect((await pipe("inspect", "keyward-service::W")).stdout).toMatch(/^key +2026-11$/m);
  });
});
