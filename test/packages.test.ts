import { execFile, execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import { build } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Manifest, publishedPackages, readManifest, repository, workspacePackages } from "./workspace.ts";

const published = publishedPackages(repository);
const named = published.map(({ folder, manifest }) => ({ name: manifest.name, folder, manifest }));
const libraries = named.filter(({ manifest }) => manifest.exports?.["."] !== undefined);
const binaries = join(repository, "node_modules", ".bin");
// A vitest that this test starts must not inherit the settings of the vitest that runs this test.
const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("VITEST"));
const environment = { ...Object.fromEntries(inherited), PATH: `${binaries}:${process.env["PATH"]}`, NO_COLOR: "1" };

/** Runs a command and returns its output. Asynchronous, so that this process keeps answering the test runner. */
async function printed(
  command: string,
  commandArguments: readonly string[],
  cwd: string,
  variables: Readonly<Record<string, string>> = {},
): Promise<{ readonly stdout: string; readonly stderr: string }> {
  const env = { ...environment, APP_ENCRYPTION_KEY: randomBytes(32).toString("base64"), ...variables };
  return await new Promise((resolve, reject) => {
    execFile(command, commandArguments, { cwd, env, maxBuffer: 2 ** 26 }, (error, stdout, stderr) => {
      if (error === null) resolve({ stdout, stderr });
      else reject(new Error(`${command} ${commandArguments.join(" ")} failed:\n${stdout}${stderr}`, { cause: error }));
    });
  });
}

async function run(...given: Parameters<typeof printed>): Promise<string> {
  return (await printed(...given)).stdout;
}

/** Parameters for each command that a package has, and what the command then prints. */
const commands: Readonly<Record<string, readonly [parameters: readonly string[], answer: RegExp]>> = {
  keyward: [["keygen"], /^[\w+/]{43}=\n$/],
  "keyward-kv": [["tenants", "add", "--tenants", "tenants.json", "--tenant", "acme"], /^kv_[0-9a-f]{12}_[\w-]{43}\n$/],
};

/** The folders that a package has besides its build: the schemas of the JSON output of `keyward`. */
const otherFiles: Readonly<Record<string, readonly string[]>> = { keyward: ["schemas"] };

/** Returns the names that a module exports in plain Node. */
async function exportsOf(specifier: string, cwd: string): Promise<string[]> {
  const program = `console.log(JSON.stringify(Object.keys(await import(${JSON.stringify(specifier)})).sort()))`;
  const names: string[] = JSON.parse(await run(process.execPath, ["--input-type=module", "--eval", program], cwd));
  return names;
}

/** Returns true if a package of this workspace has the name. */
function isOwn(name: string): boolean {
  return named.some((own) => own.name === name);
}

/** Returns true if the program is a Node.js before 22, which has no `Promise.withResolvers`. */
function isOlderNode(path: string): boolean {
  const major = ["--print", "process.versions.node.split('.')[0]"];
  return existsSync(path) && Number(execFileSync(path, major, { encoding: "utf8" })) < 22;
}

/** The commands of a package manager: to start it, to install, and to run a program. */
interface PackageManager {
  readonly start: readonly [command: string, ...args: string[]];
  readonly install: readonly string[];
  readonly settings?: readonly [file: string, text: string];
  /** Command that runs Node.js. Default: Node.js itself. */
  readonly node?: readonly string[];
  /** Output of the package manager if a peer dependency is missing. */
  readonly unmet: RegExp;
}

const packageManagers: Readonly<Record<string, PackageManager>> = {
  npm: {
    start: ["npm"],
    install: ["install", "--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts"],
    unmet: /ERESOLVE/,
  },
  pnpm: {
    start: ["npx", "-y", "pnpm@12"],
    install: [
      "install",
      "--prefer-offline",
      "--no-frozen-lockfile",
      "--ignore-workspace",
      "--strict-peer-dependencies",
      "--ignore-scripts",
    ],
    unmet: /unmet peer/i,
  },
  "Yarn 1": {
    start: ["npx", "-y", "yarn@1"],
    // The cache of Yarn 1 identifies a tarball by name and version, and could return one that another run packed.
    install: ["install", "--non-interactive", "--ignore-scripts", "--cache-folder", ".cache"],
    unmet: /(?:unmet|incorrect) peer dependency/,
  },
  "Yarn 4": {
    start: ["npx", "-y", "@yarnpkg/cli-dist@4"],
    install: ["install"],
    settings: [
      ".yarnrc.yml",
      ["enableScripts: false", "enableTelemetry: false", "enableImmutableInstalls: false", ""].join("\n"),
    ],
    node: ["node"],
    unmet: /YN0002|YN0060|YN0086/,
  },
};

