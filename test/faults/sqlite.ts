import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SqliteStore } from "@keyward/store-sqlite";
import { onTestFinished } from "vitest";

/** Creates a folder that is removed when the test is over. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-faults-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Opens a SQLite file, and closes it when the test is over. A power loss is not tested, so writes need not reach the disk. */
export function openSqlite(path: string): SqliteStore {
  const store = new SqliteStore(path, { synchronous: "normal" });
  onTestFinished(() => store.disconnect());
  return store;
}
