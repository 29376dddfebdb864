import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished, type TestContext, vi } from "vitest";
import { temporaryFile } from "./temporary-directory.ts";

const isRoot = process.geteuid?.() === 0;
const stranger = 65534;

async function closedStore(path: string): Promise<void> {
  const store = new SqliteStore(path);
  await store.set("key", "value");
  await store.disconnect();
}

function alter(path: string, sql: string): void {
  // Another program would not protect the schema from itself.
  const database = new DatabaseSync(path, { defensive: false });
  try {
    database.exec(sql);
  } finally {
    database.close();
  }
}

const endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c";

/** Schema objects that another user of the file could plant, and the SQL that removes them. */
const planted = [
  {
    name: "a trigger that never ends",
    plant: `CREATE TRIGGER planted AFTER UPDATE ON entries BEGIN SELECT (${endless}); END`,
    remove: "DROP TRIGGER planted",
  },
  {
    name: "a trigger that undoes writes",
    plant:
      "CREATE TRIGGER planted AFTER UPDATE ON entries BEGIN UPDATE entries SET value = old.value WHERE id = old.id; END",
    remove: "DROP TRIGGER planted",
  },
  {
    name: "a view that replaces the table",
    plant: `DROP TABLE entries; CREATE VIEW entries AS SELECT (${endless}) AS value`,
    remove: undefined,
  },
  {
    name: "a table that replaces a function",
    plant: "CREATE TABLE json_each (key, value)",
    remove: "DROP TABLE json_each",
  },
  {
    name: "a view that replaces a pragma",
    plant: `CREATE VIEW pragma_application_id AS SELECT (${endless}) AS application_id`,
    remove: "DROP VIEW pragma_application_id",
  },
  {
    name: "an index on an expression",
    plant: "CREATE INDEX planted ON entries (hex(value))",
    remove: "DROP INDEX planted",
  },
  {
    name: "an index with an internal name of SQLite",
    plant:
      "CREATE INDEX planted ON entries (hex(value)); PRAGMA writable_schema = ON; " +
      "UPDATE sqlite_schema SET name = 'sqlite_planted', sql = replace(sql, 'planted', 'sqlite_planted') " +
      "WHERE name = 'planted'; PRAGMA writable_schema = RESET",
    remove: "DROP INDEX sqlite_planted",
  },
  {
    name: "a table whose rows are deleted together with records",
    plant: "CREATE TABLE planted (id REFERENCES entries (id) ON DELETE CASCADE)",
    remove: "DROP TABLE planted",
  },
];

describe("a store file whose schema another program changed", () => {
  it.each(planted)("is refused when it is opened if its schema has $name", async ({ plant, remove }) => {
    const path = temporaryFile();
    await closedStore(path);
    alter(path, plant);
    expect(() => new SqliteStore(path)).toThrow(
      expect.objectContaining({
        code: "STORE_INVALID",
        message: expect.stringMatching(/contains (?:a trigger|a view|a table|an index) that Keyward did not create/),
        hint: expect.stringContaining("Keyward has not changed the file."),
      }),
    );
    if (remove === undefined) return;
    alter(path, remove);
    const store = new SqliteStore(path);
    expect(await store.get("key")).toBe("value");
    await store.disconnect();
  });

  it.each(planted)(
    "makes every call reject if another program adds $name while the store is open",
    async ({ plant, remove }) => {
      const path = temporaryFile();
      const store = new SqliteStore(path);
      await store.setMany([{ key: "key", value: "value" }]);
      await store.getMany(["key"]);
      alter(path, plant);
      const calls = [
        () => store.set("key", "next"),
        () => store.setMany([{ key: "key", value: "next" }]),
        () => store.replace("key", "value", "next"),
        () => store.delete("key"),
        () => store.clear(),
        () => store.get("key"),
        () => store.getMany(["key"]),
        () => store.iterator().next(),
        () => store.scan(),
        () => store.sweep(),
        () => store.reserved().get("key"),
      ];
      for (const call of calls) await expect(call()).rejects.toMatchObject({ code: "STORE_INVALID" });
      if (remove !== undefined) {
        alter(path, remove);
        expect(await store.get("key")).toBe("value");
        expect(await store.set("key", "next")).toBe(true);
        expect(await store.get("key")).toBe("next");
      }
      await store.disconnect();
    },
  );

  it("stays usable if the other program ran only ANALYZE and VACUUM", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    await store.set("key", "value");
    alter(path, "ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)");
    expect(await store.get("key")).toBe("value");
    await store.disconnect();
    alter(path, "VACUUM; ANALYZE");
    const again = new SqliteStore(path);
    expect(await again.get("key")).toBe("value");
    await again.disconnect();
  });
});

