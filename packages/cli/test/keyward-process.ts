import { type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";

/** The entry of the command. */
export const executable = fileURLToPath(new URL("../src/keyward.ts", import.meta.url));

/** The result of a command that has ended. */
export interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `keyward` in a folder, with only these environment variables besides those that Node.js needs. */
export async function keyward(
  cwd: string,
  env: Readonly<Record<string, string>>,
  ...commandLine: readonly string[]
): Promise<Ended> {
  const { PATH = "", HOME = "" } = process.env;
  return await new Promise((resolve) => {
    execFile(
      process.execPath,
      ["--conditions", "development", executable, ...commandLine],
      { cwd, env: { PATH, HOME, ...env } },
      (error, stdout, stderr) => {
        const exitCode = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ exitCode, stdout, stderr });
      },
    );
  });
}

/** Starts `keyward` as {@link keyward} does, for a test that reads its output while it runs, and that sends signals. */
export function startKeyward(
  cwd: string,
  env: Readonly<Record<string, string>>,
  ...commandLine: readonly string[]
): ChildProcessByStdio<null, Readable, Readable> {
  const { PATH = "", HOME = "" } = process.env;
  return spawn(process.execPath, ["--conditions", "development", executable, ...commandLine], {
    cwd,
    env: { PATH, HOME, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
}
