import {
  abortable,
  type ChangeInstruction,
  type KeyProvider,
  type Keyring,
  type KeyringChange,
  KeywardError,
  type OptionNames,
  requireOptions,
} from "@keyward/core";
import { createKeyring, requireWritable, saveKeyring } from "./keyring-file.ts";
import { isProduction, MissingKeys, type MissingKeysOptions, missingKeysOptionNames } from "./missing-keys.ts";
import { Mount, type MountOptions, mountOptionNames, pathForErrors } from "./mount.ts";
import { describeMountChange, readMount, ringFrom } from "./mounted-keys.ts";
import { onlyForAFirstKey, type PassphraseOptions, passphraseOptionNames } from "./notation.ts";

/** Options of {@link fileKeys}. */
export interface FileKeysOptions extends PassphraseOptions, MissingKeysOptions, MountOptions {}

const optionNames: OptionNames<FileKeysOptions> = {
  ...passphraseOptionNames,
  ...missingKeysOptionNames,
  ...mountOptionNames,
};

/** A key provider that reads a keyring from a file or a directory, made by {@link fileKeys}. */
export interface FileKeys extends KeyProvider {
  /**
   * Replaces the keyring document in the file by `next`, if the file still holds `previous`. Processes of one machine
   * may save at the same time, because a lock makes them take turns. Implements {@link KeyProvider.save}.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the file holds another keyring than `previous`.
   * @throws KeywardError `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that this
   * process cannot replace.
   * @throws KeywardError `KEYRING_INVALID` if the file is empty, and if the keyring `next` cannot be saved.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file does not exist, or cannot be read or written.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Checks that the path holds a keyring document that this process can replace. Writes nothing.
   * Implements {@link KeyProvider.requireWritable}.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY` for a directory of keys, a file with a single key, and a file that this
   * process cannot replace.
   * @throws KeywardError `KEYRING_INVALID` if the file is empty; `PROVIDER_UNAVAILABLE` if the file does not exist or
   * cannot be read.
   */
  requireWritable(): Promise<void>;
  /**
   * Describes how to change the keys at the path by hand, with commands. Implements
   * {@link KeyProvider.describeChange}.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if the path cannot be read.
   */
  describeChange(change: KeyringChange, keyring: Keyring): Promise<ChangeInstruction>;
  /**
   * Writes the first keyring as a keyring document into a new file that only its owner can read.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if a file exists at the path; `KEYRING_INVALID` for a keyring that cannot
   * be saved; `PROVIDER_UNAVAILABLE` if the file cannot be written.
   */
  create(ring: Keyring): Promise<void>;
  /**
   * Calls `changed` after each change at the path, at most once in 100 ms. Returns a function that ends the
   * subscription. A subscription does not keep the process running.
   */
  subscribe(changed: () => void): () => void;
}

/**
 * Returns a key provider that reads a keyring from a file, or from a directory with one file for each key. The path is
 * watched for changes.
 *
 * A file holds a key, a passphrase or a keyring document, in the notations that {@link envKeys} reads. In a directory,
 * the name of each file is the id of the key in the file, and a file `primary` holds the id of the primary key.
 *
 * The provider can save a keyring only to a file with a keyring document, and `create` writes the first document. With
 * a directory, a file with a single key or a read-only mount, `rotateKey` and `retireKey` need the option `instruct`,
 * and guide an operator who changes the keys.
 *
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { fileKeys } from "@keyward/keys-env";
 *
 * const keys = fileKeys("/run/secrets/keyring");
 * const sessions = createKeyv({ store: new Map(), keys, namespace: "sessions" });
 *
 * @param path Path of the file or the directory.
 * @throws KeywardError `VALUE_INVALID` if `path` is empty or not a string, for an unknown option, and for an option out
 * of range.
 */
export function fileKeys(path: string, options: FileKeysOptions = {}): FileKeys {
  requireOptions("fileKeys", options, optionNames);
  if (typeof path !== "string" || path === "") {
    throw new KeywardError("VALUE_INVALID", "The first argument of fileKeys must be a path as a non-empty string", {
      hint: "Pass the path of a file or a directory as a string. If the path comes from an environment variable, check that the environment variable is set.",
    });
  }
  const name = pathForErrors(path);
  const mount = new Mount(path, name, options);
  const missing = new MissingKeys(options);

  async function load() {
    const found = await readMount(mount, name, options, () => missing.found());
    if (found !== undefined) return ringFrom(found, name);
    const hint = `If encrypted records exist, mount the key that encrypted these records, ${onlyForAFirstKey}`;
    return missing.fallback(
      `${name} does not exist, or is the path of an empty directory`,
      hint,
      isProduction(process.env),
    );
  }

  return {
    load: ({ signal } = {}) => abortable(load, signal),
    save: (next, previous) => saveKeyring(path, next, previous),
    requireWritable: () => requireWritable(path),
    describeChange: (change, keyring) => describeMountChange(change, keyring, { mount, path, others: undefined }),
    create: (ring) => createKeyring(path, ring),
    subscribe: (changed) => mount.subscribe(changed),
  };
}
