import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import type { Assignment } from "./worker-process.ts";

/** A worker in a process of its own, once it has said its first word. */
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
