import { rm } from "node:fs/promises";
import { KeywardError } from "../errors/errors.ts";
import { hintForWriting, isOwnedBy, readSmallFile, replaceFile, systemCode } from "../files/private-file.ts";

/** Where one long job over one store writes down how far it has come. Another store needs one of its own. */
export interface Checkpoint {
  /** What was written last, if anything. */
  read(): Promise<string | undefined>;
  /** Keeps this text, in place of what was kept before; `undefined` when the job is done. */
  write(text: string | undefined): Promise<void>;
}

/**
 * A checkpoint in a file, replaced as a whole, and removed when the job is done. Only its owner can read the file.
 *
 * @returns a checkpoint that rejects with `CHECKPOINT_INVALID` where the path is a symbolic link or no regular file,
 * where another user owns the file, and where the file cannot be read or written.
 */
export function fileCheckpoint(path: string): Checkpoint {
  const shown = `The checkpoint ${JSON.stringify(path)}`;

  function unusable(problem: string, hint: string): KeywardError {
    return new KeywardError("CHECKPOINT_INVALID", `${shown} ${problem}`, { hint });
  }

  return {
    async read() {
      const found = await readSmallFile(path, { followsLink: false }).catch((error: unknown) => {
        // What O_NOFOLLOW says about a link, on Linux and macOS, and on FreeBSD.
        if (["ELOOP", "EMLINK"].includes(systemCode(error))) {
          throw unusable("is a symbolic link", "Give the path of a file that only this job uses.");
        }
        throw unusable(
          `cannot be read (${systemCode(error)})`,
          "Let the user of this process read it, and run the job again.",
        );
      });
      if (found === undefined) return undefined;
      if (found === "unfit") {
        throw unusable("is no file of at most 1 MiB", "Give the path of a file that only this job uses.");
      }
      if (!isOwnedBy(found.status)) {
        // Believing it would let another user have the job skip records.
        throw unusable(
          "belongs to another user",
          "Give the path of a file in a folder that only this user can write to. The job then begins from the start.",
        );
      }
      return found.text;
    },
    async write(text) {
      try {
        if (text === undefined) await rm(path, { force: true });
        else await replaceFile(path, text);
      } catch (error) {
        const hint = hintForWriting(error) ?? "Check the path and the disk, and run the job again.";
        throw unusable(`cannot be written (${systemCode(error)})`, hint);
      }
    },
  };
}
