import { once } from "node:events";
import { mkdir, mkdtemp, readdir, readFile, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, relative } from "node:path";
import { expect, onTestFinished } from "vitest";
import { keyward, startKeyward } from "./keyward-process.ts";

/** A secrets service of its own, which a test has set up in a new folder. */
export interface Service {
  readonly folder: string;
  readonly operator: string;
  readonly admin: string;
}

/** A process of `keyward gateway start` that listens. */
export interface RunningGateway {
  /** The URL of the admin API. */
  readonly url: string;
  /** The URL of the gateway, for calls. */
  readonly callUrl: string;
  readonly processId: number;
  /** What the process has printed on stdout and on stderr. */
  printed(): { readonly stdout: string; readonly stderr: string };
  /** Sends SIGTERM, and returns the exit code. */
  stop(): Promise<unknown>;
  /** Sends SIGTERM, and a second time when the process handles the first one, as npx does. Returns the exit code. */
  stopThroughParent(): Promise<unknown>;
}

/** Makes a folder that is removed when the test has ended. */
export async function newFolder(): Promise<string> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), "keyward-gateway-")));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** The files in the folder of a service that was set up. */
interface SetUp {
  readonly tokens: Pick<Service, "operator" | "admin">;
  readonly files: ReadonlyMap<string, Buffer>;
}

let setUp: Promise<SetUp> | undefined;

/** Sets a service up with `keyward gateway init`. */
export async function newService(folder: string): Promise<Service> {
  const { exitCode, stdout, stderr } = await keyward(folder, {}, "gateway", "init", "--print-tokens", "--json");
  expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
  const { tokens }: { tokens: { operator: string; admin: string } } = JSON.parse(stdout);
  return { folder, ...tokens };
}

/**
 * Copies a service into an empty folder, for a test that is not about the set-up. The tests of a file share one run of
 * `keyward gateway init`, so their services have the same tokens and keys.
 */
export async function copyOfService(folder: string): Promise<Service> {
  expect(await readdir(folder)).toEqual([]);
  setUp ??= setUpOnce();
  const { tokens, files } = await setUp;
  for (const [name, content] of files) {
    await mkdir(dirname(join(folder, name)), { recursive: true, mode: 0o700 });
    await writeFile(join(folder, name), content, { mode: 0o600 });
  }
  return { folder, ...tokens };
}

async function setUpOnce(): Promise<SetUp> {
  const folder = await realpath(await mkdtemp(join(tmpdir(), "keyward-gateway-")));
  try {
    const { operator, admin } = await newService(folder);
    const files = new Map<string, Buffer>();
    for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (entry.isFile()) files.set(relative(folder, path), await readFile(path));
    }
    return { tokens: { operator, admin }, files };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Starts `keyward gateway start` on a free port, and waits until it listens. The process is killed with the test. */
export async function startGateway(
  folder: string,
  env: Readonly<Record<string, string>> = {},
  ...flags: readonly string[]
): Promise<RunningGateway> {
  const child = startKeyward(folder, env, "gateway", "start", "--port", "0", "--admin-port", "0", "--json", ...flags);
  const ended = once(child, "close").then(([code]: readonly unknown[]) => code);
  onTestFinished(async () => {
    child.kill("SIGKILL");
    await ended;
  });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (data) => {
    stdout += String(data);
  });
  child.stderr.on("data", (data) => {
    stderr += String(data);
  });
  await expect
    .poll(() => (child.exitCode === null ? stdout : `ended: ${stderr}`), { timeout: 60_000 })
    .toMatch(/\n|^ended/);
  expect(stdout, stderr).toMatch(/^\{.*\}\n$/);
  const { url, adminUrl }: { url: string; adminUrl: string } = JSON.parse(stdout);
  return {
    url: adminUrl,
    callUrl: url,
    processId: child.pid ?? -1,
    printed: () => ({ stdout, stderr }),
    stop: async () => {
      child.kill("SIGTERM");
      return await ended;
    },
    stopThroughParent: async () => {
      child.stderr.on("data", (data) => {
        if (String(data).includes("Press Ctrl-C again")) child.kill("SIGTERM");
      });
      child.kill("SIGTERM");
      return await ended;
    },
  };
}
