import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { copyFile, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { AdminClient } from "@keyward/admin/client";
import { expect, it } from "vitest";
import { commandEnvironment } from "../../../test/command-environment.ts";
import { newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

const page = readFileSync(new URL("../../../docs/gateway.md", import.meta.url), "utf8");

it("backs a running service up with the commands of the guide that need only Node.js", async () => {
  const [copying = ""] = /^cp keyward\.config\.ts .*$/m.exec(page) ?? [];
  const [loop = ""] = /^for name in service audit; do$[\s\S]*?^done$/m.exec(page) ?? [];
  const [, restoring = ""] = /`(mkdir -m 700 \.keyward [^`]*)`/.exec(page) ?? [];
  const [folder, backup, restored] = [await newFolder(), await newFolder(), await newFolder()];
  const { admin } = await newService(folder);
  const { url } = await startGateway(folder);
  await new AdminClient({ url, token: admin }).createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
  const env = { ...commandEnvironment({}), PATH: `${dirname(process.execPath)}:${process.env["PATH"]}` };
  const run = async (cwd: string, script: string) =>
    await promisify(execFile)("sh", ["-ec", script.replaceAll("/mnt/backup", backup)], { cwd, env });
  await run(folder, `umask 077\n${copying}\n${loop}`);
  expect((await readdir(backup)).toSorted()).toEqual([".gitignore", "audit.db", "keyward.config.ts", "service.db"]);

  await run(restored, `umask 077\n${restoring}\ncp ${backup}/keyward.config.ts .\ncp ${backup}/*.db .keyward/`);
  await copyFile(join(folder, ".keyward/keyring.json"), join(restored, ".keyward/keyring.json"));
  const decrypted = async (at: string) => {
    const { stdout } = await keyward(at, {}, "gateway", "doctor");
    return /\d+ records were decrypted/.exec(stdout)?.[0];
  };
  const { exitCode, stdout } = await keyward(restored, {}, "gateway", "doctor");
  expect({ exitCode, stdout }).toMatchObject({ exitCode: 0, stdout: expect.not.stringMatching(/warning|PROBLEM/) });
  expect(stdout).toContain(await decrypted(folder));
});
