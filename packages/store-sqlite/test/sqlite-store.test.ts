import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { storeContract } from "@keyward/contract";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, it } from "vitest";

const expect = { atomic: true, scannable: true, ranged: false, bytes: true, reserved: true, namespaced: true };

storeContract(
  { describe, it },
  {
    name: "SqliteStore on a file",
    expect,
    takesDurations: true,
    async open() {
      const directory = await mkdtemp(join(tmpdir(), "keyward-sqlite-"));
      const path = join(directory, "records.db");
      const opened = [new SqliteStore(path)];
      const [store = new SqliteStore(path)] = opened;
      return {
        store,
        inNamespace: (namespace) => store.namespaced(namespace),
        async again() {
          const other = new SqliteStore(path);
          opened.push(other);
          return other;
        },
        async close() {
          await Promise.all(opened.map((each) => each.disconnect()));
          await rm(directory, { recursive: true });
        },
      };
    },
  },
);

storeContract(
  { describe, it },
  {
    name: "SqliteStore in memory",
    expect,
    takesDurations: true,
    async open() {
      const store = new SqliteStore(":memory:");
      return { store, inNamespace: (namespace) => store.namespaced(namespace), close: () => store.disconnect() };
    },
  },
);
