import {
  abortable,
  type KeyProvider,
  type Keyring,
  KeywardError,
  type OptionNames,
  requireOptions,
} from "@keyward/core";
import { isProduction, MissingKeys, type MissingKeysOptions, missingKeysOptionNames } from "./missing-keys.ts";
import { Mount, type MountOptions, mountOptionNames, requirePollMs } from "./mount.ts";
import { type FoundKeys, readMount, readText } from "./mounted-keys.ts";
import {
  invalidKey,
  isDocument,
  makeAKey,
  type PassphraseOptions,
  passphraseOptionNames,
  readIdentifiedKey,
  ringOf,
  trim,
  type WrittenKey,
} from "./notation.ts";

/** Options of {@link envKeys}. */
export interface EnvKeysOptions extends PassphraseOptions, MissingKeysOptions, MountOptions {
  /** Where the variables are read, anew at each load; default `process.env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

const optionNames: OptionNames<EnvKeysOptions> = {
  ...passphraseOptionNames,
  ...missingKeysOptionNames,
  ...mountOptionNames,
  env: true,
};

/**
 * Keys from environment variables.
 *
 * - `NAME` holds the primary: 32 bytes as base64 or base64url, `hex:` and 64 hex digits, `passphrase:` and at least 32
 *   characters, or a whole keyring document. `id=` in front gives a key an id.
 * - `NAME_FILE` names a file or directory that holds it instead, as {@link fileKeys} reads it, and is watched.
 * - `NAME_OTHERS` holds further keys, comma-separated, which open records but seal none.
 *
 * White space at the ends of a value is not part of it. Nothing is guessed: what is no key in one of these notations
 * makes `load` reject with `KEY_INVALID`.
 *
 * @param name The name of the variable, not its value.
 * @throws KeywardError `KEY_INVALID` for a name that no variable can have, `VALUE_INVALID` for a `pollMs` out of range and for
 * an unknown option.
 */
export function envKeys(name: string, options: EnvKeysOptions = {}): KeyProvider {
  requirePollMs(requireOptions("envKeys", options, optionNames));
  if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
    // The commonest slip is envKeys(process.env.NAME), so the name is not repeated.
    throw new KeywardError("KEY_INVALID", "envKeys was given something that is not the name of a variable", {
      hint: 'Give it the name, not the value: envKeys("APP_ENCRYPTION_KEY").',
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
      throw new KeywardError("KEYRING_INVALID", `Both ${name} and ${fileVariable} are set`, {
        hint: `Keep the one whose key records were written under, and unset the other. Further keys go into ${othersVariable}.`,
      });
    }
    if (value !== undefined) return readText(value, name, options);
    if (path === undefined) {
      throw new KeywardError(
        "KEYRING_INVALID",
        `${othersVariable} is set, but neither ${name} nor ${fileVariable} is`,
        {
          hint: `Set ${name} to the key that was there before, which is the primary.`,
        },
      );
    }
    if (path === "")
      throw invalidKey(
        fileVariable,
        "it is empty where the path of a file is expected",
        `Set it to the path of the file, or set ${name} and unset it.`,
      );
    const found = await readMount(mountAt(path), fileName, options, () => {});
    if (found !== undefined) return found;
    // Its name may be a key that was pasted into the wrong variable.
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${fileName} leads to nothing`, {
      hint: `Mount the secret there, or correct ${fileVariable}. It holds the path of a file, not a key.`,
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
        const hint = "Give the key that belongs there, or take out the comma that nothing stands behind.";
        throw invalidKey(source, "it is empty, 0 characters found", hint);
      }
      keys.push(await readIdentifiedKey(key, source, options));
    }
    return keys;
  }

  async function load(): Promise<Keyring> {
    const found = await find();
    if (found === undefined) {
      const hint = `Set ${name} to the key that records were written under. ${makeAKey}`;
      const production = isProduction(env, process.env);
      return missing.standIn(`No key: neither ${name} nor ${fileVariable} is set`, hint, production);
    }
    const others = await readOthers();
    if ("keys" in found) return ringOf([...found.keys, ...others], `${name} with ${othersVariable}`);
    if (others.length === 0) return found.ring;
    throw new KeywardError("KEYRING_INVALID", `${othersVariable} is set beside a whole keyring document`, {
      hint: `Unset ${othersVariable}. Before that, add its keys to the document where the document lacks them: it holds all keys of the ring.`,
    });
  }

  return {
    load: ({ signal } = {}) => abortable(load, signal),
    subscribe(changed) {
      const path = pathIn(env[fileVariable]);
      return path === undefined || path === "" ? () => {} : mountAt(path).subscribe(changed);
    },
  };
}
