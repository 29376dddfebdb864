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

/** What a source holds: a whole ring, or keys of which the first is primary. */
export type FoundKeys = { readonly ring: Keyring } | { readonly keys: readonly WrittenKey[] };

const primaryFile = "primary";
const keyId = /^[A-Za-z0-9_-]{1,32}$/;

/**
 * One text: a keyring document, or a key with or without an id.
 *
 * @throws KeywardError `KEY_INVALID` or `KEYRING_INVALID`.
 */
export async function readText(text: string, name: string, options: PassphraseOptions): Promise<FoundKeys> {
  const trimmed = trim(text);
  if (isDocument(trimmed)) return { ring: readDocument(trimmed, name) };
  return { keys: [await readIdentifiedKey(trimmed, name, options)] };
}

/**
 * What a mount holds: a file with one text, or a directory with a file for each key, named by its id, and a file
 * `primary` that holds the id of the primary. Undefined when nothing is there.
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

/** The ring that was found. */
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
  // What the file holds may be a key put there by mistake, so no message repeats it.
  if (primary === undefined || !ids.includes(primary)) {
    const problem = primary === undefined ? "is missing" : "does not hold the name of another file there";
    throw new KeywardError(
      "KEYRING_INVALID",
      `${name}: the file "${primaryFile}", which names the primary, ${problem}`,
      {
        hint:
          ids.length === 0
            ? "Mount the keys there as well, each in a file that its id is the name of."
            : `Write the id that stood there before into ${primaryFile}, which is the key that seals. There are: ${ids.join(", ")}.`,
      },
    );
  }
  const keys: WrittenKey[] = [];
  for (const id of [primary, ...ids.filter((other) => other !== primary)]) {
    const file = `${name}, file ${JSON.stringify(id)},`;
    if (!keyId.test(id)) {
      throw invalidKey(
        file,
        "its name is not a key id, 1 to 32 of A-Z a-z 0-9 _ -",
        "Take away what is no key. A key keeps the id that it had as the name of its file: records name it by that.",
      );
    }
    keys.push(await readKey(files.get(id) ?? "", file, options, id));
  }
  return keys;
}