describe("a removed value", () => {
  const removals: Readonly<Record<string, (store: SqliteStore, keys: string[]) => Promise<unknown>>> = {
    delete: (store, keys) => store.deleteMany(keys),
    clear: (store) => store.clear(),
    "set with a shorter value": (store, keys) => store.setMany(keys.map((key) => ({ key, value: "" }))),
    "the sweep of expired rows": async (store) => {
      vi.setSystemTime(Date.now() + 1_000);
      expect(await store.sweep()).toBe(50);
    },
  };

  it.each(Object.entries(removals))("is no longer in the file after %s", async (name, remove) => {
    const path = temporaryFile();
    const store = new SqliteStore(path, { sweepMs: 0 });
    const mark = randomBytes(16).toString("hex");
    const keys = Array.from({ length: 50 }, (_, index) => `key ${index}`);
    // Some values fit into a page, others need several pages.
    const entries = keys.map((key, index) => ({ key, value: mark.repeat(index % 2 === 0 ? 4 : 400) }));
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => {
      vi.useRealTimers();
    });
    const expires = Date.now() + 1_000;
    await store.setMany(
      name === "the sweep of expired rows" ? entries.map((entry) => ({ ...entry, expires })) : entries,
    );
    await remove(store, keys);
    await store.disconnect();
    expect(readdirSync(dirname(path))).toEqual(["records.db"]);
    expect(readFileSync(path).includes(mark)).toBe(false);
  });
});

describe.skipIf(process.platform === "win32")("a path that exists before the store is created", () => {
  it("is refused if it is a symbolic link to a missing file", () => {
    const path = temporaryFile();
    symlinkSync(join(dirname(path), "target.db"), path);
    expect(() => new SqliteStore(path)).toThrow(
      expect.objectContaining({
        code: "STORE_INVALID",
        message: `The path of the SqliteStore, ${path}, is a symbolic link to a file that does not exist`,
      }),
    );
    expect(readdirSync(dirname(path))).toEqual(["records.db"]);
  });

  it("is opened if it is a symbolic link to the file of a store, even while that store is open", async () => {
    const path = temporaryFile();
    const link = join(dirname(path), "link.db");
    const store = new SqliteStore(path);
    await store.set("key", "value");
    symlinkSync(path, link);
    const linked = new SqliteStore(link);
    expect(await linked.get("key")).toBe("value");
    expect(readdirSync(dirname(path)).sort()).toEqual(["link.db", "records.db", "records.db-shm", "records.db-wal"]);
    await linked.disconnect();
    // If this process had lost its locks, another process would believe it is the last user and remove the log.
    const visit =
      "const db = new (require('node:sqlite').DatabaseSync)(process.argv[1]); db.exec('SELECT 1 FROM entries'); db.close()";
    execFileSync(process.execPath, ["-e", visit, path], { stdio: "ignore" });
    expect(readdirSync(dirname(path)).sort()).toContain("records.db-wal");
    await store.disconnect();
  });

  it("is opened and keeps its mode if it is an empty file of the same user", async () => {
    const path = temporaryFile();
    writeFileSync(path, "");
    chmodSync(path, 0o660);
    const store = new SqliteStore(path);
    await store.set("key", "value");
    for (const suffix of ["", "-wal", "-shm"]) expect(statSync(path + suffix).mode & 0o777).toBe(0o660);
    await store.disconnect();
  });

  it.skipIf(!isRoot)("is refused if it is an empty file of another user", () => {
    const path = temporaryFile();
    writeFileSync(path, "");
    chownSync(path, stranger, stranger);
    expect(() => new SqliteStore(path)).toThrow(
      expect.objectContaining({
        code: "STORE_INVALID",
        message: `The file of the SqliteStore, ${path}, is empty and belongs to another user`,
      }),
    );
    expect(statSync(path).size).toBe(0);
  });

  it("is refused if its -wal, -shm or -journal is a symbolic link", async () => {
    const path = temporaryFile();
    await closedStore(path);
    const victim = join(dirname(path), "victim");
    for (const suffix of ["-wal", "-shm", "-journal"]) {
      symlinkSync(victim, path + suffix);
      expect(() => new SqliteStore(path)).toThrow(
        expect.objectContaining({
          code: "STORE_INVALID",
          message: `${path}${suffix}, which SQLite uses beside the database, is not a regular file`,
        }),
      );
      expect(lstatSync(victim, { throwIfNoEntry: false })).toBeUndefined();
      rmSync(path + suffix);
    }
  });

  it.skipIf(!isRoot)("is refused if its -wal, -shm or -journal belongs to another user", async () => {
    const path = temporaryFile();
    for (const suffix of ["-wal", "-shm", "-journal"]) {
      writeFileSync(path + suffix, "");
      chownSync(path + suffix, stranger, stranger);
      // For a new file, and for an existing one.
      for (const _ of ["new", "existing"]) {
        expect(() => new SqliteStore(path)).toThrow(
          expect.objectContaining({
            code: "STORE_INVALID",
            message: `${path}${suffix}, which SQLite uses beside the database, belongs to another user`,
          }),
        );
      }
      rmSync(path + suffix);
      await closedStore(path);
      rmSync(path);
    }
  });

  it("is refused if it is a named pipe, without waiting for a writer of the pipe", () => {
    const path = temporaryFile();
    execFileSync("mkfifo", [path]);
    expect(() => new SqliteStore(path)).toThrow(expect.objectContaining({ code: "STORE_UNAVAILABLE" }));
  });
});

