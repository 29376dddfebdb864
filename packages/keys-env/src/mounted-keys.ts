import { type ChangeInstruction, type Keyring, type KeyringChange, KeywardError } from "@keyward/core";
import {
  changeDirectory,
  changeDocument,
  changeSingleKeyFile,
  type OtherKeys,
  primaryFile,
} from "./change-instructions.ts";
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

/**
 * The keys that were found in an environment variable, a file or a directory: either the keyring of a keyring document,
 * or a list of single keys. The first key in the list is the primary key.
 */
export type FoundKeys = { readonly ring: Keyring } | { readonly keys: readonly WrittenKey[] };

const keyId = /^[A-Za-z0-9_-]{1,32}$/;

/**
 * Reads the keys in a text, which is a keyring document, or a single key with or without an id.
 *
 * @param name Name of the environment variable or file that the text comes from. Errors show this name.
 * @throws KeywardError `KEY_INVALID` for an invalid key, `KEYRING_INVALID` for an invalid keyring document.
 */
export async function readText(text: string, name: string, options: PassphraseOptions): Promise<FoundKeys> {
  const trimmed = trim(text);
  if (isDocument(trimmed)) return { ring: readDocument(trimmed, name) };
  return { keys: [await readIdentifiedKey(trimmed, name, options)] };
}

/**
 * Reads the keys of a mount, which is a file with a key or a keyring document, or a directory of keys. In a directory,
 * the name of each file is the id of the key in the file, and the file `primary` holds the id of the primary key.
 * Returns `undefined` if the mount does not exist or the directory is empty.
 *
 * @param name Name of the mount that errors show.
 * @param found Function that is called if the mount holds a file, before the content of the file is checked.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the mount cannot be read, `KEY_INVALID` for an invalid key,
 * `KEYRING_INVALID` for an invalid keyring document or an invalid file `primary`.
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

/** Returns a keyring of the keys that were found in a file or a directory. */
export function ringFrom(found: FoundKeys, name: string): Keyring {
  return "ring" in found ? found.ring : ringOf(found.keys, name);
}

/** A mount whose keys an operator changes. */
export interface ChangedMount {
  readonly mount: Mount;
  readonly path: string;
  /** The environment variable that holds keys beside the mount. `undefined` if the provider reads only the mount. */
  readonly others: OtherKeys | undefined;
}

/**
 * Describes, for an operator, how to change the keys of a mount.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the mount cannot be read.
 */
export async function describeMountChange(
  change: KeyringChange,
  keyring: Keyring,
  { mount, path, others }: ChangedMount,
): Promise<ChangeInstruction> {
  const content = await mount.read();
  const { primary } = keyring;
  if (content.kind === "directory") return changeDirectory(change, { path, primary, others });
  if (content.kind === "file" && isDocument(content.text)) return changeDocument(change, `the file ${path}`, false);
  return changeSingleKeyFile(change, { path, primary, others });
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
    // No key is so short, so the content is the id of a key whose file is missing.
    const missing = primary !== undefined && keyId.test(primary) && primary !== primaryFile ? primary : undefined;
    const problem =
      primary === undefined
        ? "is missing"
        : missing === undefined
          ? "does not hold the name of another file in the directory"
          : `names the key "${missing}", but the directory has no file "${missing}"`;
    throw new KeywardError(
      "KEYRING_INVALID",
      `${name}: the file "${primaryFile}", which holds the id of the primary key, ${problem}`,
      {
        hint:
          ids.length === 0
            ? "Mount the keys in this directory, each in a file whose name is the id of the key."
            : missing !== undefined
              ? `Put the file "${missing}" back, because records may need this key. The directory has keys with the ids ${ids.join(", ")}.`
              : `Find out which key has encrypted new records until now, and write the id of this key into the file "${primaryFile}". The directory has keys with the ids ${ids.join(", ")}.`,
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
        "If the file is not a key, remove the file from the directory. If the file is a key, rename the file to the id that the key had before, because records refer to their key by id.",
      );
    }
    keys.push(await readKey(files.get(id) ?? "", file, options, id));
  }
  return keys;
}
