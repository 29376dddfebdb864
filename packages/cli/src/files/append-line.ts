import { type FileHandle, open } from "node:fs/promises";
import { cannotWrite } from "./new-file.ts";

/**
 * Appends a line to a file, and creates a missing file. The line is on the disk when the function returns. If the line
 * cannot be written, as on a full disk, no part of it stays in the file.
 *
 * @param options.mode the mode of a new file. Default: 0600, so that only its owner can read it.
 * @param options.shown what an error calls the file. Default: the path, which may be a pasted credential.
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file cannot be written; CommandError `USAGE` if its folder does not exist,
 * or if the path is that of a folder.
 */
export async function appendLine(
  path: string,
  line: string,
  { mode = 0o600, shown = `The file ${path}` } = {},
): Promise<void> {
  try {
    const file = await open(path, "a", mode);
    try {
      await appendWhole(file, Buffer.from(`${line}\n`));
    } finally {
      await file.close();
    }
  } catch (error) {
    throw cannotWrite(shown, error);
  }
}

async function appendWhole(file: FileHandle, bytes: Buffer): Promise<void> {
  const { size: former } = await file.stat();
  let written = 0;
  try {
    while (written < bytes.length) written += (await file.write(bytes, written)).bytesWritten;
    await file.sync();
  } catch (error) {
    // Another process may have appended a line meanwhile.
    if ((await file.stat()).size === former + written) await file.truncate(former);
    throw error;
  }
}