/** Mounts a separate file system at the folder of the path. Skips the test if this machine does not allow that. */
function mount(path: string, options: string, { skip }: TestContext): void {
  const folder = dirname(path);
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", options, "none", folder], { stdio: "ignore" });
  } catch {
    skip("root may not mount a file system here");
  }
  onTestFinished(() => {
    // Lazily, because a failed test may have left a file open.
    execFileSync("umount", ["-l", folder]);
  });
}

describe.skipIf(process.platform !== "linux")("a store whose file cannot be written", () => {
  it("reports that the file is read-only, with the hint to mount its file system for writing", async (context) => {
    const path = temporaryFile();
    // Root can write to a file of any mode, so the mount is made read-only instead.
    if (isRoot) mount(path, "size=1m", context);
    await closedStore(path);
    if (isRoot) execFileSync("mount", ["-o", "remount,ro", dirname(path)]);
    else chmodSync(path, 0o400);
    const open = async () => {
      const store = new SqliteStore(path);
      try {
        await store.set("key", "next");
      } finally {
        await store.disconnect();
      }
    };
    await expect(open()).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: `The SQLite file ${path} is read-only for the user of this process`,
      hint: expect.stringContaining("mount it for writing"),
    });
  });

  it.skipIf(!isRoot)(
    "reports a full disk, keeps its records, and accepts writes again when there is space",
    async (context) => {
      const path = temporaryFile();
      mount(path, "size=512k", context);
      const store = new SqliteStore(path);
      await store.set("key", "value");
      const rest = join(dirname(path), "rest");
      expect(() => writeFileSync(rest, Buffer.alloc(600_000))).toThrow("ENOSPC");
      const batch = ["first", "second"].map((key) => ({ key, value: key.repeat(20_000) }));
      for (const call of [() => store.setMany(batch), () => store.set("key", "next".repeat(20_000))]) {
        await expect(call()).rejects.toMatchObject({
          code: "STORE_UNAVAILABLE",
          message: `There is no space left for the SQLite file ${path}`,
          hint: expect.stringContaining("Do not remove the files `-wal` and `-shm`"),
        });
      }
      expect(await store.getMany(["key", "first", "second"])).toEqual(["value", undefined, undefined]);
      rmSync(rest);
      expect(await store.setMany(batch)).toEqual([true, true]);
      await store.disconnect();
    },
  );

  it("reports a missing folder if the folder of the file was removed", async () => {
    const path = join(dirname(temporaryFile()), "folder", "records.db");
    mkdirSync(dirname(path));
    const lock = new DatabaseSync(path);
    lock.exec("BEGIN IMMEDIATE");
    // The file is locked when the store is created, so the first call opens it.
    const store = new SqliteStore(path);
    lock.close();
    rmSync(dirname(path), { recursive: true });
    await expect(store.get("key")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: `The file of the SqliteStore, ${path}, cannot be created, because its folder does not exist`,
      hint: expect.stringMatching(/mount the volume.*mkdir -p/),
    });
    await store.disconnect();
  });
});

describe("the constructor of SqliteStore", () => {
  it.each([
    { busyTimeoutMs: Number.NaN },
    { busyTimeoutMs: 2 ** 31 },
    { sweepMs: Number.POSITIVE_INFINITY },
    { sweepMs: -1 },
  ])("refuses the options %o", (options) => {
    const path = temporaryFile();
    expect(() => new SqliteStore(path, options)).toThrow(
      expect.objectContaining({
        code: "VALUE_INVALID",
        message: expect.stringContaining(`${Object.keys(options)[0]} is not`),
      }),
    );
    expect(readdirSync(dirname(path))).toEqual([]);
  });

  it.each<[string, string]>([
    ['{"sweep":1000}', 'SqliteStore has no option "sweep"'],
    ['{"synchronous":"off"}', 'The option "synchronous" of SqliteStore is neither "full" nor "normal"'],
    ["[]", "The options of SqliteStore are not an object"],
  ])("refuses the options %s", (options, message) => {
    expect(() => new SqliteStore(":memory:", JSON.parse(options))).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID", message }),
    );
  });

  it("refuses an origin that is neither a path nor a store", () => {
    expect(() => new SqliteStore(JSON.parse("{}"))).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID", message: expect.stringContaining("origin") }),
    );
  });
});
