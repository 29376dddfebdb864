import { type ChildProcessByStdio, execFile, spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { commandEnvironment } from "../../../test/command-environment.ts";
import { commandFile } from "../../../test/command-files.ts";

/** The entry of the command. */
export const executable = commandFile("keyward");

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
  return await keywardReading("", cwd, env, ...commandLine);
}

/** Runs `keyward` as {@link keyward} does, with an input on stdin. */
export async function keywardReading(
  input: string | Uint8Array,
  cwd: string,
  env: Readonly<Record<string, string>>,
  ...commandLine: readonly string[]
): Promise<Ended> {
  return await new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      ["--conditions", "development", executable, ...commandLine],
      { cwd, env: commandEnvironment(env), maxBuffer: 64 * 2 ** 20 },
      (error, stdout, stderr) => {
        const exitCode = error === null ? 0 : typeof error.code === "number" ? error.code : -1;
        resolve({ exitCode, stdout, stderr });
      },
    );
    // A command that does not read its stdin may end before the input is written.
    child.stdin?.on("error", () => undefined);
    child.stdin?.end(input);
  });
}

/** Starts `keyward` as {@link keyward} does, for a test that reads its output while it runs, and that sends signals. */
export function startKeyward(
  cwd: string,
  env: Readonly<Record<string, string>>,
  ...commandLine: readonly string[]
): ChildProcessByStdio<null, Readable, Readable> {
  return spawn(process.execPath, ["--conditions", "development", executable, ...commandLine], {
    cwd,
    env: commandEnvironment(env),
    stdio: ["ignore", "pipe", "pipe"],
  });
}
