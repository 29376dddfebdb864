import { execFile } from "node:child_process";
import {
  chmod,
  chown,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  realpath,
  rm,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { Keyring, KeywardError } from "@keyward/core";
import { describe, expect, it, onTestFinished } from "vitest";
import { type ConfigOptions, defineConfig } from "../src/index.ts";
import { keyward } from "./keyward-process.ts";
import { Terminal } from "./terminal.ts";

const run = promisify(execFile);
const sources = { keys: "file:production.keyring", stores: { sessions: "sqlite:sessions.sqlite" } };

async function newFolder(): Promise<string> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), "keyward-config-")));
  onTestFinished(() => rm(folder, { recursive: true }));
  return folder;
}

/** A folder with a configuration in JSON, its keyring and its store. */
async function configured(change: object = {}): Promise<string> {
  const folder = await newFolder();
  expect(await keyward(folder, {}, "init", "--id", "first")).toMatchObject({ exitCode: 0, stderr: "" });
  await writeFile(join(folder, "keyward.config.json"), JSON.stringify({ ...sources, ...change }));
  return folder;
}

/** Lets files in a folder import the packages of this workspace by their names. */
async function linkPackages(folder: string): Promise<void> {
  await mkdir(join(folder, "node_modules", "@keyward"), { recursive: true });
  await writeFile(join(folder, "package.json"), '{ "type": "module" }');
  const packages = join(dirname(fileURLToPath(import.meta.url)), "../..");
  await symlink(join(packages, "cli"), join(folder, "node_modules/keyward"));
  for (const name of ["core", "store-sqlite"]) {
    await symlink(join(packages, name), join(folder, "node_modules/@keyward", name));
  }
}

