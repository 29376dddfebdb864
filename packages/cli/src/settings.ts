import { EncryptedStore, type KeyProvider, KeywardError } from "@keyward/core";
import type { NamedStore } from "@keyward/stores-from";

/** The options that name the keys and the stores, as they are on the command line. */
export interface SourceOptions {
  readonly keys?: string;
  readonly store: readonly string[];
  readonly scope?: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

const storeVariable = "KEYWARD_STORE";
const unnamedStore = "records";
const storeName = /^[A-Za-z][A-Za-z0-9_-]*$/;

/**
 * Returns the key provider that the flag `--keys` or the environment variable `KEYWARD_KEYS` names.
 *
 * @throws KeywardError `VALUE_INVALID` if neither is set; the errors of `keysFrom`.
 */
export async function openKeys({ keys }: SourceOptions, env: Environment): Promise<KeyProvider> {
  const source = keys ?? env["KEYWARD_KEYS"];
  if (source === undefined || source === "") {
    throw new KeywardError("VALUE_INVALID", "The source of the keys is not set", {
      hint: "Pass --keys, such as `--keys file:production.keyring`, or set the environment variable KEYWARD_KEYS.",
    });
  }
  const { keysFrom } = await import("@keyward/keys-from");
  return await keysFrom(source, { env });
}

/** The stores of a command, by name, and the function that closes them. */
export interface OpenStores {
  readonly stores: Readonly<Record<string, EncryptedStore>>;
  close(): Promise<void>;
}

/**
 * Opens the stores that the flags `--store` name, or else the environment variables `KEYWARD_STORE` and
 * `KEYWARD_STORE_<NAME>`.
 *
 * @param failed called with the name of each store that cannot be opened, and its error. Such a store is left out,
 * unless the function throws.
 * @throws KeywardError `VALUE_INVALID` if none is set, or two have one name.
 */
export async function openStores(
  options: SourceOptions,
  keys: KeyProvider,
  env: Environment,
  failed: (name: string, error: unknown) => void,
): Promise<OpenStores> {
  const sources = options.store.length > 0 ? options.store.map(readFlag) : readVariables(env);
  if (sources.length === 0) {
    throw new KeywardError("VALUE_INVALID", "No store is set", {
      hint: "Pass --store, such as `--store sessions=redis://localhost`, or set the environment variable KEYWARD_STORE_SESSIONS.",
    });
  }
  const { storeFrom } = await import("@keyward/stores-from");
  const inner: NamedStore[] = [];
  const stores: Record<string, EncryptedStore> = Object.create(null);
  for (const { name, source } of sources) {
    if (name in stores) {
      throw new KeywardError("VALUE_INVALID", `Two stores have the name "${name}"`, {
        hint: "Give each store another name: `--store name=source`.",
      });
    }
    try {
      const store = await storeFrom(source, { env });
      inner.push(store);
      stores[name] = new EncryptedStore(store, {
        keys,
        ...(options.scope === undefined ? {} : { scope: options.scope }),
      });
    } catch (error) {
      failed(name, error);
    }
  }
  return {
    stores,
    async close() {
      for (const store of Object.values(stores)) await store.disconnect();
      for (const store of inner) await store.disconnect();
    },
  };
}

interface StoreSource {
  readonly name: string;
  readonly source: string;
}

function readFlag(text: string): StoreSource {
  const equals = text.indexOf("=");
  const name = equals === -1 ? "" : text.slice(0, equals);
  // A source may contain "=" in its parameters, so only a name before the first one counts.
  return storeName.test(name) ? { name, source: text.slice(equals + 1) } : { name: unnamedStore, source: text };
}

function readVariables(env: Environment): readonly StoreSource[] {
  return Object.entries(env)
    .flatMap(([variable, source = ""]) => {
      if (source === "") return [];
      if (variable === storeVariable) return [{ name: unnamedStore, source }];
      if (!variable.startsWith(`${storeVariable}_`)) return [];
      return [{ name: variable.slice(storeVariable.length + 1).toLowerCase(), source }];
    })
    .sort((one, other) => (one.name < other.name ? -1 : 1));
}
