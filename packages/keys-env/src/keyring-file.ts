import { exportKeyring, filePlace, type Keyring, KeywardError, requireSavable } from "@keyward/core";
import { pathForErrors } from "./mount.ts";
import { isDocument, readDocument, trim } from "./notation.ts";

/**
 * Replaces the keyring document in a file, if it still is `previous`.
 *
 * @throws KeywardError `KEYRING_CONFLICT` when the file holds another ring, or stayed locked by others;
 * `KEYRING_INVALID` when it holds no keyring document or `next` cannot be saved; `PROVIDER_UNAVAILABLE` when it cannot
 * be read or written.
 */
export async function saveKeyring(path: string, next: Keyring, previous: Keyring): Promise<void> {
  const name = pathForErrors(path);
  requireSavable(next);
  const place = filePlace(path, { shownAs: name });
  const text = await place.read();
  if (text === undefined) {
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} cannot be written: nothing is there`, {
      hint: "Restore the file that was there: a new keyring opens no existing record. Only for a first one: create(ring).",
    });
  }
  if (!isDocument(trim(text))) {
    throw new KeywardError("KEYRING_INVALID", `${name} holds no keyring document, so no ring can be saved there`, {
      hint: "Write exportKeyring(ring) of the ring that is in use into another file, and load from that. Keep what is here.",
    });
  }
  const unchanged = exportKeyring(readDocument(trim(text), name)) === exportKeyring(previous);
  if (unchanged && (await place.replace(text, `${exportKeyring(next)}\n`))) return;
  throw new KeywardError("KEYRING_CONFLICT", `${name} holds another ring than the one that was changed`, {
    hint: "Load the ring again, repeat the change on it, and save that.",
  });
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
  if (await filePlace(path, { shownAs: name }).replace(undefined, `${exportKeyring(ring)}\n`)) return;
  throw new KeywardError("KEYRING_CONFLICT", `${name} holds something already, and no first ring was written`, {
    hint: "Load the ring that is there; to replace it, save a change of it.",
  });
}
