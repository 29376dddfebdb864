// The entry of every npm script. Starts on any Node from 18 on: installs what is missing, then goes on under the
// workspace's own Node, which the npm package `node` brings.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const binaries = join(root, "node_modules", ".bin");

/** What each script runs, stage by stage; the arguments given to the script go to its last stage. */
const scripts = {
  demo: [["node", "examples/demo/src/main.ts"]],
  test: [
    ["biome", "check", "--error-on-warnings", "."],
    ["tsc", "-b"],
    ["vitest", "run"],
  ],
  soak: [["vitest", "run", "test/faults"]],
  bench: [["node", "bench/src/main.ts"]],
  build: [["tsc", "-b"]],
  format: [["biome", "check", "--write", "."]],
};

/** What the stages of a script are told by their environment. */
const environments = { soak: { KEYWARD_SOAK: "1" } };

const [name = "", ...givenArguments] = process.argv.slice(2);
const stages = Object.hasOwn(scripts, name) ? scripts[name] : undefined;
if (stages === undefined) {
  console.error(`There is no script "${name}". The scripts are: ${Object.keys(scripts).join(", ")}.`);
  process.exit(2);
}

install();
for (const [index, [command, ...fixedArguments]] of stages.entries()) {
  const last = index === stages.length - 1;
  await run(command, last ? [...fixedArguments, ...givenArguments] : fixedArguments);
}

/** Runs one stage to its end. When it fails, this process ends as the stage did. */
async function run(command, commandArguments) {
  const child = spawn(join(binaries, command), commandArguments, {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...environments[name], PATH: `${binaries}${delimiter}${process.env.PATH ?? ""}` },
  });
  const forward = (signal) => child.kill(signal);
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"];
  for (const signal of signals) process.on(signal, forward);
  const [code, signal] = await new Promise((resolve) => {
    child.on("error", (error) => {
      console.error(`${command} does not start: ${error.message}`);
      resolve([127, null]);
    });
    child.on("exit", (...ending) => resolve(ending));
  });
  for (const signal of signals) process.off(signal, forward);
  if (signal !== null) process.exit(128 + constants.signals[signal]);
  if (code !== 0) process.exit(code);
}

/** Installs where what lies in node_modules is not what the manifests and the lockfile ask for, or is not whole. */
function install() {
  const stamp = join(root, "node_modules", ".installed");
  const wanted = manifests();
  const digest = createHash("sha256").update(JSON.stringify(wanted)).digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === digest && whole(wanted)) return;

  console.error("Installing the dependencies with pnpm.");
  rmSync(stamp, { force: true });
  // pnpm takes its own word for a package that it linked before; only --force looks inside.
  for (const repair of [[], ["--force"]]) {
    const pnpm = spawnSync("npx", ["-y", "pnpm@12", "install", "--frozen-lockfile", ...repair], {
      cwd: root,
      encoding: "utf8",
      maxBuffer: 2 ** 26,
    });
    if (pnpm.status !== 0) {
      console.error(`${pnpm.stdout ?? ""}${pnpm.stderr ?? ""}${pnpm.error?.message ?? ""}`);
      console.error("The install failed; what pnpm said stands above.");
      process.exit(pnpm.status ?? 1);
    }
    if (whole(wanted)) {
      writeFileSync(stamp, digest);
      return;
    }
  }
  console.error("The install left something out. Remove every node_modules folder and run the command again.");
  process.exit(1);
}

/** All that decides what an install brings: the lockfile, the catalog, and what each workspace package depends on. */
function manifests() {
  const folders = ["."];
  for (const parent of ["packages", "examples"]) {
    if (!existsSync(join(root, parent))) continue;
    for (const folder of readdirSync(join(root, parent)).sort()) folders.push(join(parent, folder));
  }
  folders.push("bench");
  const packages = folders
    .filter((folder) => existsSync(join(root, folder, "package.json")))
    .map((folder) => {
      const manifest = JSON.parse(readFileSync(join(root, folder, "package.json"), "utf8"));
      const { dependencies = {}, devDependencies = {}, peerDependencies = {} } = manifest;
      return { folder, dependencies, devDependencies, peerDependencies };
    });
  const files = ["pnpm-lock.yaml", "pnpm-workspace.yaml"].map((file) => readFileSync(join(root, file), "utf8"));
  return { packages, files, platform: `${process.platform} ${process.arch}` };
}

/** Whether every direct dependency is in its place and the workspace's Node starts. */
function whole({ packages }) {
  const linked = packages.every(({ folder, dependencies, devDependencies }) =>
    Object.keys({ ...dependencies, ...devDependencies }).every((dependency) =>
      existsSync(join(root, folder, "node_modules", dependency, "package.json")),
    ),
  );
  return linked && spawnSync(join(binaries, "node"), ["--version"]).status === 0;
}
