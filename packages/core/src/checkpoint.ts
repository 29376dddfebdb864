import { readFile, rename, rm, writeFile } from "node:fs/promises";

/** Where one long job over one store writes down how far it has come. Another store needs one of its own. */
export interface Checkpoint {
  /** What was written last, if anything. */
  read(): Promise<string | undefined>;
  /** Keeps this text, in place of what was kept before; `undefined` when the job is done. */
  write(text: string | undefined): Promise<void>;
}

/** A checkpoint in a file, replaced as a whole, and removed when the job is done. */
export function fileCheckpoint(path: string): Checkpoint {
  return {
    async read() {
      try {
        return await readFile(path, "utf8");
      } catch (error) {
        if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
        throw error;
      }
    },
    async write(text) {
      if (text === undefined) {
        await rm(path, { force: true });
        return;
      }
      const next = `${path}.next`;
      await writeFile(next, text, { mode: 0o600 });
      await rename(next, path);
    },
  };
}
