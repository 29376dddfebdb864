import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { isBuiltin } from "node:module";
import { join } from "node:path";
import { type Plugin, rolldown } from "rolldown";
import { bundleVariable } from "./command-files.ts";
import { repository } from "./workspace.ts";

const packages = join(repository, "packages");
const bundles = join(repository, "node_modules", ".cache", "keyward-command");
/** The programs of `packages/cli`, and the file that a thread of the audit runs. */
const entries = {
  keyward: join(packages, "cli/src/keyward.ts"),
  "keyward-kv": join(packages, "cli/src/keyward-kv.ts"),
  "audit-worker": join(packages, "secrets/src/audit/audit-worker.ts"),
};

/**
 * Bundles the sources of the command, for the tests that start the command as a process. Such a process spends most of its
 * time loading several hundred modules. The bundle has the same code in fewer modules.
 */
export default async function bundleCommand(): Promise<void> {
  const build = await rolldown({
    input: entries,
    platform: "node",
    // The processes load all code of a module, as they do without a bundle.
    treeshake: false,
    logLevel: "warn",
    plugins: [packagesOfOthers],
  });
  const { output } = await build.generate({
    format: "esm",
    entryFileNames: "[name].js",
    chunkFileNames: "[name]-[hash].js",
    minify: false,
    keepNames: true,
  });
  await build.close();
  const files = output.map((file) => ({
    name: file.fileName,
    content: file.type === "chunk" ? file.code : file.source,
  }));
  const hash = createHash("sha256");
  for (const { name, content } of files) hash.update(name).update(content);
  const bundle = join(bundles, hash.digest("hex").slice(0, 16));
  process.env[bundleVariable] = join(bundle, "code");
  if (existsSync(bundle)) return;
  await mkdir(bundles, { recursive: true });
  // Two runs may write the same bundle at once. A bundle appears as a whole.
  const unfinished = await mkdtemp(join(bundles, "unfinished-"));
  await mkdir(join(unfinished, "code"));
  for (const { name, content } of files) await writeFile(join(unfinished, "code", name), content);
  // The command reads its version from here.
  await writeFile(join(unfinished, "package.json"), await readFile(join(packages, "cli/package.json")));
  await rename(unfinished, bundle).catch(async () => await rm(unfinished, { recursive: true }));
}

/** Matches the packages that become part of the bundle, because they have many modules that most commands load. */
const bundled = /\/node_modules\/(?:zod|commander)\//;

/** Replaces the name of each other package by the path of its file, because the bundle cannot resolve the name from its folder. */
const packagesOfOthers: Plugin = {
  name: "packages of others",
  async resolveId(source, importer) {
    if (isBuiltin(source) || /^[./]/.test(source) || importer === undefined) return undefined;
    const found = await this.resolve(source, importer, { skipSelf: true });
    if (found === null || !found.id.includes("/node_modules/") || bundled.test(found.id)) return found;
    return { id: found.id, external: "absolute" };
  },
};
