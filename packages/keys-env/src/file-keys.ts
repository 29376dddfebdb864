import {
  abortable,
  type KeyProvider,
  type Keyring,
  KeywardError,
  type OptionNames,
  requireOptions,
} from "@keyward/core";
import { createKeyring, requireWritable, saveKeyring } from "./keyring-file.ts";
import { isProduction, MissingKeys, type MissingKeysOptions, missingKeysOptionNames } from "./missing-keys.ts";
import { Mount, type MountOptions, mountOptionNames, pathForErrors } from "./mount.ts";
import { readMount, ringFrom } from "./mounted-keys.ts";
import { makeAKey, type PassphraseOptions, passphraseOptionNames } from "./notation.ts";

/** Options of {@link fileKeys}. */
export interface FileKeysOptions extends PassphraseOptions, MissingKeysOptions, MountOptions {}

const optionNames: OptionNames<FileKeysOptions> = {
  ...passphraseOptionNames,
  ...missingKeysOptionNames,
  ...mountOptionNames,
};

/** Keys from a file. */
export interface FileKeys extends KeyProvider {
  /**
   * As {@link KeyProvider.save}: compare-and-swap, safe between the processes of one machine.
   *
   * @throws KeywardError `KEYRING_CONFLICT`; `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a
   * file that cannot be replaced from here; `KEYRING_INVALID` for an empty file; `PROVIDER_UNAVAILABLE` where there is none.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * As {@link KeyProvider.requireWritable}: whether the path holds a keyring document that this process can replace.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY`, and as {@link FileKeys.save}.
   */
  requireWritable(): Promise<void>;
  /**
   * Writes the first ring, as a keyring document.
   *
   * @throws KeywardError `KEYRING_CONFLICT` where something lies at the path already.
   */
  create(ring: Keyring): Promise<void>;
  /** Watches the path. */
  subscribe(changed: () => void): () => void;
}

/**
 * Keys from a file, in any notation that {@link envKeys} reads, or from a directory with a file for each key: the file's
 * name is the key's id, and a file `primary` holds the id of the primary. The path is watched.
 *
 * A file that holds a keyring document can be saved to: compare-and-swap, safe between the processes of one machine.
 * `create` writes the first one. A directory, a file with a single key and a read-only mount cannot be saved to:
 * `rotateKey` refuses them before it writes anything, and `retireKey` only checks.
 *
 * @throws KeywardError `VALUE_INVALID` for what is no path, for a `pollMs` out of range and for an unknown option.
 */
export function fileKeys(path: string, options: FileKeysOptions = {}): FileKeys {
  requireOptions("fileKeys", options, optionNames);
  if (typeof path !== "string" || path === "") {
    throw new KeywardError("VALUE_INVALID", "fileKeys was given no path", {
      hint: "Give it the path of a file or a directory, as text. Is the variable set that it should come from?",
    });
  }
  const name = pathForErrors(path);
  const mount = new Mount(path, name, options);
  const missing = new MissingKeys(options);

  async function load() {
    const found = await readMount(mount, name, options, () => missing.found());
    if (found !== undefined) return ringFrom(found, name);
    const hint = `Mount the key that records were written under. ${makeAKey}`;
    return missing.standIn(`${name} holds no key: nothing is there`, hint, isProduction(process.env));
  }

  return {
    load: ({ signal } = {}) => abortable(load, signal),
    save: (next, previous) => saveKeyring(path, next, previous),
    requireWritable: () => requireWritable(path),
    create: (ring) => createKeyring(path, ring),
    subscribe: (changed) => mount.subscribe(changed),
  };
}
