import { execFileSync, spawn, spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fileLocation } from "../../src/keyring/keyring-location.ts";
import { fileCheckpoint } from "../../src/reencryption/checkpoint.ts";

const isRoot = process.geteuid?.() === 0;
const stranger = 65534;

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "keyward-files-"));
  chmodSync(folder, 0o755);
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

function modeOf(path: string): number {
  return lstatSync(path).mode & 0o777;
}

/** Creates another file of the same user, and plants a symbolic link to it. */
function plantLink(at: string): string {
  const victim = join(folder, "victim");
  writeFileSync(victim, "precious");
  symlinkSync(victim, at);
  return victim;
}

describe.skipIf(process.platform === "win32")("a checkpoint in a file", () => {
  it("does not change the target of a link that an attacker planted, and does not keep the mode of a file that an attacker planted", async () => {
    const path = join(folder, "job");
    const checkpoint = fileCheckpoint(path);
    await checkpoint.write("one");
    for (const suffix of [".next", ".new"]) {
      rmSync(join(folder, "victim"), { force: true });
      const victim = plantLink(path + suffix);
      await checkpoint.write("two");
      expect(readFileSync(victim, "utf8")).toBe("precious");
      expect(lstatSync(path).isFile()).toBe(true);
      rmSync(path + suffix, { force: true });
      writeFileSync(path + suffix, "");
      chmodSync(path + suffix, 0o666);
      await checkpoint.write("three");
      expect(await checkpoint.read()).toBe("three");
      expect(modeOf(path)).toBe(0o600);
      rmSync(path + suffix, { force: true });
    }
  });

  it("is refused if it is a link, a folder or a pipe", async () => {
    const path = join(folder, "job");
    plantLink(path);
    await expect(fileCheckpoint(path).read()).rejects.toMatchObject({
      code: "CHECKPOINT_INVALID",
      message: `The checkpoint ${JSON.stringify(path)} is a symbolic link`,
    });
    mkdirSync(join(folder, "directory"));
    execFileSync("mkfifo", [join(folder, "pipe")]);
    for (const name of ["directory", "pipe"]) {
      await expect(fileCheckpoint(join(folder, name)).read()).rejects.toMatchObject({
        code: "CHECKPOINT_INVALID",
        message: expect.stringContaining("not a regular file"),
      });
    }
  });

  it.skipIf(!isRoot)("is refused if another user wrote it", async () => {
    const path = join(folder, "job");
    writeFileSync(path, "{}");
    chownSync(path, stranger, stranger);
    await expect(fileCheckpoint(path).read()).rejects.toMatchObject({
      code: "CHECKPOINT_INVALID",
      message: expect.stringContaining("belongs to another user"),
    });
    await fileCheckpoint(path).write("own");
    expect(await fileCheckpoint(path).read()).toBe("own");
  });

  it("cannot be written if its folder is missing, and the hint is to create the folder", async () => {
    const nowhere = fileCheckpoint(join(folder, "missing", "job"));
    expect(await nowhere.read()).toBeUndefined();
    await expect(nowhere.write("text")).rejects.toMatchObject({
      code: "CHECKPOINT_INVALID",
      message: expect.stringContaining("ENOENT"),
      hint: expect.stringContaining("create the folder"),
    });
  });
});

