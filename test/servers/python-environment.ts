import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { installWithApt } from "./apt.ts";

const run = promisify(execFile);
const installMs = 300_000;

/**
 * Returns the `bin` folder of a virtual environment in the user's cache that contains exactly the packages of a file of
 * requirements. The environment is created once, by one process at a time.
 */
export async function pythonEnvironment(requirements: string): Promise<string> {
  const pinned = await readFile(requirements, "utf8");
  const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "keyward");
  const digest = createHash("sha256").update(pinned).digest("hex").slice(0, 8);
  const folder = join(cache, `${basename(requirements, ".txt")}-${digest}`);
  const bin = join(folder, "bin");
  const complete = join(folder, "complete");
  if (existsSync(complete)) return bin;
  await mkdir(cache, { recursive: true });
  // The operating system holds the lock, and releases it when a process dies.
  const lock = new DatabaseSync(`${folder}.lock`);
  try {
    const deadline = Date.now() + installMs;
    while (!tryLock(lock)) {
      if (Date.now() > deadline) throw new Error("another process has not finished the installation");
      await sleep(100);
    }
    if (existsSync(complete)) return bin;
    await rm(folder, { recursive: true, force: true });
    await makeEnvironment(folder);
    const quietly = ["--quiet", "--disable-pip-version-check"];
    const pip = ["-m", "pip", "install", ...quietly, "--no-deps", "--requirement", requirements];
    await run(join(bin, "python"), pip, { timeout: installMs });
    await writeFile(complete, "");
    return bin;
  } finally {
    lock.close();
  }
}

async function makeEnvironment(folder: string): Promise<void> {
  try {
    await run("python3", ["-m", "venv", folder], { timeout: installMs });
  } catch (error) {
    // In Debian, venv is a separate package.
    if (process.getuid?.() !== 0) throw error;
    await installWithApt("python3-venv");
    await run("python3", ["-m", "venv", folder], { timeout: installMs });
  }
}

function tryLock(lock: DatabaseSync): boolean {
  try {
    lock.exec("BEGIN EXCLUSIVE");
    return true;
  } catch {
    return false;
  }
}
