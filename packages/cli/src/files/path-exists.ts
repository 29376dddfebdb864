import { access } from "node:fs/promises";

/** Returns whether a file or a folder is at a path. */
export async function pathExists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}
