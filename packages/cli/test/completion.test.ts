import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { keyward } from "./keyward-process.ts";

const run = promisify(execFile);

async function suggestions(...words: readonly string[]): Promise<readonly string[]> {
  const { exitCode, stdout } = await keyward(".", {}, "complete", "--", ...words);
  expect(exitCode).toBe(0);
  return stdout.split("\n").flatMap((line) => (line === "" || line.startsWith(":") ? [] : [line.split("\t")[0] ?? ""]));
}

describe("the completion of a shell", () => {
  it("suggests commands, subcommands, flags and the values of flags", async () => {
    expect(await suggestions("ro")).toEqual(["rotate", "rollback"]);
    expect(await suggestions("keyring", "")).toEqual(expect.arrayContaining(["show", "create", "enable"]));
    expect(await suggestions("rotate", "--un")).toEqual(expect.arrayContaining(["--until", "--unregistered"]));
    expect(await suggestions("census", "--by", "")).toEqual(["store", "namespace"]);
    expect(await suggestions("export", "--client", "")).toEqual(["claude-code", "cursor", "vscode", "windsurf"]);
  });

  it.each(["bash", "zsh", "fish"])("prints a script for %s", async (shell) => {
    const { exitCode, stdout, stderr } = await keyward(".", {}, "completion", shell);
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: "" });
    expect(stdout).toContain("keyward complete --");
  });

  it("prints a script that bash can parse", async () => {
    const { stdout } = await keyward(".", {}, "completion", "bash");
    const read = await run("bash", ["-c", `${stdout}\ncomplete -p keyward`]);
    expect(read.stdout).toContain("__keyward_complete keyward");
  });

  it("refuses an unknown shell", async () => {
    const { exitCode, stderr } = await keyward(".", {}, "completion", "tcsh");
    expect({ exitCode, stderr }).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("zsh, bash, fish") });
  });
});
