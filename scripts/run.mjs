// The entry of every npm script. It starts on Node 18 or later, installs missing dependencies, and runs the script under the
// workspace's own Node, which the npm package `node` contains.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const binaries = join(root, "node_modules", ".bin");

/** The stages of each script. Arguments of the script are passed to its last stage. */
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

/** Environment variables of the stages of a script. */
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

/** Runs one stage. If it fails, this process ends with the exit code of the stage. */
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
      console.error(`${command} cannot be started: ${error.message}`);
      resolve([127, null]);
    });
    child.on("exit", (...ending) => resolve(ending));
  });
  for (const signal of signals) process.off(signal, forward);
  if (signal !== null) process.exit(128 + constants.signals[signal]);
  if (code !== 0) process.exit(code);
}

/** Installs the dependencies if node_modules is incomplete, or differs from the manifests and the lockfile. */
function install() {
  const stamp = join(root, "node_modules", ".installed");
  const wanted = manifests();
  const digest = createHash("sha256").update(JSON.stringify(wanted)).digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === digest && isComplete(wanted)) return;

  console.error("Installing the dependencies with pnpm.");
  rmSync(stamp, { force: true });
  // pnpm does not check a package that it has linked before, unless --force is set.
  for (const repair of [[], ["--force"]]) {
    const pnpm = spawnSync("npx", ["-y", "pnpm@12", "install", "--frozen-lockfile", ...repair], {
      cwd: root,
      encoding: "utf8",
      maxBuffer: 2 ** 26,
    });
    if (pnpm.status !== 0) {
      console.error(`${pnpm.stdout ?? ""}${pnpm.stderr ?? ""}${pnpm.error?.message ?? ""}`);
      console.error("The installation failed. The output of pnpm is above.");
      process.exit(pnpm.status ?? 1);
    }
    if (isComplete(wanted)) {
      writeFileSync(stamp, digest);
      return;
    }
  }
  console.error("The installation is incomplete. Remove every node_modules folder and run the command again.");
  process.exit(1);
}

/** Returns everything that determines an installation: the lockfile, the catalog and the dependencies of each package. */
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

/** Returns true if every direct dependency is installed and the workspace's Node starts. */
function isComplete({ packages }) {
  const linked = packages.every(({ folder, dependencies, devDependencies }) =>
    Object.keys({ ...dependencies, ...devDependencies }).every((dependency) =>
      existsSync(join(root, folder, "node_modules", dependency, "package.json")),
    ),
  );
  return linked && spawnSync(join(binaries, "node"), ["--version"]).status === 0;
}
