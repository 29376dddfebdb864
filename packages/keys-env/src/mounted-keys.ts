import { type Keyring, KeywardError } from "@keyward/core";
import type { Mount } from "./mount.ts";
import {
  invalidKey,
  isDocument,
  type PassphraseOptions,
  readDocument,
  readIdentifiedKey,
  readKey,
  ringOf,
  trim,
  type WrittenKey,
} from "./notation.ts";

/** The keys of a source: a whole keyring, or a list whose first key is the primary. */
export type FoundKeys = { readonly ring: Keyring } | { readonly keys: readonly WrittenKey[] };

const primaryFile = "primary";
const keyId = /^[A-Za-z0-9_-]{1,32}$/;

/**
 * Reads a text that is a keyring document, or a key with or without an id.
 *
 * @throws KeywardError `KEY_INVALID` or `KEYRING_INVALID`.
 */
export async function readText(text: string, name: string, options: PassphraseOptions): Promise<FoundKeys> {
  const trimmed = trim(text);
  if (isDocument(trimmed)) return { ring: readDocument(trimmed, name) };
  return { keys: [await readIdentifiedKey(trimmed, name, options)] };
}

/**
 * Reads the keys of a mount: a file with one text, or a directory. In a directory, the name of each file is the id of
 * its key, and the file `primary` holds the id of the primary key. Returns `undefined` if there is no file.
 *
 * @param found Called when the mount holds a file, before the file is checked.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE`, `KEY_INVALID` or `KEYRING_INVALID`.
 */
export async function readMount(
  mount: Mount,
  name: string,
  options: PassphraseOptions,
  found: () => void,
): Promise<FoundKeys | undefined> {
  const content = await mount.read();
  switch (content.kind) {
    case "missing":
      return undefined;
    case "file":
      found();
      return readText(content.text, name, options);
    case "directory":
      if (content.files.size === 0) return undefined;
      found();
      return { keys: await readDirectory(content.files, name, options) };
  }
}

/** Returns the keys that were found as a keyring. */
export function ringFrom(found: FoundKeys, name: string): Keyring {
  return "ring" in found ? found.ring : ringOf(found.keys, name);
}

async function readDirectory(
  files: ReadonlyMap<string, string>,
  name: string,
  options: PassphraseOptions,
): Promise<readonly WrittenKey[]> {
  const primary = files.get(primaryFile);
  const ids = [...files.keys()].filter((file) => file !== primaryFile);
  // The file `primary` may hold a key by mistake, so no message repeats its content.
  if (primary === undefined || !ids.includes(primary)) {
    const problem = primary === undefined ? "is missing" : "does not hold the name of another file in the directory";
    throw new KeywardError(
      "KEYRING_INVALID",
      `${name}: the file "${primaryFile}", which holds the id of the primary key, ${problem}`,
      {
        hint:
          ids.length === 0
            ? "Mount the keys in the same directory, each in a file whose name is the id of the key."
            : `Restore the earlier id in the file "${primaryFile}": this key encrypts all new records. The directory has the keys ${ids.join(", ")}.`,
      },
    );
  }
  const keys: WrittenKey[] = [];
  for (const id of [primary, ...ids.filter((other) => other !== primary)]) {
    const file = `${name}, file ${JSON.stringify(id)},`;
    if (!keyId.test(id)) {
      throw invalidKey(
        file,
        "its name is not a key id, which has 1 to 32 characters of A-Z a-z 0-9 _ -",
        "Remove files that are not keys. Name the file of a key by the id that the key had before: records refer to their key by id.",
      );
    }
    keys.push(await readKey(files.get(id) ?? "", file, options, id));
  }
  return keys;
}
