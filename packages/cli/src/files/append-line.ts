import { open } from "node:fs/promises";
import { KeywardError, systemCode } from "@keyward/core";

/**
 * Appends a line to a file, and creates a missing file that only its owner can read. The line is on the disk when the
 * function returns.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file cannot be written.
 */
export async function appendLine(path: string, line: string): Promise<void> {
  try {
    const file = await open(path, "a", 0o600);
    try {
      await file.appendFile(`${line}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (error) {
    throw new KeywardError("PROVIDER_UNAVAILABLE", `The file ${path} cannot be written (${systemCode(error)})`, {
      hint: "Check that the folder exists, that you may write to it, and that its disk is not full.",
    });
  }
}
