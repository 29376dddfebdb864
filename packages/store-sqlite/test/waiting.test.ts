import { DatabaseSync } from "node:sqlite";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { temporaryFile } from "./temporary-directory.ts";

/** Locks the file like another process with a long transaction, and returns a function that ends the transaction. */
function lock(path: string): () => void {
  const database = new DatabaseSync(path);
  database.exec("BEGIN IMMEDIATE");
  onTestFinished(() => database.close());
  return () => database.exec("ROLLBACK");
}

describe("a locked file", () => {
  it("makes a write wait without blocking the event loop or reads", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    await store.set("key", "old");
    const unlock = lock(path);
    let ended = false;
    const write = store.set("key", "new").finally(() => {
      ended = true;
    });
    for (let turn = 0; turn < 10; turn++) {
      expect(await store.get("key")).toBe("old");
      await sleep(5);
    }
    expect(ended).toBe(false);
    unlock();
    await write;
    expect(await store.get("key")).toBe("new");
    await store.disconnect();
  });

  it("makes batches and replacements wait until it is unlocked", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    await store.set("key", "old");
    const unlock = lock(path);
    const calls = Promise.all([
      store.setMany([{ key: "many", value: "value" }]),
      store.replace("key", "old", "new"),
      store.deleteMany(["none"]),
    ]);
    await sleep(30);
    unlock();
    expect(await calls).toEqual([[true], true, [false]]);
    await store.disconnect();
  });

  it("makes a write reject if the lock lasts longer than busyTimeoutMs", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path, { busyTimeoutMs: 50 });
    const unlock = lock(path);
    await expect(store.set("key", "value")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: expect.stringContaining("50 ms"),
      hint: expect.stringContaining("busyTimeoutMs"),
    });
    unlock();
    expect(await store.set("key", "value")).toBe(true);
    await store.disconnect();
  });

  it("makes a waiting write fail when the store disconnects", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    lock(path);
    const write = store.set("key", "value");
    const rejected = expect(write).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    await store.disconnect();
    await rejected;
  });

  it("is made a store by the waiting write if it is empty when it is unlocked", async () => {
    const path = temporaryFile();
    const unlock = lock(path);
    const store = new SqliteStore(path);
    const write = store.set("key", "value");
    await sleep(30);
    unlock();
    await write;
    expect(await store.get("key")).toBe("value");
    await store.disconnect();
  });

  it("makes a write wait, and the write uses its original namespace even if the store's namespace changes meanwhile", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    store.namespace = "first";
    const unlock = lock(path);
    const write = store.set("key", "value");
    store.namespace = "second";
    unlock();
    await write;
    expect(await store.has("key")).toBe(false);
    expect(await store.namespaced("first").has("key")).toBe(true);
    await store.disconnect();
  });
});

function rowsIn(path: string): number {
  const database = new DatabaseSync(path, { readOnly: true });
  try {
    return Number(database.prepare("SELECT count(*) AS number FROM entries").get()?.["number"]);
  } finally {
    database.close();
  }
}

describe("many or large records", () => {
  const large = "x".repeat(2 ** 20);

  it.each([
    ["many small records", Array.from({ length: 5_000 }, (_, index) => ({ key: `${index}`, value: "value" }))],
    ["some large records", Array.from({ length: 6 }, (_, index) => ({ key: `${index}`, value: large }))],
  ])("are cleared in steps, between which the event loop runs other work: %s", async (_, records) => {
    const store = new SqliteStore(temporaryFile());
    await store.setMany(records);
    await store.namespaced("other").set("key", "value");
    let ended = false;
    const cleared = store.clear().finally(() => {
      ended = true;
    });
    let turns = 0;
    for (; !ended; turns++) await nextTurn();
    await cleared;
    expect(turns).toBeGreaterThan(2);
    expect((await store.scan()).entries.map(({ namespace }) => namespace)).toEqual(["other"]);
    await store.disconnect();
  });

  it("are read a few at a time by an iteration if they are large", async () => {
    const store = new SqliteStore(temporaryFile());
    await store.setMany(Array.from({ length: 8 }, (_, index) => ({ key: `${index}`, value: large })));
    const keys: string[] = [];
    for await (const [key] of store.iterator()) {
      keys.push(key);
      // Records that were already read are still yielded.
      if (key === "3") await store.clear();
    }
    expect(keys).toEqual(["0", "1", "2", "3"]);
    await store.disconnect();
  });
});

