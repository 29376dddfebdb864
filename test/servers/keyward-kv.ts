import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { commandFile } from "../command-files.ts";

/** The entry of `keyward-kv`. */
export const executable = commandFile("keyward-kv");

/** Runs `keyward-kv` until it ends, and returns its standard output. */
export function run(...parameters: string[]): string {
  return execFileSync(process.execPath, [executable, ...parameters], { encoding: "utf8", stdio: "pipe" }).trim();
}

/** A child process that runs `keyward-kv serve`. */
export interface ServerProcess {
  readonly url: string;
  readonly process: ChildProcess;
  /** Returns everything that the process has printed so far. */
  output(): string;
  /** Sends SIGTERM unless the process has ended, and returns its exit code. */
  stop(): Promise<number | null>;
}

/** Starts `keyward-kv serve` on a free port, and waits until the server listens. */
export async function serve(...parameters: string[]): Promise<ServerProcess> {
  return await start([], parameters);
}

/** Starts a server like {@link serve}, in a folder and with further environment variables. */
export async function serveIn(
  cwd: string,
  env: Readonly<Record<string, string>>,
  ...parameters: string[]
): Promise<ServerProcess> {
  return await start([], parameters, { cwd, env: { ...process.env, ...env } });
}

/** Starts a server like {@link serve}, in a process with a heap of this size. */
export async function serveWithHeap(mebibytes: number, ...parameters: string[]): Promise<ServerProcess> {
  return await start([`--max-old-space-size=${mebibytes}`], parameters);
}

async function start(
  nodeOptions: readonly string[],
  parameters: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<ServerProcess> {
  const child = spawn(process.execPath, [...nodeOptions, executable, "serve", "--port", "0", ...parameters], options);
  const printed: string[] = [];
  // Unlike the exit, the close comes after everything that the process has printed.
  const exited = once(child, "close");
  child.stderr.on("data", (data) => printed.push(String(data)));
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.on("data", (data) => {
      printed.push(String(data));
      const listens = /listens on (\S+)/.exec(printed.join(""))?.[1];
      if (listens !== undefined) resolve(listens);
    });
    child.once("exit", () => reject(new Error(`keyward-kv ended:\n${printed.join("")}`)));
  });
  return {
    url,
    process: child,
    output: () => printed.join(""),
    async stop() {
      if (!child.killed) child.kill("SIGTERM");
      await exited;
      return child.exitCode;
    },
  };
}
