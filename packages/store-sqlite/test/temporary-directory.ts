import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";

/** The path of a file in a directory of its own, which is removed when the test has finished. */
export function temporaryFile(): string {
  const directory = mkdtempSync(join(tmpdir(), "keyward-sqlite-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, "records.db");
}
