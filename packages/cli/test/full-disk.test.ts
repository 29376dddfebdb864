import { execFile } from "node:child_process";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { commandEnvironment } from "../../../test/command-environment.ts";
import { newFolder, newService } from "./gateway-process.ts";
import { type Ended, executable, keyward } from "./keyward-process.ts";

/**
 * Runs Node.js in a process whose files end at a number of blocks of 512 or 1,024 bytes. A write beyond is cut, and the
 * next one fails, as on a full disk.
 */
async function withRoomFor(blocks: number, cwd: string, ...commandLine: readonly string[]): Promise<Ended> {
  const limited = ["-c", `ulimit -f ${blocks} && exec "$0" "$@"`, process.execPath, "--conditions", "development"];
  return await new Promise((resolve) => {
    execFile("sh", [...limited, ...commandLine], { cwd, env: commandEnvironment({}) }, (error, stdout, stderr) => {
      resolve({ exitCode: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

/** Appends a line of 2,000 characters to a file that may have one more block. */
async function appendOnFullDisk(folder: string, path: string): Promise<Ended> {
  const module = fileURLToPath(new URL("../src/files/append-line.ts", import.meta.url));
  const script = `import { appendLine } from ${JSON.stringify(module)};
    await appendLine(${JSON.stringify(path)}, "x".repeat(2_000)).catch(({ code, message }) => console.log(code, message));`;
  return await withRoomFor(1, folder, "--input-type=module", "--eval", script);
}

describe.skipIf(process.platform === "win32")("on a full disk", () => {
  it("keyward gateway init names the file that it cannot write, and leaves no empty .gitignore", async () => {
    const other = await newFolder();
    await newService(other);
    const folder = await newFolder();
    const configuration = await readFile(join(other, "keyward.config.ts"));
    await writeFile(join(folder, "keyward.config.ts"), configuration, { mode: 0o644 });
    const ended = await withRoomFor(0, folder, executable, "gateway", "init");
    expect(ended).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/\.gitignore cannot be written \(E/) });
    expect(ended.stderr).not.toContain("fault of keyward");
    expect(await readdir(join(folder, ".keyward"))).toEqual([]);
  });

  it("keyward init names the file that it cannot write, and leaves no part of a line in .gitignore", async () => {
    const folder = await newFolder();
    const former = `${"a-line-of-another-program\n".repeat(19)}`;
    await writeFile(join(folder, ".gitignore"), former);
    const ended = await withRoomFor(0, folder, executable, "--store", "a=redis://localhost:1", "init");
    expect(ended).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/\.gitignore cannot be written \(E/) });
    expect(ended.stderr).not.toContain("fault of keyward");
    expect(await readFile(join(folder, ".gitignore"), "utf8")).toBe(former);
  });

  it.each(["", "a line that was there before\n"])(
    "no part of a line is appended to a file with the content %j if the whole line does not fit",
    async (former) => {
      const folder = await newFolder();
      const path = join(folder, "anchors");
      await writeFile(path, former);
      const { stdout } = await appendOnFullDisk(folder, path);
      expect(stdout).toContain(`PROVIDER_UNAVAILABLE The file ${path} cannot be written (E`);
      expect(await readFile(path, "utf8")).toBe(former);
    },
  );
});

describe("after a full disk", () => {
  it.each([
    { left: "", completed: "*\n" },
    { left: "*.log", completed: "*.log\n*\n" },
    { left: "*\n!keyring.json\n", completed: "*\n!keyring.json\n*\n" },
    { left: "!keyring.json\r\n* \r\n", completed: "!keyring.json\r\n* \r\n" },
  ])("keyward gateway init completes a .gitignore with the content $left", async ({ left, completed }) => {
    const folder = await newFolder();
    await mkdir(join(folder, ".keyward"), { mode: 0o700 });
    const path = join(folder, ".keyward", ".gitignore");
    await writeFile(path, left);
    await newService(folder);
    expect(await readFile(path, "utf8")).toBe(completed);
  });

  it("keyward audit anchor treats an empty file as a new one", async () => {
    const folder = await newFolder();
    await newService(folder);
    await writeFile(join(folder, "anchors"), "");
    const verified = await keyward(folder, {}, "audit", "verify", "--anchor", "anchors");
    expect(verified).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("anchors is empty") });
    expect(await keyward(folder, {}, "audit", "anchor", "--out", "anchors")).toMatchObject({ exitCode: 0 });
    expect((await stat(join(folder, "anchors"))).size).toBeGreaterThan(0);
    expect(await keyward(folder, {}, "audit", "verify", "--anchor", "anchors")).toMatchObject({ exitCode: 0 });
  });
});
