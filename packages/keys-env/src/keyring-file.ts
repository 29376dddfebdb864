import { stat } from "node:fs/promises";
import {
  exportKeyring,
  fileLocation,
  type Keyring,
  type KeyringLocation,
  KeywardError,
  requireSavable,
  sameKeyring,
} from "@keyward/core";
import { pathForErrors } from "./mount.ts";
import { isDocument, readDocument, trim } from "./notation.ts";

/**
 * Replaces the keyring document in a file by `next`, if the file still holds `previous`.
 *
 * @throws KeywardError `KEYRING_CONFLICT` if the file holds another keyring than `previous`, or another process kept
 * the file locked.
 * @throws KeywardError `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that this
 * process cannot replace.
 * @throws KeywardError `KEYRING_INVALID` if the file is empty or `next` cannot be saved.
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file does not exist, or cannot be read or written, for example on
 * a full disk.
 */
export async function saveKeyring(path: string, next: Keyring, previous: Keyring): Promise<void> {
  const name = pathForErrors(path);
  requireSavable(next);
  const location = fileLocation(path, { shownAs: name });
  const text = await readText(path, location, name);
  const unchanged = sameKeyring(readDocument(trim(text), name), previous);
  if (unchanged && (await location.replace(text, `${exportKeyring(next)}\n`))) return;
  throw new KeywardError(
    "KEYRING_CONFLICT",
    `${name} does not hold the keyring that this change is based on, because another writer has changed the keyring`,
    {
      hint: "Load the keyring again, repeat your change in the loaded keyring, and save the result.",
    },
  );
}

/**
 * Checks that a path holds a keyring document that this process can replace. Writes nothing.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that this
 * process cannot replace.
 * @throws KeywardError `KEYRING_INVALID` for an empty file.
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file does not exist or cannot be read.
 */
export async function requireWritable(path: string): Promise<void> {
  const name = pathForErrors(path);
  const location = fileLocation(path, { shownAs: name });
  await readText(path, location, name);
  await location.requireWritable?.();
}

/** Reads the text of a file that holds a keyring document. Rejects if the file holds anything else. */
async function readText(path: string, location: KeyringLocation, name: string): Promise<string> {
  if (await isDirectory(path))
    throw readOnly(`${name} is a directory of keys, but a keyring can be saved only to a file with a keyring document`);
  const text = await location.read();
  if (text === undefined) {
    throw new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `${name} does not lead to an existing file, so the changed keyring cannot be saved`,
      {
        hint: "If the file held a keyring before, restore the file, because a new keyring cannot decrypt existing records. If no keyring has existed yet, call `create()`.",
      },
    );
  }
  const trimmed = trim(text);
  if (trimmed === "") {
    throw new KeywardError("KEYRING_INVALID", `${name} is empty, but a keyring document is expected`, {
      hint: "Restore the earlier content of the file from a backup. If there is no backup, call `exportKeyring()` in a process that has loaded the keyring, and write the result to the file.",
    });
  }
  if (isDocument(trimmed)) return text;
  throw readOnly(`${name} holds a single key, but a keyring can be saved only to a file with a keyring document`);
}

function readOnly(message: string): KeywardError {
  return new KeywardError("PROVIDER_READ_ONLY", message, {
    hint:
      "To rotate the key now, pass the option `instruct` to the rotation, which then guides you through the changes, as " +
      "docs/guided-rotation.md shows. To save keyrings in future, use a new file that this process can replace. Write the " +
      "document that `exportKeyring()` returns for the keyring in use to this file, and pass its path to `fileKeys`. Keep " +
      "the existing keys until every process reads the new file.",
  });
}

async function isDirectory(path: string): Promise<boolean> {
  // A path that stat() fails on is read next, and the read reports why it failed.
  return await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/**
 * Writes the first keyring document to a path where no file exists. Only the owner of the new file can read the file.
 *
 * @throws KeywardError `KEYRING_CONFLICT` if a file exists at the path; `KEYRING_INVALID` for a keyring that cannot be
 * saved; `PROVIDER_UNAVAILABLE` if the file cannot be written.
 */
export async function createKeyring(path: string, ring: Keyring): Promise<void> {
  const name = pathForErrors(path);
  requireSavable(ring);
  if (await fileLocation(path, { shownAs: name }).replace(undefined, `${exportKeyring(ring)}\n`)) return;
  throw new KeywardError("KEYRING_CONFLICT", `${name} exists already, so no first keyring was written`, {
    hint: "Use the existing keyring with `load()`, and change it with `save()`.",
  });
}
