import { execFileSync } from "node:child_process";
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
import { basename, dirname, join } from "node:path";
import { build } from "esbuild";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Manifest, publishedPackages, readManifest, repository, workspacePackages } from "./workspace.ts";

const published = publishedPackages(repository);
const named = published.map(({ folder, manifest }) => ({ name: manifest.name, folder, manifest }));
const binaries = join(repository, "node_modules", ".bin");
const environment = { ...process.env, PATH: `${binaries}:${process.env["PATH"]}`, NO_COLOR: "1" };

function run(command: string, commandArguments: readonly string[], cwd: string): string {
  try {
    return execFileSync(command, commandArguments, { cwd, env: environment, encoding: "utf8", stdio: "pipe" });
  } catch (error) {
    const { stdout, stderr } = { stdout: "", stderr: "", ...(error instanceof Error ? error : {}) };
    throw new Error(`${command} ${commandArguments.join(" ")} failed:\n${stdout}${stderr}`, { cause: error });
  }
}

/** The names that a module exports at run time, as plain Node sees them. */
function exportsOf(specifier: string, cwd: string): string[] {
  const program = `console.log(JSON.stringify(Object.keys(await import(${JSON.stringify(specifier)})).sort()))`;
  const names: string[] = JSON.parse(run(process.execPath, ["--input-type=module", "--eval", program], cwd));
  return names;
}

/** Whether this is a Node.js from before 22, which has no `Promise.withResolvers`. */
function isOlderNode(path: string): boolean {
  return existsSync(path) && Number(run(path, ["--print", "process.versions.node.split('.')[0]"], repository)) < 22;
}

describe("what would be published", () => {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "keyward-packages-")));
  const tarballs = join(folder, "tarballs");
  const consumer = join(folder, "consumer");
  const installed = (name: string) => join(consumer, "node_modules", name);
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  // Built in a copy, so that nothing which an earlier build left behind is packed.
  beforeAll(() => {
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
    run(join(binaries, "tsc"), ["-b", ...published.map((found) => found.folder)], workspace);
    mkdirSync(tarballs);
    run(
      "npx",
      ["-y", "pnpm@12", "--recursive", "--filter", "./packages/*", "pack", "--pack-destination", tarballs],
      workspace,
    );

    writeFileSync(join(folder, "package.json"), `{ "private": true }`);
    for (const { manifest } of published) {
      mkdirSync(installed(manifest.name), { recursive: true });
      run("tar", ["-xzf", tarballOf(manifest), "--strip-components=1", "-C", installed(manifest.name)], folder);
    }
    for (const { folder: packageFolder, manifest } of published) {
      const packed = readManifest(installed(manifest.name));
      for (const dependency of Object.keys({ ...packed.dependencies, ...packed.peerDependencies })) {
        link(join(repository, packageFolder, "node_modules", dependency), dependency);
      }
    }
    link(join(repository, "node_modules", "@types", "node"), "@types/node");
  });

  function tarballOf({ name, version }: Manifest): string {
    return join(tarballs, `${name.replace("@", "").replace("/", "-")}-${version}.tgz`);
  }

  /** Puts a third party's package where an install would put it. */
  function link(from: string, dependency: string): void {
    if (dependency.startsWith("@keyward/")) return;
    mkdirSync(dirname(installed(dependency)), { recursive: true });
    rmSync(installed(dependency), { force: true });
    symlinkSync(realpathSync(from), installed(dependency));
  }

  describe.each(named)("$name", ({ name, folder: packageFolder }) => {
    it("holds its build, README and LICENSE, and nothing else", () => {
      const files = readdirSync(installed(name), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name).slice(installed(name).length + 1));
      const built = readdirSync(join(repository, packageFolder, "src"), { recursive: true, encoding: "utf8" })
        .filter((file) => file.endsWith(".ts"))
        .flatMap((file) => [".js", ".js.map", ".d.ts"].map((ending) => `dist/${file.replace(/\.ts$/, ending)}`));
      expect(files.sort()).toEqual(["LICENSE", "README.md", "package.json", ...built].sort());
    });

    it("points at files that are there, by publint", async () => {
      const { messages, pkg } = await publint({ pkgDir: installed(name), strict: true, pack: false });
      expect(messages.map((message) => formatMessage(message, pkg))).toEqual([]);
    });

    it("asks for released versions, and for none of the workspace's own ways to say them", () => {
      const { dependencies, peerDependencies, devDependencies, exports } = readManifest(installed(name));
      const ranges = Object.values({ ...devDependencies, ...dependencies, ...peerDependencies });
      expect(ranges.filter((range) => !/^[\^~]?\d/.test(range))).toEqual([]);
      expect(JSON.stringify(exports)).not.toContain("/src/");
    });

    it("exports in plain Node what the sources export", () => {
      const fromSource = exportsOf(join(repository, packageFolder, "src", "index.ts"), repository);
      expect(exportsOf(name, consumer)).toEqual(fromSource);
      expect(fromSource).not.toEqual([]);
    });
  });

  describe("an application that chooses its keys by a text, with one provider installed", () => {
    const application = join(folder, "application");
    const installedHere = (name: string) => join(application, "node_modules", name);
    // Where no package can be found.
    const bundles = join(folder, "bundles");
    const key = randomBytes(32).toString("base64");
    const olderNode = ["/usr/bin/node", "/usr/local/bin/node"].find(isOlderNode);

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
      for (const dependency of ["keyv", "hookified"]) {
        if (!existsSync(installedHere(dependency)))
          symlinkSync(realpathSync(installed(dependency)), installedHere(dependency));
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

    function answerOf(node: string, file: string, keys: string): unknown {
      const env = { ...environment, NODE_PATH: "", NODE_OPTIONS: "", APP_KEYS: keys, APP_KEY: `first=${key}` };
      return JSON.parse(execFileSync(node, [file], { env, encoding: "utf8", stdio: "pipe" }));
    }

    it.each([
      ["esm", "mjs"],
      ["cjs", "cjs"],
    ] as const)(
      "bundles with esbuild as %s, which runs, and names a package that is missing",
      async (format, ending) => {
        const outfile = join(bundles, `main.${ending}`);
        const entryPoints = [join(application, "main.js")];
        // Otherwise esbuild finds what the variable NODE_PATH leads to.
        const settings = { bundle: true, platform: "node", logLevel: "silent" } as const;
        const { errors } = await build({ ...settings, nodePaths: [], entryPoints, format, outfile });
        expect(errors).toEqual([]);
        expect(answerOf(process.execPath, outfile, "env:APP_KEY")).toEqual({ value: "value", primary: "first" });
        for (const [keys, name] of [
          ["aws-sm:///secret", "@keyward/keys-aws"],
          ["vault://secret/app", "@keyward/keys-vault"],
        ] as const) {
          expect(answerOf(process.execPath, outfile, keys)).toEqual({
            code: "PROVIDER_UNAVAILABLE",
            message: `${name} is not installed, which this source of keys needs`,
            hint: `Install it: npm install ${name}`,
          });
        }
      },
    );

    it.skipIf(olderNode === undefined)("says so where Node.js is too old", () => {
      expect(answerOf(olderNode ?? "", join(application, "main.js"), "env:APP_KEY")).toEqual({
        code: "PROVIDER_UNAVAILABLE",
        message: expect.stringMatching(/this is Node\.js \d+\.\d+\.\d+, which Keyward does not support/),
        hint: "Run this with Node.js 22.19 or newer.",
      });
    });
  });

  it("has types that hold under strict rules, the libraries' own included", () => {
    const lines = named.map(({ name }, index) => `import * as package${index} from ${JSON.stringify(name)};`);
    const used = named.map((_, index) => `package${index}`).join(", ");
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
    const listed = run(join(binaries, "tsc"), ["-p", consumer, "--listFiles"], consumer);
    for (const { name } of named) expect(listed).toContain(`${installed(name)}/dist/index.d.ts`);
  });
});

