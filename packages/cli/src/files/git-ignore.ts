import { lstat, readFile } from "node:fs/promises";
import { overwriteFile } from "./new-file.ts";

/** Returns whether a `.gitignore` makes Git ignore every file of its folder. */
export async function ignoresAll(path: string): Promise<boolean> {
  const lines = (await textOf(path)).split(/\r?\n/);
  const last = lines.findLastIndex((line) => line.trimEnd() === "*");
  // For Git, the last line that matches a file decides. A line with `!` makes Git stop ignoring a file.
  return last >= 0 && !lines.slice(last).some((line) => line.startsWith("!"));
}

/**
 * Makes Git ignore every file in the folder of a `.gitignore`. Keeps the existing lines of the `.gitignore`.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file cannot be written.
 */
export async function ignoreAll(path: string): Promise<void> {
  // A full disk or a stopped command may have left an empty file.
  if (await ignoresAll(path)) return;
  const former = await textOf(path);
  await overwriteFile(path, `${former}${former === "" || former.endsWith("\n") ? "" : "\n"}*\n`);
}

/** Reads a file; "" if there is none, or if something else is at the path. */
async function textOf(path: string): Promise<string> {
  const status = await lstat(path).catch(() => undefined);
  return status?.isFile() === true ? await readFile(path, "utf8").catch(() => "") : "";
}