/** An application that uses adapters of Keyv 5. */
const application = `
import { Keyv } from "keyv";
import KeyvRedis from "@keyv/redis";
import KeyvPostgres from "@keyv/postgres";
import { createKeyv, EncryptedStore } from "@keyward/core";
import { HttpStore } from "@keyward/http-kv";
import { envKeys } from "@keyward/keys-env";
import { MemoryStore } from "@keyward/store-memory";
import { keyvRedis } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import.meta.resolve("@keyv/sqlite"); // built from source where it is installed in earnest

const keys = envKeys("APP_ENCRYPTION_KEY");
const keyv = createKeyv({ store: new SqliteStore(":memory:"), keys, namespace: "flows" });
await keyv.set("a", { in: "SQLite" }, 60_000);
const host = new Keyv({ store: new EncryptedStore(new MemoryStore(), { keys }), throwOnErrors: true });
await host.set("a", { under: "Keyv 5" }, 60_000);
new EncryptedStore(new KeyvRedis("redis://127.0.0.1:1"), { keys });
keyvRedis(new KeyvRedis("redis://127.0.0.1:1"));
console.log(JSON.stringify([await keyv.get("a"), await host.get("a"), typeof KeyvPostgres, typeof HttpStore]));
`;

describe("the packed tarballs", () => {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "keyward-packages-")));
  const tarballs = join(folder, "tarballs");
  const consumer = join(folder, "consumer");
  const installed = (name: string) => join(consumer, "node_modules", name);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  // The build runs in a copy, so that files of an earlier build are not packed.
  beforeAll(async () => {
    const workspace = join(folder, "workspace");
    const left = new Set(["dist", "test", "tsconfig.tsbuildinfo"]);
    for (const file of ["package.json", "pnpm-workspace.yaml", "pnpm-lock.yaml", "tsconfig.base.json"]) {
      cpSync(join(repository, file), join(workspace, file));
    }
    for (const { folder: packageFolder } of published) {
      cpSync(join(repository, packageFolder), join(workspace, packageFolder), {
        recursive: true,
        verbatimSymlinks: true,
        filter: (path) => !left.has(basename(path)),
      });
    }
    symlinkSync(join(repository, "node_modules"), join(workspace, "node_modules"));
    // Several checkers of one package would check the types that they share several times.
    await run(join(binaries, "tsc"), ["-b", "--checkers", "1", ...published.map((found) => found.folder)], workspace);
    mkdirSync(tarballs);
    await run(
      "npx",
      ["-y", "pnpm@12", "--recursive", "--filter", "./packages/*", "pack", "--pack-destination", tarballs],
      workspace,
    );

    writeFileSync(join(folder, "package.json"), `{ "private": true }`);
    for (const { manifest } of published) {
      mkdirSync(installed(manifest.name), { recursive: true });
      await run("tar", ["-xzf", tarballOf(manifest), "--strip-components=1", "-C", installed(manifest.name)], folder);
    }
    for (const { folder: packageFolder, manifest } of published) {
      const packed = readManifest(installed(manifest.name));
      for (const dependency of Object.keys({ ...packed.dependencies, ...packed.peerDependencies })) {
        link(join(repository, packageFolder, "node_modules", dependency), dependency);
      }
    }
    link(join(repository, "node_modules", "@types", "node"), "@types/node");
  }, 300_000);

  function tarballOf({ name, version }: Manifest): string {
    return join(tarballs, `${name.replace("@", "").replace("/", "-")}-${version}.tgz`);
  }

  /** Copies a third party's package to the folder in which an install would put it. */
  function link(from: string, dependency: string): void {
    if (isOwn(dependency)) return;
    mkdirSync(dirname(installed(dependency)), { recursive: true });
    rmSync(installed(dependency), { force: true });
    symlinkSync(realpathSync(from), installed(dependency));
  }

  describe.each(named)("the tarball of $name", ({ name, folder: packageFolder }) => {
    it("contains only its build, its README, its LICENSE and the other files that its manifest names", () => {
      const files = readdirSync(installed(name), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name).slice(installed(name).length + 1));
      const built = readdirSync(join(repository, packageFolder, "src"), { recursive: true, encoding: "utf8" })
        .filter((file) => file.endsWith(".ts"))
        .flatMap((file) => [".js", ".js.map", ".d.ts"].map((ending) => `dist/${file.replace(/\.ts$/, ending)}`));
      const others = otherFiles[name]?.flatMap((other) =>
        readdirSync(join(repository, packageFolder, other)).map((file) => `${other}/${file}`),
      );
      expect(files.sort()).toEqual(["LICENSE", "README.md", "package.json", ...built, ...(others ?? [])].sort());
    });

    it("has a package.json that publint accepts", async () => {
      const { messages, pkg } = await publint({ pkgDir: installed(name), strict: true, pack: false });
      expect(messages.map((message) => formatMessage(message, pkg))).toEqual([]);
    });

    it("has only dependencies with a version range, and none with the version of the workspace", () => {
      const { dependencies, peerDependencies, devDependencies, exports } = readManifest(installed(name));
      const ranges = Object.values({ ...devDependencies, ...dependencies, ...peerDependencies });
      expect(ranges.filter((range) => !/^[\^~]?\d/.test(range))).toEqual([]);
      expect(JSON.stringify(exports)).not.toContain("/src/");
    });

    const { bin = {} } = readManifest(join(repository, packageFolder));
    for (const command of Object.keys(bin)) {
      it(`runs its command ${command} in plain Node`, async () => {
        const { bin: packed = {}, version } = readManifest(installed(name));
        const runs = (...parameters: readonly string[]) =>
          run(process.execPath, [join(installed(name), packed[command] ?? ""), ...parameters], consumer);
        expect(await runs("--version")).toBe(`${version}\n`);
        const [parameters, answer] = commands[command] ?? [["--help"], /^$/];
        expect(await runs(...parameters)).toMatch(answer);
      });
    }
    if (!libraries.some((library) => library.name === name)) return;

    it("exports the same names as its sources if plain Node imports it", async () => {
      const fromSource = await exportsOf(join(repository, packageFolder, "src", "index.ts"), repository);
      expect(await exportsOf(name, consumer)).toEqual(fromSource);
      expect(fromSource).not.toEqual([]);
    });
  });

  describe("an application that uses keysFrom with one provider installed", () => {
    const application = join(folder, "application");
    const installedHere = (name: string) => join(application, "node_modules", name);
    // No package can be found from this folder.
    const bundles = join(folder, "bundles");
    const key = randomBytes(32).toString("base64");
    const olderNode = (process.env["PATH"] ?? "")
      .split(delimiter)
      .map((path) => join(path, "node"))
      .find(isOlderNode);
    // With CI=true the test is never skipped. It fails without an older Node.js.
    const skipsOlderNode = olderNode === undefined && process.env["CI"] !== "true";
    const withoutOlderNode = skipsOlderNode ? " (skipped: no Node.js before 22 in PATH)" : "";

    beforeAll(() => {
      for (const name of ["@keyward/core", "@keyward/keys-from", "@keyward/keys-env"]) {
        cpSync(installed(name), installedHere(name), { recursive: true });
        for (const dependency of Object.keys({ ...readManifest(installed(name)).dependencies })) {
          if (dependency.startsWith("@keyward/")) continue;
          mkdirSync(dirname(installedHere(dependency)), { recursive: true });
          rmSync(installedHere(dependency), { force: true });
          symlinkSync(realpathSync(installed(dependency)), installedHere(dependency));
        }
      }
      writeFileSync(join(application, "package.json"), `{ "type": "module", "private": true }`);
      writeFileSync(
        join(application, "main.js"),
        `import { createKeyv } from "@keyward/core";
        import { keysFrom } from "@keyward/keys-from";
        async function main() {
          const keys = await keysFrom(process.env["APP_KEYS"]);
          const flows = createKeyv({ store: new Map(), keys, namespace: "flows" });
          await flows.set("key", "value");
          return { value: await flows.get("key"), primary: (await keys.load()).primary };
        }
        main().then(JSON.stringify, ({ code, message, hint }) => JSON.stringify({ code, message, hint })).then(console.log);`,
      );
      mkdirSync(bundles);
    });

    async function answerOf(node: string, file: string, keys: string): Promise<unknown> {
      const variables = { NODE_PATH: "", NODE_OPTIONS: "", APP_KEYS: keys, APP_KEY: `first=${key}` };
      return JSON.parse(await run(node, [file], application, variables));
    }

    it.each([
      ["esm", "mjs"],
      ["cjs", "cjs"],
    ] as const)(
      "can be bundled by esbuild as %s, and the error of the bundle names a provider package that is missing",
      async (format, ending) => {
        const outfile = join(bundles, `main.${ending}`);
        const entryPoints = [join(application, "main.js")];
        // Otherwise esbuild finds packages through the environment variable NODE_PATH.
        const settings = { bundle: true, platform: "node", logLevel: "silent" } as const;
        const { errors } = await build({ ...settings, nodePaths: [], entryPoints, format, outfile });
        expect(errors).toEqual([]);
        expect(await answerOf(process.execPath, outfile, "env:APP_KEY")).toEqual({ value: "value", primary: "first" });
        for (const [keys, name] of [
          ["aws-sm:///secret", "@keyward/keys-aws"],
          ["vault://secret/app", "@keyward/keys-vault"],
        ] as const) {
          expect(await answerOf(process.execPath, outfile, keys)).toEqual({
            code: "PROVIDER_UNAVAILABLE",
            message: `This source of keys needs the package ${name}, which is not installed`,
            hint: `Run \`npm install ${name}\`.`,
          });
        }
      },
    );

    it.skipIf(skipsOlderNode)(
      `reports that Node.js is too old if it runs on an older Node.js${withoutOlderNode}`,
      async () => {
        if (olderNode === undefined) throw new Error("There is no Node.js before 22 in PATH");
        expect(await answerOf(olderNode, join(application, "main.js"), "env:APP_KEY")).toEqual({
          code: "PROVIDER_UNAVAILABLE",
          message: expect.stringMatching(/this is Node\.js \d+\.\d+\.\d+, which Keyward does not support/),
          hint: "Run this process with Node.js 22.19 or newer.",
        });
      },
    );
  });

  it("have types that pass strict checks, even if the types of their dependencies are checked too", async () => {
    const lines = libraries.map(({ name }, index) => `import * as package${index} from ${JSON.stringify(name)};`);
    const used = libraries.map((_, index) => `package${index}`).join(", ");
    writeFileSync(join(consumer, "package.json"), `{ "type": "module", "private": true }`);
    writeFileSync(join(consumer, "index.ts"), `${lines.join("\n")}\nexport const all = [${used}];\n`);
    const compilerOptions = {
      module: "nodenext",
      target: "es2024",
      lib: ["es2024"],
      types: ["node"],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      noEmit: true,
    };
    writeFileSync(join(consumer, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["index.ts"] }));
    const listed = await run(join(binaries, "tsc"), ["-p", consumer, "--listFiles"], consumer);
    for (const { name } of libraries) expect(listed).toContain(`${installed(name)}/dist/index.d.ts`);
  });

  it("pass the tests in test/hosts, which run libraries that use Keyv", async () => {
    const files = readdirSync(join(repository, "test", "hosts")).filter((file) => file.endsWith(".test.ts"));
    for (const path of ["test/hosts", "test/store/store/inner-stores.ts", "docs/hosts.md"]) {
      cpSync(join(repository, path), join(consumer, path), { recursive: true });
    }
    for (const dependency of Object.keys(readManifest(repository).devDependencies ?? {})) {
      link(join(repository, "node_modules", dependency), dependency);
    }
    writeFileSync(join(consumer, "vitest.config.mjs"), "export default {};");
    const results = join(folder, "results.json");
    await run(
      join(binaries, "vitest"),
      ["run", "--root", consumer, "--maxWorkers=2", "--reporter=json", `--outputFile=${results}`],
      consumer,
    );
    const { success, testResults }: { success: boolean; testResults: { name: string; status: string }[] } = JSON.parse(
      readFileSync(results, "utf8"),
    );
    expect(success).toBe(true);
    expect(testResults.map(({ name, status }) => `${basename(name)} ${status}`).sort()).toEqual(
      files.map((file) => `${file} passed`).sort(),
    );
  }, 300_000);

  it.each(Object.entries(packageManagers))(
    "can be installed by %s next to Keyv 5 and its adapters, and store records there",
    async (name, manager) => {
      const project = join(folder, name);
      const [command, ...given] = manager.start;
      const users = published.filter(({ manifest }) => manifest.dependencies?.["keyv"] !== undefined);
      const ours = [...users.map(({ manifest }) => manifest), readManifest(join(repository, "packages", "keys-env"))];
      const theirs = { keyv: "5", "@keyv/postgres": "2", "@keyv/redis": "5", "@keyv/sqlite": "4" };
      const dependencies = {
        ...theirs,
        ...Object.fromEntries(ours.map((manifest) => [manifest.name, `file:${tarballOf(manifest)}`])),
      };
      mkdirSync(project);
      writeFileSync(join(project, "package.json"), JSON.stringify({ type: "module", private: true, dependencies }));
      // Yarn recognizes the root of a project by its lockfile.
      if (name.startsWith("Yarn")) writeFileSync(join(project, "yarn.lock"), "");
      if (manager.settings !== undefined) writeFileSync(join(project, manager.settings[0]), manager.settings[1]);
      writeFileSync(join(project, "application.js"), application);

      const { stdout, stderr } = await printed(command, [...given, ...manager.install], project);
      expect(stdout + stderr).not.toMatch(manager.unmet);
      const node = manager.node === undefined ? [process.execPath] : [...manager.start, ...manager.node];
      const [program = "", ...args] = node;
      const output = await run(program, [...args, "application.js"], project);
      expect(JSON.parse(output)).toEqual([{ in: "SQLite" }, { under: "Keyv 5" }, "function", "function"]);
    },
    300_000,
  );
});

