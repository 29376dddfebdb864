import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { exportKeyring, type KeyProvider, Keyring, type KeyringChange } from "@keyward/core";
import { describe, expect, it, onTestFinished } from "vitest";
import { envKeys, fileKeys } from "../src/index.ts";

const run = promisify(execFile);
const newKey = () => randomBytes(32).toString("base64");
const add = { kind: "add", keyId: "2026-12" } as const;
const promote = { kind: "promote", keyId: "2026-12", former: "2026-11" } as const;
const remove = { kind: "remove", keyId: "2026-11" } as const;
const replace = { kind: "replace", keyId: "2026-12", former: "2026-11" } as const;

async function newFolder(name: string): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-change-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  await mkdir(join(folder, name));
  return join(folder, name);
}

async function instructionOf(keys: KeyProvider, change: KeyringChange) {
  const instruction = await keys.describeChange?.(change, await keys.load());
  if (instruction === undefined) throw new Error("The provider does not describe changes");
  return instruction;
}

/** Returns the command in the line of an instruction that begins with `beginning`. */
function commandIn(text: string, beginning: string): string {
  const line = text.split("\n").find((each) => each.startsWith(beginning));
  if (line === undefined) throw new Error(`No line begins with ${beginning}`);
  return line.slice(line.indexOf(": ") + 2);
}

function shown({ keys, primary }: Keyring): string {
  return `${keys
    .map(({ id }) => id)
    .toSorted()
    .join(" ")}, primary ${primary}`;
}

async function newDirectory(name: string): Promise<string> {
  const directory = await newFolder(name);
  await writeFile(join(directory, "2026-11"), newKey());
  await writeFile(join(directory, "primary"), "2026-11");
  return directory;
}

describe("the instruction to change a directory of keys", () => {
  it.each([
    ["an ordinary path", "app-keys"],
    ["a path with a quote, a space and a dollar sign", "it's $HOME keys"],
  ])("contains shell commands that make each change on a disk, with %s", async (_, name) => {
    const directory = await newDirectory(name);
    const keys = fileKeys(directory);
    const former = await readFile(join(directory, "2026-11"), "utf8");
    const seen: string[] = [];
    for (const change of [add, promote, remove]) {
      const { text, needsRestart } = await instructionOf(keys, change);
      expect(needsRestart).toBe(false);
      expect(text).not.toContain(former);
      await run("sh", ["-c", commandIn(text, "On a disk")]);
      seen.push(shown(await keys.load()));
    }
    expect(seen).toEqual([
      "2026-11 2026-12, primary 2026-11",
      "2026-11 2026-12, primary 2026-12",
      "2026-12, primary 2026-12",
    ]);
  });

  it("contains a shell command that replaces the primary on a disk and removes the former primary", async () => {
    const directory = await newDirectory("app-keys");
    const keys = fileKeys(directory);
    for (const change of [add, replace]) {
      await run("sh", ["-c", commandIn((await instructionOf(keys, change)).text, "On a disk")]);
    }
    expect(shown(await keys.load())).toBe("2026-12, primary 2026-12");
  });

  it("has commands for a disk that keep the mode of files which their owner cannot write", async () => {
    const directory = await newDirectory("app-keys");
    for (const file of ["2026-11", "primary"]) await chmod(join(directory, file), 0o440);
    const keys = fileKeys(directory);
    for (const change of [add, promote]) {
      await run("sh", ["-c", commandIn((await instructionOf(keys, change)).text, "On a disk")]);
    }
    expect(shown(await keys.load())).toBe("2026-11 2026-12, primary 2026-12");
    expect((await stat(join(directory, "2026-12"))).mode & 0o777).toBe(0o640);
  });

  it("contains kubectl commands whose patches make each change in a Secret", async () => {
    const directory = await newDirectory("app-keys");
    const keys = fileKeys(directory);
    // Records what kubectl is called with, because there is no cluster here.
    const bin = await newFolder("bin");
    await writeFile(
      join(bin, "kubectl"),
      `#!/bin/sh\nfor a; do printf '%s\\n' "$a"; done > '${bin}/arguments'\ncase "$*" in *--patch-file*) cat > '${bin}/input';; esac\n`,
    );
    await chmod(join(bin, "kubectl"), 0o755);
    const patchOf = async (change: KeyringChange) => {
      const { text } = await instructionOf(keys, change);
      const env = { ...process.env, PATH: `${bin}:${process.env["PATH"]}` };
      await run("sh", ["-c", commandIn(text, "In Kubernetes")], { env });
      const given = (await readFile(join(bin, "arguments"), "utf8")).trim().split("\n");
      expect(given.slice(0, 4)).toEqual(["patch", "secret", "NAME", "--type"]);
      const patch: unknown = JSON.parse(
        given[5] === "--patch-file" ? await readFile(join(bin, "input"), "utf8") : (given[6] ?? ""),
      );
      return { type: given[4], patch };
    };
    const added = await patchOf(add);
    expect(added).toEqual({
      type: "merge",
      patch: { stringData: { "2026-12": expect.stringMatching(/^[\w+/]{43}=$/) } },
    });
    expect(await patchOf(promote)).toEqual({ type: "merge", patch: { stringData: { primary: "2026-12" } } });
    expect(await patchOf(remove)).toEqual({ type: "json", patch: [{ op: "remove", path: "/data/2026-11" }] });
    expect(await patchOf(replace)).toEqual({
      type: "json",
      patch: [
        { op: "replace", path: "/data/primary", value: Buffer.from("2026-12").toString("base64") },
        { op: "remove", path: "/data/2026-11" },
      ],
    });
  });
});

