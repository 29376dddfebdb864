import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

/** Returns the path of a file in a new directory, which is removed when the test has finished. */
export function temporaryFile(): string {
  const directory = mkdtempSync(join(tmpdir(), "keyward-sqlite-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, "records.db");
}
