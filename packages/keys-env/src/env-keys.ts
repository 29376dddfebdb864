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
import { changeDocument, changeVariables } from "./change-instructions.ts";
import { isProduction, MissingKeys, type MissingKeysOptions, missingKeysOptionNames } from "./missing-keys.ts";
import { Mount, type MountOptions, mountOptionNames, requirePollMs } from "./mount.ts";
import { describeMountChange, type FoundKeys, readMount, readText } from "./mounted-keys.ts";
import {
  invalidKey,
  isDocument,
  onlyForAFirstKey,
  type PassphraseOptions,
  passphraseOptionNames,
  readIdentifiedKey,
  ringOf,
  trim,
  type WrittenKey,
} from "./notation.ts";

/** Options of {@link envKeys}. */
export interface EnvKeysOptions extends PassphraseOptions, MissingKeysOptions, MountOptions {
  /** The environment variables that hold the keys. They are read at each load. Default: `process.env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

const optionNames: OptionNames<EnvKeysOptions> = {
  ...passphraseOptionNames,
  ...missingKeysOptionNames,
  ...mountOptionNames,
  env: true,
};

/**
 * Returns a key provider that reads a keyring from environment variables. If you pass the name `NAME`, the provider
 * reads three environment variables:
 *
 * - `NAME` holds the primary key: 32 bytes in base64 or base64url, `hex:` and 64 hex digits, `passphrase:` and at least
 *   32 characters, or a whole keyring document. A prefix `id=` gives the key an id.
 * - `NAME_FILE` may be set instead of `NAME`. Its value is the path of a file or a directory, which the provider reads
 *   like {@link fileKeys}, and watches for changes.
 * - `NAME_OTHERS` holds additional keys, separated by commas. These keys decrypt records, but encrypt no new records.
 *
 * White space around a value is ignored. If the option `passphrase` is true, a value without any of the notations above
 * is used as a passphrase. If the option is false, `load` rejects with `KEY_INVALID` for such a value.
 *
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { envKeys } from "@keyward/keys-env";
 *
 * // APP_ENCRYPTION_KEY holds a key made with: openssl rand -base64 32
 * const keys = envKeys("APP_ENCRYPTION_KEY");
 * const sessions = createKeyv({ store: new Map(), keys, namespace: "sessions" });
 *
 * @param name Name of the environment variable, not its value.
 * @throws KeywardError `KEY_INVALID` if `name` cannot be the name of an environment variable; `VALUE_INVALID` for an
 * unknown option, and for an option out of range.
 */
export function envKeys(name: string, options: EnvKeysOptions = {}): KeyProvider {
  requirePollMs(requireOptions("envKeys", options, optionNames));
  if (typeof name !== "string" || !/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
    // The message does not repeat the name: the most common mistake is envKeys(process.env.NAME), which passes the key.
    throw new KeywardError("KEY_INVALID", "The first argument of envKeys is not the name of an environment variable", {
      hint: 'Pass the name of the environment variable instead of its value, such as `envKeys("APP_ENCRYPTION_KEY")`.',
    });
  }
  const { env = process.env } = options;
  const fileVariable = `${name}_FILE`;
  const othersVariable = `${name}_OTHERS`;
  const fileName = `The path in ${fileVariable}`;
  const missing = new MissingKeys(options);
  let mounted: { readonly path: string; readonly mount: Mount } | undefined;

  function mountAt(path: string): Mount {
    if (mounted?.path !== path) mounted = { path, mount: new Mount(path, fileName, options) };
    return mounted.mount;
  }

  function pathIn(value: string | undefined): string | undefined {
    return value === undefined ? undefined : trim(value);
  }

  async function find(): Promise<FoundKeys | undefined> {
    const value = env[name];
    const path = pathIn(env[fileVariable]);
    if (value === undefined && path === undefined && env[othersVariable] === undefined) return undefined;
    missing.found();
    if (value !== undefined && path !== undefined) {
      throw new KeywardError(
        "KEYRING_INVALID",
        `Both ${name} and ${fileVariable} are set, but only one of them may be set`,
        {
          hint: `Keep the environment variable that holds the key of existing records, and unset the other environment variable. If the application also needs the key from the other environment variable, add this key to ${othersVariable}.`,
        },
      );
    }
    if (value !== undefined) return readText(value, name, options);
    if (path === undefined) {
      throw new KeywardError(
        "KEYRING_INVALID",
        `${othersVariable} is set, but the primary key is missing: neither ${name} nor ${fileVariable} is set`,
        {
          hint: `If ${name} provided the primary key before, restore the earlier value of ${name}. Otherwise restore the earlier value of ${fileVariable}.`,
        },
      );
    }
    if (path === "")
      throw invalidKey(
        fileVariable,
        "the value is empty, but the path of a file is expected",
        `If the key is in a file, set ${fileVariable} to the path of the file. Otherwise unset ${fileVariable}, and set ${name} to the key.`,
      );
    const found = await readMount(mountAt(path), fileName, options, () => {});
    if (found !== undefined) return found;
    // The message does not repeat the path, which may be a key that was pasted into the wrong environment variable.
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${fileName} does not exist, or is the path of an empty directory`, {
      hint: `If the path is correct, mount the secret at this path. Otherwise correct the path. ${fileVariable} must hold a path, not a key.`,
    });
  }

  async function readOthers(): Promise<readonly WrittenKey[]> {
    const value = trim(env[othersVariable] ?? "");
    if (value === "") return [];
    const texts = isDocument(value) ? [value] : value.split(",");
    const keys: WrittenKey[] = [];
    for (const [index, text] of texts.entries()) {
      const source = `${othersVariable}, key ${index + 1} of ${texts.length},`;
      const key = trim(text);
      if (key === "") {
        const hint = "Insert the missing key, or remove the extra comma.";
        throw invalidKey(source, "0 characters found", hint);
      }
      keys.push(await readIdentifiedKey(key, source, options));
    }
    return keys;
  }

  async function load(): Promise<Keyring> {
    const found = await find();
    if (found === undefined) {
      const hint = `If encrypted records exist, set ${name} to the key that encrypted these records, ${onlyForAFirstKey}`;
      const production = isProduction(env, process.env);
      return missing.fallback(`No key: neither ${name} nor ${fileVariable} is set`, hint, production);
    }
    const others = await readOthers();
    if ("keys" in found) return ringOf([...found.keys, ...others], `${name} with ${othersVariable}`);
    if (others.length === 0) return found.ring;
    throw new KeywardError(
      "KEYRING_INVALID",
      `${othersVariable} is set, but the primary key is in a keyring document, which must hold all keys itself`,
      {
        hint: `If ${othersVariable} has keys that the keyring document lacks, add these keys to the document. Then unset ${othersVariable}.`,
      },
    );
  }

  async function describe(change: KeyringChange, keyring: Keyring): Promise<ChangeInstruction> {
    const path = pathIn(env[fileVariable]);
    if (path !== undefined && env[name] === undefined) {
      const others = { variable: othersVariable, ids: (await readOthers()).map(({ id }) => id) };
      return await describeMountChange(change, keyring, { mount: mountAt(path), path, others });
    }
    if (trim(env[name] ?? "").includes(",") && !isDocument(trim(env[name] ?? ""))) {
      throw new KeywardError(
        "KEY_INVALID",
        `The passphrase in ${name} contains a comma, so it cannot be moved to ${othersVariable}, where commas separate the keys`,
        {
          hint: `During a rotation, the old key moves to ${othersVariable}. So first move all keys to a directory of keys, where a file may hold the passphrase, or to a keyring document. Set ${fileVariable} to the path of the directory or the document.`,
        },
      );
    }
    if (isDocument(trim(env[name] ?? ""))) return changeDocument(change, `the environment variable ${name}`, true);
    return changeVariables(change, name, othersVariable);
  }

  return {
    load: ({ signal } = {}) => abortable(load, signal),
    describeChange: describe,
    subscribe(changed) {
      const path = pathIn(env[fileVariable]);
      return path === undefined || path === "" ? () => {} : mountAt(path).subscribe(changed);
    },
  };
}
