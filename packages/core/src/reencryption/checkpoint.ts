import { rm } from "node:fs/promises";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireOptions } from "../errors/options.ts";
import { hintForWriting, isOwnedBy, readSmallFile, replaceFile, systemCode } from "../files/private-file.ts";

/**
 * Keeps the progress of the bulk re-encryption of one store, so that another run can resume it. Give each store its own
 * checkpoint.
 */
export interface Checkpoint {
  /**
   * The name of the job that the checkpoint belongs to, such as the name of the store. A job refuses progress that was
   * saved under another name. Default: no name. A job without a name does not notice that the checkpoint contains the
   * progress for another store.
   */
  readonly job?: string;
  /** Returns the text that the job stored last; `undefined` if no text is stored. */
  read(): Promise<string | undefined>;
  /** Replaces the stored text. If `text` is `undefined`, because the job is done, removes the stored text. */
  write(text: string | undefined): Promise<void>;
}

/** The options of {@link fileCheckpoint}. */
export interface FileCheckpointOptions {
  /**
   * The name of the job that the checkpoint belongs to, such as the name of the store. Becomes the property `job` of
   * the checkpoint. Default: no name.
   */
  readonly job?: string;
}

const fileCheckpointOptionNames = { job: true } as const satisfies OptionNames<FileCheckpointOptions>;

/**
 * Returns a checkpoint that keeps the progress of a bulk re-encryption in a file. Only the owner of the file can read
 * the file. Each write replaces the whole file. When the job has processed every record, it removes the file.
 *
 * @returns a checkpoint whose calls reject with `CHECKPOINT_INVALID` if the path is a symbolic link or not a regular
 * file, if another user owns the file, or if the file cannot be read or written.
 * @example
 * const report = await reencrypt(sessions, { checkpoint: fileCheckpoint("sessions.checkpoint", { job: "sessions" }) });
 */
export function fileCheckpoint(path: string, options: FileCheckpointOptions = {}): Checkpoint {
  const { job } = requireOptions("fileCheckpoint", options, fileCheckpointOptionNames);
  const shown = `The checkpoint ${JSON.stringify(path)}`;

  function unusable(problem: string, hint: string): KeywardError {
    return new KeywardError("CHECKPOINT_INVALID", `${shown} ${problem}`, { hint });
  }

  return {
    ...(job === undefined ? {} : { job }),
    async read() {
      const found = await readSmallFile(path, { followsLink: false }).catch((error: unknown) => {
        // The errors of O_NOFOLLOW for a link: ELOOP on Linux and macOS, EMLINK on FreeBSD.
        if (["ELOOP", "EMLINK"].includes(systemCode(error))) {
          throw unusable("is a symbolic link", "Pass the path of a regular file that only this job uses.");
        }
        throw unusable(
          `cannot be read (${systemCode(error)})`,
          "Give the user of this process read access to the file, and run the job again.",
        );
      });
      if (found === undefined) return undefined;
      if (found === "unfit") {
        throw unusable(
          "is larger than 1 MiB or is not a regular file",
          "Pass the path of a new file, or of the file that this job has written before.",
        );
      }
      if (!isOwnedBy(found.status)) {
        // Another user could make the job skip records.
        throw unusable(
          "belongs to another user",
          "Pass the path of a new file, in a folder to which only the user of this process can write. The job then starts over.",
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