describe("a configuration file", () => {
  it("is found from a folder below, and its relative paths are resolved against its own folder", async () => {
    const folder = await configured();
    const below = join(folder, "a/b");
    await mkdir(below, { recursive: true });
    const shown = await keyward(below, {}, "keyring", "show");
    expect(shown).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^first +primary/m) });
    expect(await keyward(below, {}, "census")).toMatchObject({ exitCode: 0 });
  });

  it.each([
    ["package.json", (folder: string) => writeFile(join(folder, "package.json"), "{}")],
    [".git", (folder: string) => mkdir(join(folder, ".git"))],
  ])("is not looked for above a folder with %s", async (_, mark) => {
    const folder = await configured();
    const below = join(folder, "application");
    await mkdir(below);
    await mark(below);
    const shown = await keyward(below, {}, "keyring", "show");
    expect(shown).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("The source of the keys is not set") });
  });

  it("is not looked for above the home directory", async () => {
    const folder = await configured();
    const home = join(folder, "home");
    await mkdir(home);
    expect(await keyward(home, { HOME: home }, "keyring", "show")).toMatchObject({ exitCode: 2 });
    expect(await keyward(home, {}, "keyring", "show")).toMatchObject({ exitCode: 0 });
  });

  it.each([
    ["other users may write to the file", (folder: string) => chmod(join(folder, "keyward.config.json"), 0o666)],
    ["other users may write to its folder", (folder: string) => chmod(folder, 0o777)],
    [
      "other users may write to a folder between the working directory and the file",
      (folder: string) => chmod(join(folder, "below"), 0o777),
    ],
    [
      "a group of several users may write to its folder",
      async (folder: string) => {
        await chmod(folder, 0o770);
        const { uid } = await stat(folder);
        if (process.getuid?.() === 0) await chown(folder, uid, 12_345);
      },
    ],
    [
      "the file is a link to a file that other users could replace",
      async (folder: string) => {
        const other = await newFolder();
        await writeFile(join(other, "keyward.config.json"), JSON.stringify(sources));
        await rm(join(folder, "keyward.config.json"));
        await symlink(join(other, "keyward.config.json"), join(folder, "keyward.config.json"));
      },
    ],
  ])("is refused if %s", async (_, weaken) => {
    const folder = await configured();
    await mkdir(join(folder, "below"));
    await weaken(folder);
    const shown = await keyward(join(folder, "below"), {}, "keyring", "show");
    expect(shown).toMatchObject({ exitCode: 2, stdout: "" });
    expect(shown.stderr).toMatch(/Other users may write|symbolic link/);
  });

  it.runIf(process.getuid?.() === 0)("is refused if the file or its folder belongs to another user", async () => {
    const folder = await configured();
    for (const place of ["", "keyward.config.json"]) {
      await chown(join(folder, place), 12_345, 12_345);
      const shown = await keyward(folder, {}, "keyring", "show");
      expect(shown).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("Another user owns") });
      await chown(join(folder, place), 0, 0);
    }
    expect(await keyward(folder, {}, "keyring", "show")).toMatchObject({ exitCode: 0 });
  });

  it("is refused before its code runs if other users may write to the file", async () => {
    const folder = await newFolder();
    await writeFile(join(folder, "keyward.config.js"), 'process.stdout.write("the code ran\\n");', { mode: 0o666 });
    await chmod(join(folder, "keyward.config.js"), 0o666);
    expect(await keyward(folder, {}, "keyring", "show")).toMatchObject({ exitCode: 2, stdout: "" });
  });

  it.runIf(process.getuid?.() === 0)(
    "is refused if it could import a package that another user has put into a folder above",
    async () => {
      const shared = await newFolder();
      await chmod(shared, 0o1777);
      const folder = join(shared, "mine");
      await mkdir(folder, { mode: 0o755 });
      const planted = join(shared, "node_modules/keyward");
      await mkdir(planted, { recursive: true });
      await writeFile(
        join(planted, "package.json"),
        '{ "name": "keyward", "type": "module", "exports": "./index.js" }',
      );
      await writeFile(
        join(planted, "index.js"),
        'process.stdout.write("the code ran\\n"); export const defineConfig = (all) => all;',
      );
      await chown(join(shared, "node_modules"), 12_345, 12_345);
      expect((await keyward(folder, {}, "init")).stdout).toContain("keyward.config.json names");
      await rm(join(folder, "keyward.config.json"));
      await writeFile(
        join(folder, "keyward.config.js"),
        'import { defineConfig } from "keyward"; export default defineConfig({});',
      );
      const shown = await keyward(folder, {}, "keyring", "show");
      expect(shown).toMatchObject({
        exitCode: 2,
        stdout: "",
        stderr: expect.stringContaining("Other users may change"),
      });
    },
  );

  it("is refused if its folder has a second configuration file", async () => {
    const folder = await configured();
    await writeFile(join(folder, "keyward.config.js"), "");
    const shown = await keyward(folder, {}, "keyring", "show");
    expect(shown).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("has both") });
  });

  it.each<[string, string, RegExp]>([
    ["keyward.config.json", '{"keys": "file:a",\n  stores: 1}', /is not JSON \(line 2 column 3\)/],
    ["keyward.config.json", "[]", /The configuration must be an object/],
    ["keyward.config.js", "export const keys = 1;", /has no default export/],
    ["keyward.config.js", "", /The source of the keys is not set/],
    ["keyward.config.json", '{"folder": "."}', /folder must be the absolute path/],
    ["keyward.config.js", "export default { inEnvironment: 1 }", /inEnvironment is not a setting/],
    ["keyward.config.js", 'export default { "redis://u:a secret@h": 1 }', /a name that is not shown/],
    ["keyward.config.js", "export default {", /it has a syntax error/],
    ["keyward.config.js", 'throw new Error("a secret")', /Error was thrown/],
    ["keyward.config.js", 'import "gone"; export default {}', /Cannot find package 'gone'/],
    ["keyward.config.ts", "export default { keys: 1 as number }", /keys must be a text/],
  ])("is refused with an error that names the mistake: %s with %j", async (name, text, problem) => {
    const folder = await newFolder();
    await writeFile(join(folder, name), text);
    const shown = await keyward(folder, {}, "keyring", "show");
    expect(shown).toMatchObject({ exitCode: 2, stdout: "" });
    if (text !== "") expect(shown.stderr).toContain(join(folder, name));
    expect(shown.stderr).toMatch(problem);
    expect(shown.stderr).not.toMatch(/a secret|\n {4}at /);
  });

  it.each<[object, RegExp]>([
    [{ key: "file:a" }, /key is not a setting\. The settings here are keys, stores/],
    [{ stores: { "a b": "memory:", b: 3 } }, /stores\.a b is not a valid name.*stores\.b must be a text/],
    [
      { rotation: { graceMs: -1, perSecond: 3 } },
      /rotation\.perSecond is not a setting.*rotation\.graceMs must be an integer/,
    ],
    [
      { environments: { production: { keys: "", folder: "/" } } },
      /environments\.production\.folder is not a setting.*environments\.production\.keys must be/,
    ],
    [{ scope: 4, accept: "plaintext" }, /scope must be.*accept must be a list/],
    [{ gateway: "sqlite:a.db" }, /gateway must be an object/],
    [
      { gateway: { store: "", audit: "sqlite:a.db", url: "x" } },
      /gateway\.url is not a setting.*gateway\.store must be a text.*gateway\.audit must be the path of a file/,
    ],
    [
      { stores: { audit: "sqlite:c.db" }, gateway: { store: "sqlite:a.db", audit: "b.db" } },
      /stores\.audit has the name of a store that the setting `gateway` has already/,
    ],
  ])("is refused with an error that names the place of each mistake: %j", (options, problem) => {
    let thrown: unknown;
    try {
      defineConfig(JSON.parse(JSON.stringify(options)));
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(KeywardError);
    expect(thrown).toMatchObject({ code: "VALUE_INVALID", message: expect.stringMatching(problem) });
  });

  it("contains environments, of which --env or KEYWARD_ENV chooses one", async () => {
    const folder = await configured({ environments: { production: { keys: "file:other.keyring" } } });
    await keyward(folder, {}, "keygen", "--format", "keyring", "--id", "other", "--out", "other.keyring");
    const chosen = [
      await keyward(folder, {}, "keyring", "show", "--env", "production"),
      await keyward(folder, { KEYWARD_ENV: "production" }, "keyring", "show"),
    ];
    for (const { stdout } of chosen) expect(stdout).toMatch(/^other +primary/m);
    expect((await keyward(folder, {}, "keyring", "show")).stdout).toMatch(/^first +primary/m);
    const unknown = await keyward(folder, {}, "keyring", "show", "--env", "staging");
    expect(unknown).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("has the environments production") });
  });

  it("is overridden by environment variables, and these are overridden by flags", async () => {
    const folder = await configured();
    for (const id of ["variable", "flag"]) {
      await keyward(folder, {}, "keygen", "--format", "keyring", "--id", id, "--out", `${id}.keyring`);
    }
    const env = { KEYWARD_KEYS: "file:variable.keyring" };
    expect((await keyward(folder, env, "keyring", "show")).stdout).toMatch(/^variable +primary/m);
    const byFlag = await keyward(folder, env, "keyring", "show", "--keys", "file:flag.keyring");
    expect(byFlag.stdout).toMatch(/^flag +primary/m);
  });

  it("supplies the source of a store if --store passes only the name", async () => {
    const folder = await configured({ stores: { sessions: "sqlite:sessions.sqlite", flows: "sqlite:flows.sqlite" } });
    const one = await keyward(folder, {}, "census", "--store", "sessions", "--json");
    expect(one).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/^\{"stores":\{"sessions":/) });
    const both = await keyward(folder, {}, "census");
    expect(both).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining("The file of the store flows does not"),
    });
    const unknown = await keyward(folder, {}, "census", "--store", "session");
    expect(unknown).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("The names are: sessions, flows") });
  });

  it("sets the grace of a rotation, which --grace overrides", async () => {
    const folder = await configured({ rotation: { graceMs: 0, unregisteredMs: 0 } });
    const { stdout } = await keyward(folder, {}, "rotate", "--dry-run", "--json");
    expect(JSON.parse(stdout).steps).toContainEqual({ step: "grace", waitMs: 0 });
    const other = await keyward(folder, {}, "rotate", "--dry-run", "--json", "--grace", "2h");
    expect(JSON.parse(other.stdout).steps).toContainEqual({ step: "grace", waitMs: 7_200_000 });
    expect(await keyward(folder, {}, "rotate", "--new-key", "second")).toMatchObject({
      exitCode: 0,
      stdout: 'rotation from key "first" to "second": done\n',
    });
  });

  it("configures an application and the command in any working directory, if the file is in TypeScript", async () => {
    const folder = await newFolder();
    await linkPackages(folder);
    const { stdout } = await keyward(folder, {}, "init", "--id", "first");
    expect(stdout).toContain("keyward.config.ts names the keys and the stores.");
    const application = [
      'import { createKeyv } from "@keyward/core";',
      'import config from "./keyward.config.ts";',
      'const sessions = createKeyv({ ...(await config.store("sessions")), namespace: "sessions" });',
      'await sessions.set("session:42", { step: "checkout" });',
      'console.log(JSON.stringify(await sessions.get("session:42")));',
      "await sessions.disconnect();",
    ];
    await writeFile(join(folder, "application.ts"), application.join("\n"));
    const elsewhere = await newFolder();
    const ran = await run(process.execPath, ["--conditions", "development", join(folder, "application.ts")], {
      cwd: elsewhere,
    });
    expect(ran).toEqual({ stdout: '{"step":"checkout"}\n', stderr: "" });
    const counted = await keyward(folder, {}, "census", "--json");
    expect(JSON.parse(counted.stdout)).toMatchObject({
      stores: { sessions: { records: 1, recordsByKey: { first: 1 } } },
    });
  });

  it("may define a store by a function, which the application and the command call", async () => {
    const folder = await newFolder();
    await linkPackages(folder);
    await keyward(folder, {}, "init", "--id", "first");
    const text = [
      'import { join } from "node:path";',
      'import { SqliteStore } from "@keyward/store-sqlite";',
      'import { defineConfig } from "keyward";',
      "export default defineConfig({",
      "  folder: import.meta.dirname,",
      '  keys: "file:production.keyring",',
      '  stores: { sessions: () => new SqliteStore(join(import.meta.dirname, "sessions.sqlite")) },',
      '  scope: () => "tenant",',
      "});",
    ];
    await writeFile(join(folder, "keyward.config.ts"), text.join("\n"));
    expect(await keyward(folder, {}, "census")).toMatchObject({ exitCode: 0 });
  });
});