describe.skipIf(process.platform === "win32")("the lock file beside a keyring file", () => {
  const change = (path: string, from: string | undefined, to: string) => fileLocation(path).replace(from, to);

  it("can be opened only by its owner", async () => {
    const path = join(folder, "ring");
    await change(path, undefined, "one");
    expect(modeOf(`${path}.lock`)).toBe(0o600);
  });

  it("is closed to other users even if an earlier release created a lock file that every user can open", async () => {
    const path = join(folder, "ring");
    writeFileSync(`${path}.lock`, "");
    chmodSync(`${path}.lock`, 0o666);
    await change(path, undefined, "one");
    expect(modeOf(`${path}.lock`)).toBe(0o600);
  });

  it("can be opened by a group if the group may write the keyring file", async () => {
    const path = join(folder, "ring");
    writeFileSync(path, "one");
    chmodSync(path, 0o664);
    await change(path, "one", "two");
    expect([modeOf(path), modeOf(`${path}.lock`)]).toEqual([0o664, 0o660]);
  });

  it("is refused if it is a link, and no file is created at the target of the link", async () => {
    const path = join(folder, "ring");
    symlinkSync(join(folder, "elsewhere"), `${path}.lock`);
    await expect(change(path, undefined, "one")).rejects.toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      message: expect.stringContaining("is a symbolic link"),
    });
    expect(readdirSync(folder)).toEqual(["ring.lock"]);
  });

  it("is refused and left unchanged if it is not an empty file", async () => {
    const path = join(folder, "ring");
    writeFileSync(`${path}.lock`, "something else");
    await expect(change(path, undefined, "one")).rejects.toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      message: expect.stringContaining("is not an empty file"),
      hint: expect.stringContaining(
        "Make sure that no process is changing the file that the .lock file guards. Then remove the .lock file",
      ),
    });
    expect([readFileSync(`${path}.lock`, "utf8"), existsSync(path)]).toEqual(["something else", false]);
  });

  it.skipIf(!isRoot)("is refused if a user other than the owner of the keyring file created it", async () => {
    const path = join(folder, "ring");
    writeFileSync(`${path}.lock`, "");
    chownSync(`${path}.lock`, stranger, stranger);
    await expect(change(path, undefined, "one")).rejects.toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      message: expect.stringContaining("belongs to another user"),
    });
    writeFileSync(path, "one");
    chownSync(path, stranger, stranger);
    expect(await change(path, "one", "two")).toBe(true);
  });

  it.skipIf(!isRoot)("belongs to the owner of the keyring file if root creates the lock file", async () => {
    const path = join(folder, "ring");
    writeFileSync(path, "one");
    chownSync(path, stranger, stranger);
    await change(path, "one", "two");
    expect(statSync(`${path}.lock`)).toMatchObject({ uid: stranger, gid: stranger });
    expect(statSync(path)).toMatchObject({ uid: stranger, gid: stranger });
  });

  it.skipIf(!isRoot)(
    "is given to the new owner of the keyring file if the owner changed after root created the lock file",
    async () => {
      const path = join(folder, "ring");
      await change(path, undefined, "one");
      chownSync(path, stranger, stranger);
      await change(path, "one", "two");
      expect(statSync(`${path}.lock`)).toMatchObject({ uid: stranger, gid: stranger });
    },
  );

  it.skipIf(!isRoot)("cannot be opened by a user that may not write the keyring file", async () => {
    const path = join(folder, "ring");
    await change(path, undefined, "one");
    const reader = spawn(
      process.execPath,
      ["-e", "require('node:fs').openSync(process.argv[1], 'r')", `${path}.lock`],
      {
        uid: stranger,
        gid: stranger,
        stdio: ["ignore", "ignore", "pipe"],
      },
    );
    let output = "";
    reader.stderr.on("data", (data) => {
      output += data;
    });
    await new Promise((resolve) => reader.once("close", resolve));
    expect(output).toContain("EACCES");
  });
});

describe.skipIf(!isRoot || process.platform !== "linux")("a keyring file that cannot be written", () => {
  const notAllowed = "this machine does not let a test mount a file system";

  /** Mounts a file system. Returns false if the test is not allowed to mount one on this machine. */
  function mounted(...how: readonly string[]): boolean {
    return spawnSync("mount", how, { stdio: "ignore" }).status === 0;
  }

  const cases = [
    { name: "on a full disk", mount: "size=64k", code: "PROVIDER_UNAVAILABLE", word: "ENOSPC", hint: "Make room" },
    { name: "in a read-only mount", mount: "ro", code: "PROVIDER_READ_ONLY", word: "EROFS", hint: "mounted read-only" },
  ];
  it.for(cases)("is unchanged $name, and the error names the cause", async ({ mount, code, word, hint }, { skip }) => {
    skip(!mounted("-t", "tmpfs", "-o", mount, "none", folder), notAllowed);
    const fill = word === "ENOSPC";
    try {
      const path = join(folder, "ring");
      if (fill) {
        writeFileSync(path, "one");
        expect(() => writeFileSync(join(folder, "rest"), Buffer.alloc(65_536))).toThrow("ENOSPC");
      }
      const expected = fill ? "one" : undefined;
      await expect(fileLocation(path).replace(expected, "x".repeat(9_000))).rejects.toMatchObject({
        code,
        message: expect.stringContaining(word),
        hint: expect.stringContaining(hint),
      });
      expect(await fileLocation(path).read()).toBe(expected);
      // requireWritable cannot know whether the disk has room.
      const asked = fileLocation(path).requireWritable?.();
      if (fill) await asked;
      else await expect(asked).rejects.toMatchObject({ code, message: expect.stringContaining(word) });
    } finally {
      execFileSync("umount", ["-l", folder]);
    }
  });

  it("makes requireWritable() throw if the file itself is a mount point", async ({ skip }) => {
    const path = join(folder, "a ring");
    writeFileSync(path, "one");
    await fileLocation(path).requireWritable?.();
    skip(!mounted("--bind", path, path), notAllowed);
    try {
      const refusal = { code: "PROVIDER_READ_ONLY", message: expect.stringContaining("EBUSY") };
      await expect(fileLocation(path).requireWritable?.()).rejects.toMatchObject(refusal);
      await expect(fileLocation(path).replace("one", "two")).rejects.toMatchObject(refusal);
      expect(await fileLocation(path).read()).toBe("one");
    } finally {
      execFileSync("umount", [path]);
    }
  });
});
