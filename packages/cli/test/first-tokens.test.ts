import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Keyring } from "@keyward/core";
import { openAuditLog, SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished } from "vitest";
import { type FirstTokens, setUpService } from "../src/service/first-tokens.ts";
import { newFolder } from "./gateway-process.ts";

async function start() {
  const folder = await newFolder();
  const [store, keys, path] = [new MemoryStore(), Keyring.generate("k1"), join(folder, "audit.db")];
  const setUp = async (show: (first: FirstTokens) => Promise<void>) => {
    const audit = openAuditLog({ path, keys });
    const admin = new SecretsAdmin({ store, keys, audit });
    onTestFinished(async () => {
      await admin.close();
      await audit.close();
    });
    // The output of a container: no terminal.
    const output = { isShown: false, isJson: false };
    await setUpService(output, admin, { workspace: "main", printsTokens: false, beside: path, show });
    return admin;
  };
  const tokenFiles = async () => (await readdir(folder)).filter((name) => name.startsWith("first-tokens-"));
  return { folder, setUp, tokenFiles };
}

describe("the file of the first tokens", () => {
  it("contains the tokens of the process that set the service up, even if another process was halted meanwhile", async () => {
    const { folder, setUp, tokenFiles } = await start();
    let resume: (() => void) | undefined;
    const refusal = expect(setUp(() => new Promise<void>((resolve) => (resume = resolve)))).rejects.toMatchObject({
      message: "Another process has taken over the initialization of the service",
    });
    await expect.poll(() => resume, { timeout: 10_000 }).toBeDefined();
    const halted = await tokenFiles();
    const admin = await setUp(async () => {});
    const valid = await tokenFiles();
    resume?.();
    await refusal;
    expect(await tokenFiles()).toEqual(valid);
    expect(valid).toHaveLength(1);
    expect(valid).not.toEqual(halted);
    const tokens = (await readFile(join(folder, valid[0] ?? ""), "utf8")).match(/kwt_\S+/g) ?? [];
    expect(tokens).toHaveLength(2);
    for (const token of tokens) await admin.authenticate(token);
  });

  it("replaces the file of a process that was stopped", async () => {
    const { folder, setUp, tokenFiles } = await start();
    const left = ["first-tokens-audit.db-000000.txt", "first-tokens-audit.db-111111.txt.222222222222.unfinished"];
    for (const name of left) await writeFile(join(folder, name), "refused");
    await setUp(async () => {});
    const [file, ...others] = await tokenFiles();
    expect(file).toMatch(/^first-tokens-audit\.db-[0-9a-f]{6}\.txt$/);
    expect(left).not.toContain(file);
    expect(others).toEqual([]);
  });

  it("does not replace or delete the files of other services and programs", async () => {
    const { folder, setUp, tokenFiles } = await start();
    const others = [
      "first-tokens-other.db-000000.txt",
      "first-tokens-audit.db-old-000000.txt",
      "first-tokens-audit_db-000000.txt",
      "first-tokens-audit.db-000000.txt.copy",
      "first-tokens-notes.txt",
    ];
    for (const name of others) await writeFile(join(folder, name), "kept");
    await setUp(async () => {});
    expect(await tokenFiles()).toEqual(expect.arrayContaining(others));
    expect(await tokenFiles()).toHaveLength(others.length + 1);
  });
});
