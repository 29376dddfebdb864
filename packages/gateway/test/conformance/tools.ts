import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { copyFile, mkdir, mkdtemp, readFile, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);
const manifests = join(import.meta.dirname, "tools");
const files = ["package.json", "package-lock.json"] as const;

/** Returns the `node_modules` folder, in the user's cache, with the packages of `tools/package-lock.json`. */
export async function installedTools(): Promise<string> {
  const lock = await readFile(join(manifests, "package-lock.json"));
  const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "keyward");
  const folder = join(cache, `mcp-tools-${createHash("sha256").update(lock).digest("hex").slice(0, 8)}`);
  if (existsSync(folder)) return join(folder, "node_modules");
  await mkdir(cache, { recursive: true });
  const unfinished = await mkdtemp(`${folder}-`);
  try {
    for (const file of files) await copyFile(join(manifests, file), join(unfinished, file));
    console.error("Installing the tools with npm, without their scripts.");
    await run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], { cwd: unfinished });
    await rename(unfinished, folder);
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  return join(folder, "node_modules");
}

/** Runs a program of Node.js in a folder to its end. Returns what the program has printed. */
export async function runProgram(
  program: string,
  given: readonly string[],
  cwd: string,
): Promise<{ readonly exitCode: number | null; readonly stdout: string; readonly stderr: string }> {
  const child = spawn(process.execPath, [program, ...given], {
    cwd,
    // What a program keeps for its user ends with the folder.
    env: { ...process.env, HOME: cwd },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const printed = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text) => {
      printed[name] += String(text);
    });
  }
  const exitCode = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  return { exitCode, ...printed };
}
