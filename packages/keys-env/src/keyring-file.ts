import { stat } from "node:fs/promises";
import {
  exportKeyring,
  fileLocation,
  type Keyring,
  type KeyringLocation,
  KeywardError,
  requireSavable,
} from "@keyward/core";
import { pathForErrors } from "./mount.ts";
import { isDocument, readDocument, trim } from "./notation.ts";

/**
 * Replaces the keyring document in a file, if it still is `previous`.
 *
 * @throws KeywardError `KEYRING_CONFLICT` when the file holds another ring, or stayed locked by others;
 * `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that cannot be replaced from here;
 * `KEYRING_INVALID` when the file is empty or `next` cannot be saved; `PROVIDER_UNAVAILABLE` when it cannot be read or
 * written, as on a full disk.
 */
export async function saveKeyring(path: string, next: Keyring, previous: Keyring): Promise<void> {
  const name = pathForErrors(path);
  requireSavable(next);
  const place = fileLocation(path, { shownAs: name });
  const text = await readText(path, place, name);
  const unchanged = exportKeyring(readDocument(trim(text), name)) === exportKeyring(previous);
  if (unchanged && (await place.replace(text, `${exportKeyring(next)}\n`))) return;
  throw new KeywardError("KEYRING_CONFLICT", `${name} holds another ring than the one that was changed`, {
    hint: "Load the ring again, repeat the change on it, and save that.",
  });
}

/**
 * Checks that a keyring document at a path can be replaced, and writes nothing.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that cannot be
 * replaced from here; `KEYRING_INVALID` for an empty file; `PROVIDER_UNAVAILABLE` when it cannot be read.
 */
export async function requireWritable(path: string): Promise<void> {
  const name = pathForErrors(path);
  const place = fileLocation(path, { shownAs: name });
  await readText(path, place, name);
  await place.requireWritable?.();
}

/** The text of a keyring document, which can be replaced by another one. */
async function readText(path: string, place: KeyringLocation, name: string): Promise<string> {
  if (await isDirectory(path)) throw readOnly(`${name} is a directory of keys, where no keyring can be saved`);
  const text = await place.read();
  if (text === undefined) {
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} cannot be written: nothing is there`, {
      hint: "Restore the file that was there: a new keyring opens no existing record. Only for a first one: create(ring).",
    });
  }
  const trimmed = trim(text);
  if (trimmed === "") {
    throw new KeywardError("KEYRING_INVALID", `${name} is empty`, {
      hint: "Restore what the file held, or write exportKeyring(ring) of the ring that is in use into it.",
    });
  }
  if (isDocument(trimmed)) return text;
  throw readOnly(`${name} holds a single key and no keyring document, so no keyring can be saved there`);
}

function readOnly(message: string): KeywardError {
  return new KeywardError("PROVIDER_READ_ONLY", message, {
    hint:
      "Make the change where the keys come from, step by step as docs/keyring.md has it. Or write exportKeyring(ring) of the " +
      "ring that is in use into another file, which this process can replace, and load from that. Keep what is here.",
  });
}

async function isDirectory(path: string): Promise<boolean> {
  // What cannot be looked at is told by the one who reads it.
  return await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/**
 * Writes the first keyring document to a path where nothing lies, for its owner alone to read.
 *
 * @throws KeywardError `KEYRING_CONFLICT` where something lies already; `KEYRING_INVALID` for a ring that cannot be
 * saved; `PROVIDER_UNAVAILABLE` when the file cannot be written.
 */
export async function createKeyring(path: string, ring: Keyring): Promise<void> {
  const name = pathForErrors(path);
  requireSavable(ring);
  if (await fileLocation(path, { shownAs: name }).replace(undefined, `${exportKeyring(ring)}\n`)) return;
  throw new KeywardError("KEYRING_CONFLICT", `${name} holds something already, and no first ring was written`, {
    hint: "Load the ring that is there; to replace it, save a change of it.",
  });
}
