import { existsSync } from "node:fs";
import { EncryptedStore, type KeyProvider, KeywardError } from "@keyward/core";
import type { NamedStore } from "@keyward/stores-from";

/** The options that name the keys and the stores, as they are on the command line. */
export interface SourceOptions {
  readonly keys?: string;
  readonly store: readonly string[];
  readonly emptyStore: readonly string[];
  readonly scope?: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

const storeVariable = "KEYWARD_STORE";
const unnamedStore = "records";
/** The form of a name that a flag can give to a store. */
export const storeName = /^[A-Za-z][A-Za-z0-9_-]*$/;

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

/** What {@link openStores} needs to know besides the options. */
export interface OpenStoresSettings {
  readonly keys: KeyProvider;
  /** The names that the keyring lists, with which the names in environment variables are compared. */
  readonly listed: readonly string[];
  readonly env: Environment;
  /**
   * Called with the name of each store that cannot be opened or was never used, and its error. Such a store is left out,
   * unless the function throws.
   */
  readonly failed: (name: string, error: unknown) => void;
}

/**
 * Opens the stores that the flags `--store` name, or else the environment variables `KEYWARD_STORE` and
 * `KEYWARD_STORE_<NAME>`. A store that was never used with Keyward is refused, unless `--empty-store` names it: its
 * source may be misspelt, and a rotation of another store than that of the application would lose the records.
 *
 * @throws KeywardError `VALUE_INVALID` if none is set, or two have one name.
 */
export async function openStores(
  options: SourceOptions,
  { keys, listed, env, failed }: OpenStoresSettings,
): Promise<OpenStores> {
  const sources = options.store.length > 0 ? options.store.map(readFlag) : readVariables(env, listed);
  if (sources.length === 0) {
    throw new KeywardError("VALUE_INVALID", "No store is set", {
      hint: "Pass --store, such as `--store sessions=redis://localhost`, or set the environment variable KEYWARD_STORE_SESSIONS.",
    });
  }
  const inner: NamedStore[] = [];
  const stores: Record<string, EncryptedStore> = Object.create(null);
  const close = async () => {
    for (const store of [...Object.values(stores), ...inner]) await store.disconnect();
  };
  for (const { name, source } of sources) {
    try {
      if (name in stores) throw sameName(name);
      const store = await openStore({ name, source }, options.emptyStore.includes(name), env);
      inner.push(store);
      if (!options.emptyStore.includes(name)) await requireUsed(name, store);
      stores[name] = new EncryptedStore(store, {
        keys,
        ...(options.scope === undefined ? {} : { scope: options.scope }),
      });
    } catch (error) {
      try {
        failed(name, error);
      } catch (refused) {
        await close();
        throw refused;
      }
    }
  }
  return { stores, close };
}

async function openStore({ name, source }: StoreSource, mayBeEmpty: boolean, env: Environment): Promise<NamedStore> {
  if (source.startsWith("memory:")) {
    throw new KeywardError(
      "VALUE_INVALID",
      `The store ${name} is in the memory of a process, which no command can see`,
      {
        hint: "Name the store in which the application keeps its records.",
      },
    );
  }
  const path = source.startsWith("sqlite:") ? source.slice("sqlite:".length) : undefined;
  if (path !== undefined && !mayBeEmpty && !existsSync(path)) {
    throw neverUsed(name, `The file of the store ${name} does not exist`);
  }
  const { storeFrom } = await import("@keyward/stores-from");
  return await storeFrom(source, { env });
}

/** Checks that a process with a key has written to a store before. It then has a check record. */
async function requireUsed(name: string, store: NamedStore): Promise<void> {
  const reserved = store.reserved();
  if ((await reserved.get("check")) !== undefined) return;
  const { entries } = await reserved.scan({ limit: 1 });
  if (entries.length === 0) throw neverUsed(name, `The store ${name} was never used with Keyward`);
}

function neverUsed(name: string, problem: string): KeywardError {
  return new KeywardError("STORE_INVALID", problem, {
    hint:
      "Compare its source with that of the application: the path, the host, the number of the database and the prefix. " +
      `Only if no record was ever written to this store, add \`--empty-store ${name}\`.`,
  });
}

function sameName(name: string): KeywardError {
  return new KeywardError("VALUE_INVALID", `Two stores have the name "${name}"`, {
    hint: "Give each store another name: `--store name=source`.",
  });
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

function readVariables(env: Environment, listed: readonly string[]): readonly StoreSource[] {
  return Object.entries(env)
    .flatMap(([variable, source = ""]) => {
      if (source === "") return [];
      if (variable === storeVariable) return [{ name: unnamedStore, source }];
      if (!variable.startsWith(`${storeVariable}_`)) return [];
      const name = variable.slice(storeVariable.length + 1).toLowerCase();
      if (!storeName.test(name)) return [];
      return [{ name: listed.find((one) => one.toLowerCase() === name) ?? name, source }];
    })
    .sort((one, other) => (one.name < other.name ? -1 : 1));
}
