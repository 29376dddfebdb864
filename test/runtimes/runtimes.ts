import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";
import { readManifest, repository } from "../workspace.ts";

/** A way to serve a module whose default export has a `fetch`. */
export interface Runtime {
  readonly name: string;
  /** Reason why the runtime is not available on this machine. */
  readonly missing?: string;
  /** Returns the command that serves the module on a free port. May write files into the module's folder. */
  command(module: string): Promise<readonly string[]>;
}

/** A module that another process serves. */
export interface RunningServer {
  readonly url: string;
  stop(): Promise<void>;
}

const startMs = 20_000;

/** Node, and the other runtimes whose npm packages have a binary for this machine. */
export const runtimes: readonly Runtime[] = [
  {
    name: "Node, with srvx",
    command: async (module) => [
      process.execPath,
      join(repository, "node_modules", "srvx", "bin", "srvx.mjs"),
      ...["serve", "--prod", "--host=127.0.0.1", "--port=0", `--entry=${module}`],
    ],
  },
  {
    name: "Node, with @hono/node-server",
    command: async (module) => [process.execPath, fileURLToPath(new URL("hono-on-node.ts", import.meta.url)), module],
  },
  withBinary("bun", "Bun", async (bun, module) => [bun, "run", "--port=0", module]),
  withBinary("deno", "Deno", async (deno, module) => [
    deno,
    ...["serve", "--allow-env", "--no-lock", "--no-remote", "--host=127.0.0.1", "--port=0", module],
  ]),
  withBinary("workerd", "Workers", async (workerd, module) => [
    workerd,
    ...["serve", "--control-fd=1", await writeWorker(module)],
  ]),
];

/** Writes code as a module into a folder of this repository, in which imports of its packages resolve. */
export function writeModule(name: string, code: string): { readonly path: string; remove(): void } {
  const parent = join(repository, ".test-output");
  mkdirSync(parent, { recursive: true });
  const folder = mkdtempSync(join(parent, "runtimes-"));
  const path = join(folder, name);
  writeFileSync(path, code);
  return { path, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Serves a module until it is stopped. */
export async function start(
  runtime: Runtime,
  module: string,
  environment: Record<string, string>,
): Promise<RunningServer> {
  const [program = "", ...parameters] = await runtime.command(module);
  // The cache of a runtime is removed with the module's folder.
  const home = dirname(module);
  const child: ChildProcess = spawn(program, parameters, {
    cwd: home,
    env: { PATH: process.env["PATH"], HOME: home, DENO_DIR: join(home, "deno"), NO_COLOR: "1", ...environment },
  });
  const printed: string[] = [];
  const exited = once(child, "exit");
  const stop = async () => {
    child.kill("SIGKILL");
    await exited;
  };
  let late: NodeJS.Timeout | undefined;
  try {
    const port = await new Promise<string>((resolve, reject) => {
      late = setTimeout(() => reject(new Error(`${runtime.name} does not listen:\n${printed.join("")}`)), startMs);
      const listen = (data: unknown) => {
        printed.push(String(data));
        const [, inUrl, inJson] = /https?:\/\/[\w.[\]:]+?:(\d+)|"port":(\d+)/.exec(printed.join("")) ?? [];
        const found = inUrl ?? inJson;
        if (found !== undefined) resolve(found);
      };
      child.stdout?.on("data", listen);
      child.stderr?.on("data", listen);
      child.once("error", reject);
      child.once("exit", () => reject(new Error(`${runtime.name} ended:\n${printed.join("")}`)));
    });
    return { url: `http://127.0.0.1:${port}`, stop };
  } catch (error) {
    await stop();
    throw error;
  } finally {
    clearTimeout(late);
  }
}

/** Describes a runtime whose npm package has one dependency for each platform, which contains the binary. */
function withBinary(
  packageName: string,
  name: string,
  command: (binary: string, module: string) => Promise<readonly string[]>,
): Runtime {
  const folder = join(repository, "node_modules", packageName);
  const require = createRequire(join(folder, "package.json"));
  for (const platform of Object.keys(readManifest(folder).optionalDependencies ?? {})) {
    let installed: string;
    try {
      installed = dirname(require.resolve(`${platform}/package.json`));
    } catch {
      // The package is for another platform.
      continue;
    }
    for (const place of [packageName, join("bin", packageName)]) {
      for (const binary of [join(installed, place), join(installed, `${place}.exe`)]) {
        if (existsSync(binary)) return { name, command: (module) => command(binary, module) };
      }
    }
  }
  const missing = `the package ${packageName} has no binary for ${process.platform} on ${process.arch}`;
  return { name, missing, command: () => Promise.reject(new Error(missing)) };
}

/** Bundles a module as for a deployment, and writes the configuration with which Workers serves it. */
async function writeWorker(module: string): Promise<string> {
  const bundle = await rolldown({ input: module, platform: "node", external: /^node:/ });
  try {
    await bundle.write({ file: join(dirname(module), "worker.js"), format: "esm" });
  } finally {
    await bundle.close();
  }
  const configuration = join(dirname(module), "worker.capnp");
  writeFileSync(
    configuration,
    `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "kv", worker = .worker)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "kv")],
);
const worker :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "worker.js")],
  compatibilityDate = "2026-07-01",
  compatibilityFlags = ["nodejs_compat"],
  bindings = [(name = "KV_API_KEYS", fromEnvironment = "KV_API_KEYS")],
);
`,
  );
  return configuration;
}
