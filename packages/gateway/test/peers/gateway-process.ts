import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { exportKeyring } from "@keyward/core";
import { onTestFinished } from "vitest";
import type { Installation } from "../installation.ts";

const program = join(import.meta.dirname, "gateway-program.ts");

/** Starts a second gateway, in a process of its own, over the store and the audit of the first one. Returns its URL. */
export async function startSecondGateway(
  { keys, auditPath }: Pick<Installation, "keys" | "auditPath">,
  { storePath, port }: { readonly storePath: string; readonly port: number },
): Promise<string> {
  const child = spawn(process.execPath, ["--conditions", "development", program], {
    env: {
      ...process.env,
      TEST_GATEWAY_KEYRING: exportKeyring(keys),
      TEST_GATEWAY_STORE: storePath,
      TEST_GATEWAY_AUDIT: auditPath,
      TEST_GATEWAY_ADDRESS: `127.0.0.1:${port}`,
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "close");
  onTestFinished(async () => {
    child.kill("SIGTERM");
    await ended;
  });
  const lines = createInterface({ input: child.stdout });
  const [url] = await Promise.race([once(lines, "line"), ended.then(() => [])]);
  if (typeof url !== "string") throw new Error("The second gateway has ended before it listened");
  return url;
}
