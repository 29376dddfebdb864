import { execFile } from "node:child_process";
import { promisify } from "node:util";

const run = promisify(execFile);
const installMs = 300_000;

/** Installs a package of Debian or Ubuntu, if that needs no password or confirmation. */
export async function installWithApt(name: string): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error("only root may");
  const options = { env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" }, timeout: installMs };
  const wait = ["-o", "DPkg::Lock::Timeout=240"];
  await run("apt-get", [...wait, "update"], options);
  await run("apt-get", [...wait, "install", "-y", "--no-install-recommends", name], options);
}
