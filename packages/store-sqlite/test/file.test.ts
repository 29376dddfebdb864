import { createHash, randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { temporaryFile } from "./temporary-directory.ts";

function hashOf(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

/** Writes a store file of about a hundred pages, and closes it. */
async function writeRecords(path: string): Promise<void> {
  const store = new SqliteStore(path);
  await store.setMany(
    Array.from({ length: 1000 }, (_, index) => ({ key: `key-${index}`, value: randomBytes(300).toString("base64") })),
  );
  await store.disconnect();
}

function overwrite(path: string, offset: number, bytes: Uint8Array): void {
  const file = readFileSync(path);
  file.set(bytes, offset);
  writeFileSync(path, file);
}

/** Writes a database of another application whose table has the same name as Keyward's. */
function writeForeign(path: string, pragmas = ""): void {
  const database = new DatabaseSync(path);
  database.exec(
    `${pragmas}; CREATE TABLE entries (space, namespace, key, value, expires); INSERT INTO entries VALUES (1, 2, 3, 4, 5)`,
  );
  database.close();
}

/**
 * Writes the files that a crash of another application leaves: its last writes are in the log and not in the database.
 */
function crashForeign(path: string, suffixes: readonly string[]): void {
  const directory = join(dirname(path), "origin");
  mkdirSync(directory);
  const origin = join(directory, "origin.db");
  const database = new DatabaseSync(origin);
  database.exec("PRAGMA journal_mode = WAL; CREATE TABLE notes (note); INSERT INTO notes VALUES ('mine')");
  for (const suffix of suffixes) copyFileSync(origin + suffix, path + suffix);
  database.close();
}

const unusable: Readonly<Record<string, (path: string) => void | Promise<void>>> = {
  "a text": (path) => writeFileSync(path, "These are my notes.\n".repeat(100)),
  "a text shorter than a header": (path) => writeFileSync(path, "notes"),
  "random bytes": (path) => writeFileSync(path, randomBytes(8192)),
  "a database of another application": (path) => writeForeign(path),
  "a database of another application in WAL mode": (path) => writeForeign(path, "PRAGMA journal_mode = WAL"),
  "a database of another application with an application id": (path) => writeForeign(path, "PRAGMA application_id = 7"),
  "a database of another application that is open elsewhere": (path) => {
    const database = new DatabaseSync(path);
    database.exec("PRAGMA journal_mode = WAL; CREATE TABLE notes (note); INSERT INTO notes VALUES ('mine')");
    onTestFinished(() => database.close());
  },
  "a database of another application that crashed": (path) => crashForeign(path, ["", "-wal"]),
  "a database of another application that crashed, with its index": (path) => crashForeign(path, ["", "-wal", "-shm"]),
  "a store of a later release": async (path) => {
    await writeRecords(path);
    const database = new DatabaseSync(path);
    database.exec("PRAGMA user_version = 2");
    database.close();
  },
  "a store without its table": async (path) => {
    await writeRecords(path);
    const database = new DatabaseSync(path);
    database.exec("DROP TABLE entries");
    database.close();
  },
  "a store cut to half at a page": async (path) => {
    await writeRecords(path);
    truncateSync(path, Math.floor(statSync(path).size / 8192) * 4096);
  },
  "a store cut within a page": async (path) => {
    await writeRecords(path);
    truncateSync(path, 10_000);
  },
  "a store cut within its first page": async (path) => {
    await writeRecords(path);
    truncateSync(path, 2000);
  },
  "a store with a garbled schema": async (path) => {
    await writeRecords(path);
    overwrite(path, 100, randomBytes(3996));
  },
  "a store with a garbled magic": async (path) => {
    await writeRecords(path);
    overwrite(path, 0, Buffer.from("XXXX"));
  },
};

describe("a file that is not a usable store", () => {
  for (const [name, write] of Object.entries(unusable)) {
    it(`is refused and not changed: ${name}`, async () => {
      const path = temporaryFile();
      await write(path);
      const before = { hash: hashOf(path), files: readdirSync(dirname(path)) };
      expect(() => new SqliteStore(path)).toThrow(
        expect.objectContaining({ name: "KeywardError", code: "STORE_INVALID", hint: expect.stringMatching(/./) }),
      );
      expect({ hash: hashOf(path), files: readdirSync(dirname(path)) }).toEqual(before);
    });
  }

  it("makes a call reject if the call reads a damaged page, and is not changed by the call", async () => {
    const path = temporaryFile();
    await writeRecords(path);
    overwrite(path, 20 * 4096, randomBytes(40 * 4096));
    const hash = hashOf(path);
    const store = new SqliteStore(path);
    const keys = Array.from({ length: 1000 }, (_, index) => `key-${index}`);
    await expect(store.getMany(keys)).rejects.toMatchObject({ code: "STORE_INVALID" });
    await expect(store.scan({ limit: 1000 })).rejects.toMatchObject({ code: "STORE_INVALID" });
    // Twice, to show that the first call ended its failed transaction.
    await expect(store.deleteMany(keys)).rejects.toMatchObject({ code: "STORE_INVALID" });
    await expect(store.deleteMany(keys)).rejects.toMatchObject({ code: "STORE_INVALID" });
    await store.disconnect();
    expect(hashOf(path)).toBe(hash);
  });
});

describe("a store file", () => {
  it("keeps its records when it is closed and opened again", async () => {
    const path = temporaryFile();
    const first = new SqliteStore(path);
    await first.namespaced("a").set("key", "value", Date.now() + 3_600_000);
    await first.reserved().set("key", Uint8Array.of(1, 2));
    await first.disconnect();
    const second = new SqliteStore(path);
    expect(await second.namespaced("a").get("key")).toBe("value");
    expect(await second.reserved().get("key")).toEqual(Uint8Array.of(1, 2));
    await second.disconnect();
  });

  it("contains every acknowledged write if it is copied with its -wal while it is open, as after a crash", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    await store.set("key", "value");
    const copied = join(dirname(path), "copied.db");
    for (const suffix of ["", "-wal"]) copyFileSync(path + suffix, copied + suffix);
    const recovered = new SqliteStore(copied);
    expect(await recovered.get("key")).toBe("value");
    await recovered.disconnect();
    await store.disconnect();
  });

  it("can be created in an existing empty file", async () => {
    const path = temporaryFile();
    writeFileSync(path, "");
    const store = new SqliteStore(path);
    await store.set("key", "value");
    expect(await store.get("key")).toBe("value");
    await store.disconnect();
  });

  it("can be read and written only by its owner, and so can its -wal and -shm", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    await store.set("key", "value");
    for (const suffix of ["", "-wal", "-shm"]) expect(statSync(path + suffix).mode & 0o777).toBe(0o600);
    await store.disconnect();
  });

  it("is in WAL mode, has Keyward's application id, and has one strict table with TEXT and BLOB values", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    await store.set("key", "text");
    await store.set("bytes", Uint8Array.of(1));
    await store.disconnect();
    expect(readFileSync(path).toString("latin1", 68, 72)).toBe("KWRD");
    const database = new DatabaseSync(path, { readOnly: true });
    expect(database.prepare("PRAGMA journal_mode").get()).toEqual({ journal_mode: "wal" });
    expect(database.prepare("SELECT name, strict FROM pragma_table_list WHERE name NOT LIKE 'sqlite%'").all()).toEqual([
      { name: "entries", strict: 1 },
    ]);
    expect(database.prepare("SELECT typeof(value) AS type FROM entries ORDER BY id").all()).toEqual([
      { type: "text" },
      { type: "blob" },
    ]);
    database.close();
  });

  it("is refused, with the command to make its folder, if the folder does not exist", () => {
    const path = join(dirname(temporaryFile()), "missing", "records.db");
    expect(() => new SqliteStore(path)).toThrow(
      expect.objectContaining({ code: "STORE_UNAVAILABLE", hint: expect.stringContaining("mkdir -p") }),
    );
  });

  it("is refused if its path is a directory", () => {
    const path = temporaryFile();
    mkdirSync(path);
    expect(() => new SqliteStore(path)).toThrow(expect.objectContaining({ code: "STORE_UNAVAILABLE" }));
  });
});