describe("the code of a configuration", () => {
  const inFolder = async (text: string) => {
    const folder = await newFolder();
    await writeFile(join(folder, "package.json"), '{ "type": "module" }');
    await writeFile(join(folder, "keyward.config.js"), text);
    return folder;
  };

  it.each<[string, string, number, RegExp]>([
    ["throws", 'export default { keys: () => { throw new Error("a secret") } }', 1, /keys: the function throws Error/],
    ["returns no key provider", "export default { keys: () => 1 }", 1, /does not return a key provider/],
    [
      "never finishes",
      "export default { keys: () => new Promise(() => {}) }",
      1,
      /waits for a promise that never settles/,
    ],
    [
      "rejects in the background",
      'void Promise.reject(new Error("a secret")); export default { keys: () => new Promise((resolve) => setTimeout(resolve, 60_000)) }',
      1,
      /An error was thrown in the background/,
    ],
    [
      "throws in the background",
      'setTimeout(() => { throw new Error("a secret") }); export default { keys: () => new Promise((resolve) => setTimeout(resolve, 60_000)) }',
      1,
      /An error was thrown in the background/,
    ],
  ])("makes the command fail without a secret in its output if the code %s", async (_, text, exitCode, problem) => {
    const folder = await inFolder(text);
    const shown = await keyward(folder, {}, "keyring", "show");
    expect(shown).toMatchObject({ exitCode, stdout: "", stderr: expect.stringMatching(problem) });
    expect(shown.stderr).not.toMatch(/a secret|\n {4}at |top-level await/);
  });

  it("does not keep the command running by a timer that repeats forever", async () => {
    const folder = await inFolder('setInterval(() => {}, 1_000); export default { keys: "env:APP_KEY" }');
    const { stdout: key } = await keyward(folder, {}, "keygen");
    const shown = await keyward(folder, { APP_KEY: key.trim() }, "keyring", "show");
    expect(shown).toMatchObject({ exitCode: 0, stderr: "" });
  });
});