describe("the manifests", () => {
  const root = readManifest(repository);

  it.each(named)("of $name say what all of them say", ({ manifest, folder }) => {
    const [first] = published;
    expect(manifest).toMatchObject({
      name: `@keyward/${basename(folder)}`,
      version: first?.manifest.version,
      license: root.license,
      engines: root.engines,
      type: "module",
      sideEffects: false,
      files: ["dist", "README.md", "LICENSE"],
      publishConfig: { access: "public" },
    });
    expect(manifest).not.toHaveProperty("private");
    expect(readFileSync(join(repository, folder, "LICENSE"), "utf8")).toBe(
      readFileSync(join(repository, "LICENSE"), "utf8"),
    );
  });

  it("take every version from the catalog, or from the workspace", () => {
    const all = [...workspacePackages(repository), { folder: ".", manifest: root }];
    const strays = all.flatMap(({ folder, manifest }) =>
      [manifest.dependencies, manifest.devDependencies, manifest.peerDependencies, manifest.optionalDependencies]
        .flatMap((group) => Object.entries(group ?? {}))
        .filter(([name, range]) =>
          name.startsWith("@keyward/") ? !range.startsWith("workspace:") : !range.startsWith("catalog:"),
        )
        .map(([name, range]) => `${folder}: ${name} ${range}`),
    );
    expect(strays).toEqual([]);
  });

  it("of what is not published say so", () => {
    const others = workspacePackages(repository).filter(({ folder }) => !folder.startsWith("packages/"));
    expect(others.filter(({ manifest }) => manifest.private !== true)).toEqual([]);
    expect(root.private).toBe(true);
  });

  it("are released together", () => {
    const { fixed }: { fixed: string[][] } = JSON.parse(
      readFileSync(join(repository, ".changeset", "config.json"), "utf8"),
    );
    expect(fixed).toEqual([["@keyward/*"]]);
    // changesets compares the versions of all that the group names, published or not.
    const unversioned = workspacePackages(repository).filter(({ manifest }) => manifest.version === undefined);
    expect(unversioned.map(({ folder }) => folder)).toEqual([]);
  });

  it("are all known to the compiler", () => {
    for (const configuration of ["tsconfig.json", "tsconfig.checked.json"]) {
      const { references }: { references: { path: string }[] } = JSON.parse(
        readFileSync(join(repository, configuration), "utf8"),
      );
      const paths = references.map(({ path }) => path);
      expect(paths, configuration).toEqual(expect.arrayContaining(published.map(({ folder }) => folder)));
    }
  });
});
