import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { temporaryFile } from "./temporary-directory.ts";

/** Starts a process, and waits until it is ready to begin. */
async function start(role: string, path: string, name = "", cwd = process.cwd()): Promise<ChildProcess> {
  const child = fork(fileURLToPath(new URL("other-process.ts", import.meta.url)), [role, path, name], {
    cwd,
    execArgv: ["--disable-warning=ExperimentalWarning"],
  });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  await once(child, "message");
  return child;
}

/** Lets the processes begin together, and waits until all of them have exited with code 0. */
async function finish(children: readonly ChildProcess[]): Promise<void> {
  const ended = children.map((child) => once(child, "exit"));
  for (const child of children) child.send("begin");
  for (const [code] of await Promise.all(ended)) expect(code).toBe(0);
}

describe("several processes on one file", () => {
  it("create the file at the same time without losing a write", async () => {
    const path = temporaryFile();
    const names = ["a", "b", "c", "d"];
    await finish(await Promise.all(names.map((name) => start("write own keys", path, name))));
    const store = new SqliteStore(path);
    for (const name of names) {
      const keys = Array.from({ length: 50 }, (_, index) => `${name}-${index}`);
      expect(await store.getMany(keys)).toEqual(keys.map(() => name));
    }
    await store.disconnect();
  });

  it("create each of 150 files at the same time, and every process can open every file", async () => {
    const path = temporaryFile();
    const names = ["a", "b", "c", "d"];
    const children = await Promise.all(names.map((name) => start("open files", path, name)));
    const failed = Promise.race(children.map((child) => once(child, "exit")));
    for (const child of children) child.send("begin");
    // Two processes meet between two system calls of the creation in about every thirtieth file.
    for (let index = 0; index < 150; index++) {
      const written = Promise.all(children.map((child) => once(child, "message")));
      for (const child of children) child.send(`${path}-${index}`);
      // If a process cannot open the file, the process exits.
      expect(await Promise.race([written, failed])).toEqual(names.map(() => ["written", undefined]));
      const store = new SqliteStore(`${path}-${index}`);
      expect(await store.getMany(names)).toEqual(names);
      await store.disconnect();
    }
  });

  it("lose no increment if all of them increment one counter with replace", async () => {
    const path = temporaryFile();
    await finish(await Promise.all(["a", "b", "c"].map((name) => start("increment", path, name))));
    const store = new SqliteStore(path);
    expect(await store.get("counter")).toBe("150");
    await store.disconnect();
  });

  // POSIX drops all locks of a process on a file when the process closes any descriptor of that file.
  it.runIf(existsSync("/proc/locks"))(
    "keep their locks on the file when they open the file a second time",
    async () => {
      const path = temporaryFile();
      const store = new SqliteStore(path);
      await store.set("key", "value");
      const again = new SqliteStore(path);
      const held = readFileSync("/proc/locks", "utf8").split("\n");
      const ours = held.filter((lock) => lock.includes(` ${process.pid} `) && lock.includes(`:${statSync(path).ino} `));
      expect(ours).not.toEqual([]);
      await Promise.all([store.disconnect(), again.disconnect()]);
    },
  );

  it("treat a relative path as a path, although SQLite would read it as a URI", async () => {
    const directory = dirname(temporaryFile());
    await finish([await start("write own keys", "file:records?mode=memory", "a", directory)]);
    expect(readdirSync(directory)).toEqual(["file:records?mode=memory"]);
    const store = new SqliteStore(join(directory, "file:records?mode=memory"));
    expect(await store.get("a-0")).toBe("a");
    await store.disconnect();
  });

  it("find every acknowledged batch of a killed process, and find the last batch completely or not at all", async () => {
    const path = temporaryFile();
    const keys = Array.from({ length: 200 }, (_, index) => `key-${index}`);
    for (const acknowledgements of [1, 4, 9]) {
      const child = await start("write batches until killed", path);
      let acknowledged = 0;
      const enough = new Promise<void>((resolve) => {
        child.on("message", (batch) => {
          acknowledged = Number(batch);
          if (acknowledged >= acknowledgements) resolve();
        });
      });
      child.send("begin");
      await enough;
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;

      const store = new SqliteStore(path);
      const values = new Set(await store.getMany(keys));
      expect(values.size).toBe(1);
      expect(Number([...values][0])).toBeGreaterThanOrEqual(acknowledged);
      await store.clear();
      await store.disconnect();
    }
  });
});