describe("the manifests", () => {
  const root = readManifest(repository);

  it.each(named)("have the same common fields as every other manifest: $name", ({ manifest, folder }) => {
    const [first] = published;
    expect(manifest).toMatchObject({
      name: basename(folder) === "cli" ? "keyward" : `@keyward/${basename(folder)}`,
      version: first?.manifest.version,
      license: root.license,
      engines: root.engines,
      type: "module",
      sideEffects: false,
      files: ["dist", ...(otherFiles[manifest.name] ?? []), "README.md", "LICENSE"],
      publishConfig: { access: "public" },
    });
    expect(manifest).not.toHaveProperty("private");
    expect(readFileSync(join(repository, folder, "LICENSE"), "utf8")).toBe(
      readFileSync(join(repository, "LICENSE"), "utf8"),
    );
  });

  it("take the version of every dependency from the catalog or from the workspace", () => {
    const all = [...workspacePackages(repository), { folder: ".", manifest: root }];
    const strays = all.flatMap(({ folder, manifest }) =>
      [manifest.dependencies, manifest.devDependencies, manifest.peerDependencies, manifest.optionalDependencies]
        .flatMap((group) => Object.entries(group ?? {}))
        .filter(([name, range]) => (isOwn(name) ? !range.startsWith("workspace:") : !range.startsWith("catalog:")))
        .map(([name, range]) => `${folder}: ${name} ${range}`),
    );
    expect(strays).toEqual([]);
  });

  it("are private if the package is not published", () => {
    const others = workspacePackages(repository).filter(({ folder }) => !folder.startsWith("packages/"));
    expect(others.filter(({ manifest }) => manifest.private !== true)).toEqual([]);
    expect(root.private).toBe(true);
  });

  it("are released with the same version", () => {
    const { fixed }: { fixed: string[][] } = JSON.parse(
      readFileSync(join(repository, ".changeset", "config.json"), "utf8"),
    );
    expect(fixed).toEqual([["@keyward/*", "keyward"]]);
    // changesets compares the versions of all packages of the group, published or not.
    const unversioned = workspacePackages(repository).filter(({ manifest }) => manifest.version === undefined);
    expect(unversioned.map(({ folder }) => folder)).toEqual([]);
  });

  it("belong to packages that each configuration of the compiler lists", () => {
    for (const configuration of ["tsconfig.json", "tsconfig.checked.json"]) {
      const { references }: { references: { path: string }[] } = JSON.parse(
        readFileSync(join(repository, configuration), "utf8"),
      );
      const paths = references.map(({ path }) => path);
      expect(paths, configuration).toEqual(expect.arrayContaining(published.map(({ folder }) => folder)));
    }
  });
});