describe("an empty flag", () => {
  it.each([["--keys"], ["--env"], ["--scope"], ["--store"]])("is refused: %s", async (flag) => {
    const folder = await configured();
    const shown = await keyward(folder, {}, "census", flag, "");
    expect(shown).toMatchObject({
      exitCode: 2,
      stdout: "",
      stderr: expect.stringContaining(`The flag ${flag} is empty`),
    });
  });
});

describe("config.store()", () => {
  const keys = () => Keyring.generate("one");

  it("returns the stores of the secrets service, with the scopes of the service's records", async () => {
    const gateway = { store: "sqlite::memory:", audit: "audit.db" };
    const config = defineConfig({ folder: "/", stores: { app: "memory:" }, scope: "tenant", gateway });
    expect(config.storeNames).toEqual(["app", "service", "audit"]);
    expect([config.sourceOf("app"), config.sourceOf("audit"), config.sourceOf("none")]).toEqual([
      "memory:",
      "sqlite:audit.db",
      "",
    ]);
    expect(await config.scopeOf("app")).toBe("tenant");
    for (const name of ["service", "audit"]) {
      const scope = await config.scopeOf(name);
      if (typeof scope !== "function") throw new TypeError("The scope depends on the record");
      expect(scope({ namespace: "keyward-service", key: "workspace/abcdefghijkl" })).toBe("abcdefghijkl/config");
      expect(scope({ namespace: "keyward-audit", key: "service/lookup" })).toBe("service/audit");
      expect(scope({ namespace: "sessions", key: "service/lookup" })).toBe("tenant");
    }
    expect(await defineConfig({ stores: { app: "memory:" } }).scopeOf("app")).toBeUndefined();
  });

  it("returns the same keys for every store, and refuses unknown stores", async () => {
    const provider = { load: async () => keys() };
    const config = defineConfig({ keys: () => provider, stores: { a: "memory:", b: "memory:" } });
    expect((await config.store("a")).keys).toBe(provider);
    expect((await config.store("b")).keys).toBe(provider);
    await expect(config.store("c")).rejects.toMatchObject({
      code: "VALUE_INVALID",
      hint: expect.stringContaining("has the stores a, b"),
    });
    await expect(config.store("constructor")).rejects.toMatchObject({ code: "VALUE_INVALID" });
  });

  it.each<[ConfigOptions, RegExp]>([
    [{ keys: "file:a.keyring", stores: { a: "memory:" } }, /^keys has a relative path/],
    [{ keys: "file:/a.keyring", stores: { a: "sqlite:a.sqlite" } }, /^stores\.a has a relative path/],
    [{ keys: "aws-kms://region/key?place=file:a", stores: { a: "memory:" } }, /^keys has a relative path/],
    [{ stores: { a: "memory:" } }, /^The configuration has no keys/],
  ])("rejects if the configuration has no keys, or a relative path without a folder: %j", async (options, problem) => {
    await expect(defineConfig(options).store("a")).rejects.toMatchObject({
      code: "VALUE_INVALID",
      message: expect.stringMatching(problem),
    });
  });
});

