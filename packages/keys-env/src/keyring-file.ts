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
 * Replaces the keyring document in a file, if the file still holds `previous`.
 *
 * @throws KeywardError `KEYRING_CONFLICT` if the file holds another keyring, or another process kept it locked.
 * @throws KeywardError `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that this process
 * cannot replace.
 * @throws KeywardError `KEYRING_INVALID` if the file is empty or `next` cannot be saved.
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file does not exist, or cannot be read or written, for example on a
 * full disk.
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
    `${name} does not hold the keyring that this change is based on: another writer was first`,
    {
      hint: "Load the keyring again, repeat the change on it, and save the result.",
    },
  );
}

/**
 * Checks that a keyring document at a path can be replaced, and writes nothing.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that this process
 * cannot replace.
 * @throws KeywardError `KEYRING_INVALID` for an empty file.
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file does not exist or cannot be read.
 */
export async function requireWritable(path: string): Promise<void> {
  const name = pathForErrors(path);
  const location = fileLocation(path, { shownAs: name });
  await readText(path, location, name);
  await location.requireWritable?.();
}

/** Reads the keyring document of a file; rejects if the file does not hold one. */
async function readText(path: string, location: KeyringLocation, name: string): Promise<string> {
  if (await isDirectory(path))
    throw readOnly(`${name} is a directory of keys, and a keyring can be saved only to a file with a keyring document`);
  const text = await location.read();
  if (text === undefined) {
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} cannot be saved to: there is no file`, {
      hint: "Restore the earlier file: a new keyring cannot decrypt existing records. Only for a first keyring, call create().",
    });
  }
  const trimmed = trim(text);
  if (trimmed === "") {
    throw new KeywardError("KEYRING_INVALID", `${name} is empty`, {
      hint: "Restore the earlier content of the file, or write the document that exportKeyring() returns for the keyring in use into it.",
    });
  }
  if (isDocument(trimmed)) return text;
  throw readOnly(`${name} holds a single key, and a keyring can be saved only to a file with a keyring document`);
}

function readOnly(message: string): KeywardError {
  return new KeywardError("PROVIDER_READ_ONLY", message, {
    hint:
      "Rotate the key by hand, as docs/keyring.md describes. Or write the document that exportKeyring() returns for the " +
      "keyring in use into a new file that this process can replace, and load the keyring from there. Keep the existing keys.",
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
 * Writes the first keyring document to a path where no file exists. Only the owner of the file can read it.
 *
 * @throws KeywardError `KEYRING_CONFLICT` if a file exists; `KEYRING_INVALID` for a keyring that cannot be saved;
 * `PROVIDER_UNAVAILABLE` if the file cannot be written.
 */
export async function createKeyring(path: string, ring: Keyring): Promise<void> {
  const name = pathForErrors(path);
  requireSavable(ring);
  if (await fileLocation(path, { shownAs: name }).replace(undefined, `${exportKeyring(ring)}\n`)) return;
  throw new KeywardError("KEYRING_CONFLICT", `${name} exists already, so no first keyring was written`, {
    hint: "Load the existing keyring. To change it, call save().",
  });
}