describe("disconnect", () => {
  it("closes the connection for the store, its views and its reserved space", async () => {
    const path = temporaryFile();
    const store = new SqliteStore(path);
    const view = store.namespaced("a");
    await view.set("key", "value");
    await view.disconnect();
    expect(await store.namespaced("a").get("key")).toBe("value");
    await store.disconnect();
    for (const each of [store, view, store.reserved()]) {
      await expect(each.get("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
      await expect(each.setMany([{ key: "key", value: "value" }])).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    }
    await expect(store.sweep()).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect(readdirSync(dirname(path))).toEqual(["records.db"]);
  });

  it("does not affect other stores on the same file", async () => {
    const path = temporaryFile();
    const [one, other] = [new SqliteStore(path), new SqliteStore(path)];
    await one.set("key", "value");
    await one.disconnect();
    expect(await other.get("key")).toBe("value");
    await other.disconnect();
  });
});

describe("a batch of records that fails in the middle", () => {
  it("stores nothing and leaves the store usable", async () => {
    const path = temporaryFile();
    await writeRecords(path);
    overwrite(path, 20 * 4096, randomBytes(40 * 4096));
    const store = new SqliteStore(path);
    const good = ["zzz 1", "zzz 2"].map((key) => ({ key, value: "value" }));
    const bad = Array.from({ length: 1000 }, (_, index) => ({ key: `key-${index}`, value: "value" }));
    await expect(store.setMany([...good, ...bad])).rejects.toMatchObject({ code: "STORE_INVALID" });
    expect(await store.hasMany(["zzz 1", "zzz 2"])).toEqual([false, false]);
    expect(await store.setMany(good)).toEqual([true, true]);
    expect(await store.hasMany(["zzz 1", "zzz 2"])).toEqual([true, true]);
    await store.disconnect();
  });
});

describe("a database in memory", () => {
  it("belongs to one store, so a second store in memory does not see the records of the first store", async () => {
    const [one, other] = [new SqliteStore(":memory:"), new SqliteStore(":memory:")];
    await one.set("key", "value");
    expect(await other.get("key")).toBeUndefined();
    await Promise.all([one.disconnect(), other.disconnect()]);
  });
});

describe("invalid arguments", () => {
  it("make a call of SqliteStore reject before anything is written", async () => {
    const store = new SqliteStore(":memory:");
    const invalid = { code: "VALUE_INVALID" };
    await expect(store.get("\ud800")).rejects.toMatchObject(invalid);
    await expect(store.set("key", "\ud800")).rejects.toMatchObject(invalid);
    await expect(store.set("key", { value: 1 })).rejects.toMatchObject({ ...invalid, key: "key" });
    await expect(store.set("key", "value", Number.NaN)).rejects.toMatchObject(invalid);
    await expect(
      store.setMany([
        { key: "good", value: "value" },
        { key: "bad", value: 1 },
      ]),
    ).rejects.toMatchObject(invalid);
    await expect(store.scan({ cursor: "not a cursor" })).rejects.toMatchObject(invalid);
    await expect(store.scan({ limit: 0 })).rejects.toMatchObject(invalid);
    await expect(store.namespaced("\udfff").clear()).rejects.toMatchObject(invalid);
    expect((await store.scan()).entries).toEqual([]);
    await store.disconnect();
  });
});