describe("keyward init", () => {
  it("writes a configuration, a keyring and a .gitignore, so that the next command can rotate the key", async () => {
    const folder = await newFolder();
    await writeFile(join(folder, ".gitignore"), "dist");
    const begun = await keyward(folder, {}, "init", "--id", "first");
    expect(begun).toMatchObject({ exitCode: 0, stderr: "" });
    expect(await readFile(join(folder, ".gitignore"), "utf8")).toBe("dist\n/production.keyring*\n/sessions.sqlite*\n");
    expect((await stat(join(folder, "production.keyring"))).mode & 0o777).toBe(0o600);
    expect(JSON.parse(await readFile(join(folder, "keyward.config.json"), "utf8"))).toEqual(sources);
    const { material } = JSON.parse(await readFile(join(folder, "production.keyring"), "utf8")).keys[0];
    expect(begun.stdout).not.toContain(material);
    const rotated = await keyward(folder, {}, "rotate", "--new-key", "second", "--unregistered", "0s", "--grace", "0s");
    expect(rotated.stdout).toBe('rotation from key "first" to "second": done\n');
  });

  it.each([
    ["module", "ts"],
    ["commonjs", "json"],
  ])("writes a file that can be loaded in a folder whose package has the type %s", async (type, format) => {
    const folder = await newFolder();
    await linkPackages(folder);
    await writeFile(join(folder, "package.json"), JSON.stringify({ type }));
    const begun = await keyward(folder, {}, "init");
    expect(begun.stdout).toContain(`keyward.config.${format} names the keys and the stores.`);
    expect(await keyward(folder, {}, "census")).toMatchObject({ exitCode: 0 });
  });

  it("changes nothing in a folder with a configuration", async () => {
    const folder = await configured();
    const before = await readFile(join(folder, "production.keyring"), "utf8");
    const again = await keyward(folder, {}, "init");
    expect(again).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("already, so nothing was written") });
    expect(await readFile(join(folder, "production.keyring"), "utf8")).toBe(before);
  });

  it("does not replace an existing keyring", async () => {
    const folder = await configured();
    await rm(join(folder, "keyward.config.json"));
    const before = await readFile(join(folder, "production.keyring"), "utf8");
    expect((await keyward(folder, {}, "init")).stdout).toContain("The keyring exists already, and was not changed.");
    expect(await readFile(join(folder, "production.keyring"), "utf8")).toBe(before);
  });

  it("writes no password into the configuration, and prints none", async () => {
    const folder = await newFolder();
    const refused = await keyward(folder, {}, "init", "--store", "sessions=redis://:hunter2@localhost");
    expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("KEYWARD_STORE_SESSIONS") });
    expect(refused.stdout + refused.stderr).not.toContain("hunter2");
    await expect(stat(join(folder, "production.keyring"))).rejects.toThrow("ENOENT");
  });

  it.each([
    ["a password with a slash", "sessions=redis://:pa/ss@127.0.0.1:1"],
    ["a store in memory", "sessions=memory:"],
    ["two stores of one name", "--store", "sessions=sqlite:a"],
    ["a scheme that does not exist", "sessions=ftp://records"],
  ])("refuses %s, and writes nothing", async (_, ...flags) => {
    const folder = await newFolder();
    const stores = flags[0] === "--store" ? ["sessions=sqlite:b", ...flags] : flags;
    const refused = await keyward(folder, {}, "init", "--store", ...stores);
    expect(refused.exitCode).not.toBe(0);
    expect(refused.stdout + refused.stderr).not.toContain("pa/ss");
    expect(await readdir(folder)).toEqual([]);
  });

  it.each([
    "file:[prod].keyring",
    " file:prod.keyring",
    "file:k/../..prod.keyring",
    "file:a b#!.keyring",
    "file:**.keyring",
  ])("writes a .gitignore that makes Git ignore the keyring %j", async (source) => {
    const folder = await newFolder();
    await mkdir(join(folder, "k"));
    await run("git", ["init", "-q"], { cwd: folder });
    expect(await keyward(folder, {}, "init", "--keys", source)).toMatchObject({ exitCode: 0 });
    const { stdout } = await run("git", ["status", "--porcelain", "--untracked-files=all"], { cwd: folder });
    expect(stdout.split("\n").toSorted()).toEqual(["", "?? .gitignore", "?? keyward.config.json"]);
  });

  it("prints which store is not ready, and exits with code 1", async () => {
    const folder = await newFolder();
    const begun = await keyward(folder, {}, "init", "--store", "sessions=redis://127.0.0.1:1?timeoutMs=200");
    expect(begun).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("The store sessions is not ready") });
  });

  it("asks on a terminal for the source of the keys and for the store", async () => {
    const folder = await newFolder();
    const terminal = new Terminal(folder, {}, "init", "--id", "first");
    await terminal.answer("The source of the keys:", "");
    await terminal.answer("The name of the store:", "flows");
    await terminal.answer(/The source of the store:.*sqlite:flows\.sqlite/, "");
    expect(await terminal.end()).toBe(0);
    expect(JSON.parse(await readFile(join(folder, "keyward.config.json"), "utf8"))).toEqual({
      keys: "file:production.keyring",
      stores: { flows: "sqlite:flows.sqlite" },
    });
  });

  it("writes nothing if the operator presses Ctrl-C at a question", async () => {
    const folder = await newFolder();
    const terminal = new Terminal(folder, {}, "init");
    await terminal.waitFor("The source of the keys:");
    terminal.press("\x03");
    expect(await terminal.end()).toBe(130);
    expect(await readdir(folder)).toEqual([]);
  });
});
