import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import type { Assignment } from "./worker-process.ts";

/** Starts a worker in another process, and waits until it is ready. */
export async function startWorkerProcess(assignment: Assignment): Promise<ChildProcess> {
  const child = fork(fileURLToPath(new URL("worker-process.ts", import.meta.url)), {
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  child.send(assignment);
  await once(child, "message");
  return child;
}
