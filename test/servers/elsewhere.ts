import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";

/** Runs a starter program of this folder in another process, and returns what it printed about its server. */
export async function startElsewhere<Said>(
  starter: string,
  environment: NodeJS.ProcessEnv = process.env,
): Promise<{ readonly child: ChildProcess; readonly said: Said }> {
  const child = spawn(process.execPath, [fileURLToPath(new URL(starter, import.meta.url))], {
    stdio: ["ignore", "pipe", "inherit"],
    env: environment,
  });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  const [line] = await once(child.stdout, "data");
  const said: Said = JSON.parse(String(line));
  return { child, said };
}
