import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SqliteStore } from "@keyward/store-sqlite";
import { onTestFinished } from "vitest";

/** A folder that is removed when the test is over. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-faults-"));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A connection to a file, closed when the test is over. Processes are killed in these tests, machines are not. */
export function openSqlite(path: string): SqliteStore {
  const store = new SqliteStore(path, { synchronous: "normal" });
  onTestFinished(() => store.disconnect());
  return store;
}