describe("expired rows", () => {
  it("stay in the file after reads, and are removed by sweep(), including rows of the reserved space", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path, { sweepMs: 0 });
    // On a busy machine, the batch could take longer than any expiry that is short enough for a test.
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => {
      vi.useRealTimers();
    });
    const expires = Date.now() + 100;
    const entries = Array.from({ length: 1200 }, (_, index) => ({ key: `key-${index}`, value: "value", expires }));
    await store.setMany(entries);
    await store.reserved().set("key", "value", expires);
    await store.set("staying", "value");
    expect(await store.has("key-0")).toBe(true);
    vi.setSystemTime(expires);
    expect(await store.has("key-0")).toBe(false);
    expect(rowsIn(path)).toBe(1202);
    expect(await store.sweep()).toBe(1201);
    expect(await store.sweep()).toBe(0);
    expect(rowsIn(path)).toBe(1);
    await store.disconnect();
  });

  it("are never written, because a write whose expiry has passed only removes the existing record", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path, { sweepMs: 0 });
    await store.set("key", "value");
    await store.set("key", "value", Date.now() - 1);
    await store.setMany([{ key: "other", value: "value", expires: 0 }]);
    expect(rowsIn(path)).toBe(0);
    await store.disconnect();
  });

  it("are removed in the background after sweepMs", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path, { sweepMs: 20 });
    await store.set("key", "value", Date.now() + 50);
    await store.set("staying", "value");
    await vi.waitFor(() => expect(rowsIn(path)).toBe(1), { timeout: 10_000 });
    expect(await store.get("staying")).toBe("value");
    await store.disconnect();
  });

  it("are removed by a later sweep after a sweep has failed and the store has emitted sweep:error", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path, { sweepMs: 20, busyTimeoutMs: 0 });
    const errors: unknown[] = [];
    store.on("sweep:error", (error) => errors.push(error));
    await store.set("key", "value", Date.now() + 50);
    const unlock = lock(path);
    await vi.waitFor(() => expect(errors).not.toEqual([]), { timeout: 10_000 });
    expect(errors[0]).toMatchObject({ code: "STORE_UNAVAILABLE" });
    unlock();
    await vi.waitFor(() => expect(rowsIn(path)).toBe(0), { timeout: 10_000 });
    await store.disconnect();
  });

  it("are removed by a later sweep even if a listener of sweep:error throws, and the process survives", async () => {
    const path = temporaryFile();
    const unhandled: unknown[] = [];
    const note = (reason: unknown) => unhandled.push(reason);
    // Replaces the listeners of the test runner, which would end the run.
    const runners = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    process.on("unhandledRejection", note);
    const store = new SqliteStore(path, { sweepMs: 20, busyTimeoutMs: 0 });
    try {
      const listener = vi.fn(() => {
        throw new Error("a listener of the application is broken");
      });
      store.on("sweep:error", listener);
      await store.set("key", "value", Date.now() + 50);
      const unlock = lock(path);
      await vi.waitFor(() => expect(listener.mock.calls.length).toBeGreaterThan(1), { timeout: 10_000 });
      unlock();
      await vi.waitFor(() => expect(rowsIn(path)).toBe(0), { timeout: 10_000 });
    } finally {
      await store.disconnect();
      process.off("unhandledRejection", note);
      for (const runner of runners) process.on("unhandledRejection", runner);
    }
    expect(unhandled).toEqual([]);
  });
});
