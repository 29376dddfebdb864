import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { keyward } from "./keyward-process.ts";
import { Terminal } from "./terminal.ts";

/** A folder with a configuration, and a store with records under the key "first". */
async function withRecords(count: number): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-progress-"));
  onTestFinished(() => rm(folder, { recursive: true }));
  expect(await keyward(folder, {}, "init", "--id", "first")).toMatchObject({ exitCode: 0 });
  const store = new SqliteStore(join(folder, "sessions.sqlite"));
  const keys = fileKeys(join(folder, "production.keyring"));
  const sessions = createKeyv({ store, keys, namespace: "sessions" });
  for (let at = 0; at < count; at += 1_000) {
    const entries = Array.from({ length: Math.min(1_000, count - at) }, (_, index) => ({
      key: `${at + index}`,
      value: 1,
    }));
    await sessions.setMany(entries);
  }
  await sessions.disconnect();
  await store.disconnect();
  return folder;
}

const rotation = ["rotate", "--new-key", "second", "--unregistered", "0s", "--grace", "0s"];

describe("the progress of a rotation", () => {
  it("is shown on a terminal as a bar with the rate and the remaining time, and the last numbers stay visible", async () => {
    const folder = await withRecords(3_000);
    const terminal = new Terminal(folder, {}, ...rotation, "--max-per-second", "1500");
    await terminal.waitFor(/sessions [█░]+ \d+ of 3000 records, \d+ per second, \S+ left/);
    expect(await terminal.end()).toBe(0);
    expect(terminal.text).toMatch(/sessions: 3000 records, 3000 re-encrypted, \d+ per second\n/);
    expect(terminal.text).toContain('rotation from key "first" to "second": done');
  });

  it("is printed without control characters, at most one line each second, if stderr is not a terminal", async () => {
    const folder = await withRecords(3_000);
    const { exitCode, stderr } = await keyward(folder, {}, ...rotation);
    expect(exitCode).toBe(0);
    expect(stderr).toMatch(/^reencrypt\n( {2}sessions: \d+ records, \d+ re-encrypted, \d+ per second\n)+disable$/m);
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what this test looks for.
    expect(stderr).not.toMatch(/[\x00-\x09\x0b-\x1f]/);
  });

  it("is not printed with --quiet, even on a terminal", async () => {
    const folder = await withRecords(10);
    const terminal = new Terminal(folder, {}, ...rotation, "--quiet");
    expect(await terminal.end()).toBe(0);
    expect(terminal.text.trim()).toBe('rotation from key "first" to "second": done');
  });

  it("stops on Ctrl-C, and the same command then continues the rotation", async () => {
    const folder = await withRecords(3_000);
    const terminal = new Terminal(folder, {}, ...rotation, "--max-per-second", "300");
    await terminal.waitFor(/of 3000 records/);
    terminal.press("\x03");
    expect(await terminal.end()).toBe(130);
    expect(terminal.text).toContain("To continue, run the same command again:");
    expect(await keyward(folder, {}, ...rotation)).toMatchObject({
      exitCode: 0,
      stdout: 'rotation from key "first" to "second": done\n',
    });
  });

  it("stops when the terminal closes, and the same command then continues the rotation", async () => {
    const folder = await withRecords(3_000);
    const terminal = new Terminal(folder, {}, ...rotation, "--max-per-second", "300");
    await terminal.waitFor(/of 3000 records/);
    terminal.close();
    await terminal.end();
    expect(await keyward(folder, {}, ...rotation)).toMatchObject({
      exitCode: 0,
      stdout: 'rotation from key "first" to "second": done\n',
    });
  });
});

describe("colors", () => {
  it.each<[string, Readonly<Record<string, string>>, readonly string[], boolean]>([
    ["are printed on a terminal", {}, [], true],
    ["are not printed with NO_COLOR", { NO_COLOR: "1" }, [], false],
    ["are not printed with --no-color", {}, ["--no-color"], false],
    ["are not printed on a terminal that shows no colors", { TERM: "dumb" }, [], false],
  ])("%s", async (_, env, flags, isColored) => {
    const folder = await mkdtemp(join(tmpdir(), "keyward-colors-"));
    onTestFinished(() => rm(folder, { recursive: true }));
    const terminal = new Terminal(folder, env, "census", ...flags);
    expect(await terminal.end()).toBe(2);
    expect(terminal.text).toContain("keyward: The source of the keys is not set (USAGE)");
    expect(terminal.printed.includes("\x1b[31m")).toBe(isColored);
  });
});