describe("the instruction for a change of keys", () => {
  it("names the environment variables to change, and asks for a restart", async () => {
    const [old, next] = [newKey(), newKey()];
    let env: Record<string, string> = { APP_KEY: `2026-11=${old}` };
    const keys = envKeys("APP_KEY", { env: new Proxy({}, { get: (_, name) => env[String(name)] }) });
    const changed: Record<"add" | "promote" | "remove", Record<string, string>> = {
      add: { APP_KEY: `2026-11=${old}`, APP_KEY_OTHERS: `2026-12=${next}` },
      promote: { APP_KEY: `2026-12=${next}`, APP_KEY_OTHERS: `2026-11=${old}` },
      remove: { APP_KEY: `2026-12=${next}` },
    };
    for (const change of [add, promote, remove]) {
      const { text, needsRestart } = await instructionOf(keys, change);
      expect(needsRestart).toBe(true);
      expect(text).toMatch(/APP_KEY_OTHERS.*restart the processes/s);
      expect(text).not.toContain(old);
      expect(text).not.toContain(next);
      env = changed[change.kind];
    }
    expect(shown(await keys.load())).toBe("2026-12, primary 2026-12");
    expect((await instructionOf(keys, replace)).text).toContain("in neither of the variables");
  });

  it("is refused for a passphrase with a comma, because <NAME>_OTHERS separates its keys by commas", async () => {
    const passphrase = "first half of a long passphrase, second half of a long passphrase";
    const keys = envKeys("APP_KEY", { env: { APP_KEY: passphrase }, passphrase: true });
    await expect(instructionOf(keys, add)).rejects.toMatchObject({ code: "KEY_INVALID" });
  });

  it("is the same for a directory in <NAME>_FILE as for a directory that is passed to fileKeys", async () => {
    const directory = await newDirectory("app-keys");
    const keys = envKeys("APP_KEY", { env: { APP_KEY_FILE: directory } });
    expect(await instructionOf(keys, add)).toEqual(await instructionOf(fileKeys(directory), add));
  });

  it("asks to replace a file with a single key by a directory that keeps the key", async () => {
    const folder = await newFolder("keys");
    const path = join(folder, "key");
    const old = newKey();
    await writeFile(path, old);
    const keys = fileKeys(path);
    const { primary } = await keys.load();
    const { text, needsRestart } = await instructionOf(keys, add);
    expect(needsRestart).toBe(false);
    expect(text).toContain(`a file "${primary}" that holds the present key`);
    expect(text).not.toContain(old);
    await rm(path);
    await mkdir(path);
    await writeFile(join(path, primary), old);
    await writeFile(join(path, "2026-12"), newKey());
    await writeFile(join(path, "primary"), primary);
    expect(shown(await keys.load())).toBe(`2026-12 ${primary}, primary ${primary}`);
  });

  it("keeps both keys loadable after each step if a file holds one key and <NAME>_OTHERS holds the other key", async () => {
    const folder = await newFolder("keys");
    const path = join(folder, "key");
    const [old, next] = [newKey(), newKey()];
    await writeFile(path, old);
    let env: Record<string, string> = { APP_KEY_FILE: path };
    const keys = envKeys("APP_KEY", { env: new Proxy({}, { get: (_, name) => env[String(name)] }) });
    const { primary } = await keys.load();
    const added = await instructionOf(keys, add);
    expect(added.needsRestart).toBe(true);
    expect(added.text).toContain(
      `Add the present content of the file ${path} (key "${primary}") to APP_KEY_OTHERS too`,
    );
    env = { APP_KEY_FILE: path, APP_KEY_OTHERS: `${old},2026-12=${next}` };
    expect(shown(await keys.load())).toBe(`2026-12 ${primary}, primary ${primary}`);
    expect((await instructionOf(keys, { ...promote, former: primary })).needsRestart).toBe(false);
    await writeFile(path, `2026-12=${next}`);
    expect(shown(await keys.load())).toBe(`2026-12 ${primary}, primary 2026-12`);
    expect((await instructionOf(keys, { kind: "remove", keyId: primary })).needsRestart).toBe(true);
    env = { APP_KEY_FILE: path, APP_KEY_OTHERS: `2026-12=${next}` };
    expect(shown(await keys.load())).toBe("2026-12, primary 2026-12");
  });

  it("contains a JavaScript expression that changes a keyring document", async () => {
    const ring = Keyring.generate("2026-11");
    const folder = await newFolder("keys");
    const path = join(folder, "keyring");
    let document = exportKeyring(ring);
    for (const change of [add, promote, remove]) {
      await writeFile(path, document);
      const { text, needsRestart } = await instructionOf(fileKeys(path), change);
      expect(needsRestart).toBe(false);
      const inVariable = await instructionOf(envKeys("APP_KEY", { env: { APP_KEY: document } }), change);
      expect(inVariable.needsRestart).toBe(true);
      const expression = text.slice(text.indexOf("exportKeyring("));
      expect(inVariable.text).toContain(expression);
      document = String(
        new Function("exportKeyring", "Keyring", "document", `return ${expression}`)(exportKeyring, Keyring, document),
      );
    }
    expect(shown(Keyring.parse(document))).toBe("2026-12, primary 2026-12");
  });
});
