import { statSync } from "node:fs";
import {
  EncryptedStore,
  type EncryptedStoreOptions,
  hasReservedSpace,
  isScannable,
  type KeyProvider,
  KeywardError,
  type WrappableStore,
} from "@keyward/core";
import { CommandError } from "../exit-codes.ts";
import type { Config } from "./config.ts";
import { checkRecordKey, requireUsedScope } from "./scope-use.ts";
import { storeName } from "./store-name.ts";

/** The options that name the keys and the stores, as they are on the command line. */
export interface SourceOptions {
  readonly keys?: string;
  readonly store: readonly string[];
  readonly emptyStore: readonly string[];
  /** True if every question is answered with yes. */
  readonly yes: boolean;
  readonly scope?: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The flags, the environment variables and the configuration file of a command. The first of these that contains a setting
 * applies.
 */
export interface Told {
  readonly options: SourceOptions;
  readonly env: Environment;
  readonly config: Config | undefined;
  /** The path of the configuration file; "" if there is none. */
  readonly path: string;
}

const storeVariable = "KEYWARD_STORE";
/** The name of a store if its flag or variable contains only a source. */
const unnamedStore = "records";

/**
 * Returns the key provider that the flag `--keys`, the environment variable `KEYWARD_KEYS` or the configuration names.
 *
 * @throws CommandError `USAGE` if none is set; the errors of `keysFrom`.
 */
export async function openKeys({ options, env, config }: Told): Promise<KeyProvider> {
  const source = options.keys ?? env["KEYWARD_KEYS"];
  if (source !== undefined && source !== "") {
    const { keysFrom } = await import("@keyward/keys-from");
    return await keysFrom(source, { env }).catch(asUsageError);
  }
  if (config?.settings.keys !== undefined) return await config.keys();
  throw new CommandError("USAGE", "The source of the keys is not set", {
    hint: "Pass --keys, such as `--keys file:production.keyring`, set the environment variable KEYWARD_KEYS, or make a configuration with `keyward init`. In a folder that `keyward gateway init` has set up, restore `keyward.config.ts` from the backup instead.",
  });
}

/** Throws the error for a wrong command line if a source is invalid. Throws any other error unchanged. */
function asUsageError(error: unknown): never {
  if (error instanceof KeywardError && error.code === "VALUE_INVALID") {
    throw new CommandError("USAGE", error.message, { hint: error.hint });
  }
  throw error;
}

/** The stores of a command, by name, and the function that closes them. */
export interface OpenStores {
  readonly stores: Readonly<Record<string, EncryptedStore>>;
  /** The stores that the encrypted stores wrap, by the same names. */
  readonly inner: Readonly<Record<string, WrappableStore>>;
  close(): Promise<void>;
}

/** Settings for the opening of stores. Most commands use the defaults. */
export interface StoreOpening extends Pick<EncryptedStoreOptions, "accept" | "decode"> {
  /**
   * True if a store may have only records that Keyward did not write. A store without any record is still refused.
   * Default: false, so that a store that was never used with Keyward is refused.
   */
  readonly mayBeForeign?: boolean;
}

/** The settings of {@link openStores} that are not in {@link Told}. */
export interface OpenStoresSettings extends StoreOpening {
  readonly keys: KeyProvider;
  /** The store names that the keyring lists. A name in an environment variable matches one of these without regard to case. */
  readonly listed: readonly string[];
  /**
   * Called with the name of each store that cannot be opened or was never used, and its error. Such a store is left out,
   * unless the function throws.
   */
  readonly failed: (name: string, error: unknown) => void;
}

/**
 * Opens the stores that {@link namedStores} names, each with the keys.
 *
 * @throws CommandError `USAGE` if no store is named, or if two stores have the same name.
 */
export async function openStores(
  told: Told,
  { keys, listed, failed, decode, mayBeForeign = false, ...settings }: OpenStoresSettings,
): Promise<OpenStores> {
  const inner: Record<string, WrappableStore> = Object.create(null);
  const stores: Record<string, EncryptedStore> = Object.create(null);
  const close = async () => {
    for (const store of Object.values(stores)) await store.disconnect();
    for (const store of Object.values(inner)) await closeStore(store);
  };
  const { config } = told;
  const accept = settings.accept ?? config?.settings.accept;
  for (const named of namedStores(told, listed)) {
    const { name } = named;
    try {
      const scope = await scopeOf(told, named);
      const store = await openNamed(told, named, { mayBeForeign, scope });
      inner[name] = store;
      stores[name] = new EncryptedStore(store, {
        keys,
        ...(scope === undefined ? {} : { scope }),
        ...(accept === undefined ? {} : { accept }),
        ...(decode === undefined ? {} : { decode }),
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
  return { stores, inner, close };
}

/** Returns the scope of the records in a store, which a flag or the configuration sets. */
export async function scopeOf(
  { options, config }: Told,
  { name, source }: StoreSource,
): Promise<EncryptedStoreOptions["scope"]> {
  if (source !== undefined || config === undefined) return options.scope ?? config?.settings.scope;
  return await config.scopeOf(name, options.scope ?? config.settings.scope);
}

/** The name and the source of a store of a command. Without `source`, the configuration has the source. */
export interface StoreSource {
  readonly name: string;
  readonly source?: string;
}

/**
 * Returns the stores of a command, which the flags `--store` name. Without these flags, the environment variables
 * `KEYWARD_STORE` and `KEYWARD_STORE_<NAME>` name the stores. Without these variables, the configuration names them. A flag
 * without a source chooses a store of the environment variables or of the configuration by its name.
 *
 * @param listed the store names that the keyring lists.
 * @throws CommandError `USAGE` if no store is named, if two stores have the same name, or if a flag has an unknown name.
 */
export function namedStores({ options, env, config }: Told, listed: readonly string[]): readonly StoreSource[] {
  const inVariables = readVariables(env, listed);
  const inConfig = (config?.storeNames ?? []).map((name) => ({ name }));
  const known = [...inVariables, ...inConfig];
  const named =
    options.store.length > 0
      ? options.store.map((text) => readFlag(text, known))
      : inVariables.length > 0
        ? inVariables
        : inConfig;
  if (named.length === 0) {
    throw new CommandError("USAGE", "No store is set", {
      hint: "Pass --store, such as `--store sessions=redis://localhost`, set the environment variable KEYWARD_STORE_SESSIONS, or make a configuration with `keyward init`.",
    });
  }
  const twice = named.find(({ name }, index) => named.findIndex((other) => other.name === name) !== index);
  if (twice === undefined) return named;
  throw new CommandError("USAGE", `Two stores have the name "${twice.name}"`, {
    hint: "Give each store another name: `--store name=source`.",
  });
}

/** Returns whether flags, environment variables or the configuration name a store. */
export function namesAnyStore({ options, env, config }: Told): boolean {
  const inConfig = config?.storeNames ?? [];
  return options.store.length > 0 || readVariables(env, []).length > 0 || inConfig.length > 0;
}

/**
 * Returns the store of a command that works with one store.
 *
 * @throws CommandError `USAGE` if there are several stores, and as {@link namedStores}.
 */
export function oneStore(told: Told, listed: readonly string[]): StoreSource {
  const [first, ...others] = namedStores(told, listed);
  if (first !== undefined && others.length === 0) return first;
  const names = [first, ...others].flatMap((store) => (store === undefined ? [] : [store.name]));
  throw new CommandError("USAGE", `This command works with one store, and ${names.length} are named`, {
    hint:
      told.options.store.length > 0
        ? "Pass the flag --store once."
        : `Choose one: ${names.map((name) => `\`--store ${name}\``).join(" or ")}.`,
  });
}

/** Settings for the checks that {@link openNamed} makes of a store. */
export interface NamedOpening {
  /** True if a store may have only records that Keyward did not write. Default: false. */
  readonly mayBeForeign?: boolean;
  /** The scope of the records. If the scope is a name, a store that was never used with this scope is refused. */
  readonly scope?: EncryptedStoreOptions["scope"] | undefined;
}

/**
 * Opens a store. Refuses a store that was never used with Keyward, or never with the scope, unless `--empty-store` names the
 * store. The source or the scope may be misspelt, so that the application could not read what the command writes.
 */
export async function openNamed(
  { options, env, config }: Told,
  { name, source }: StoreSource,
  { mayBeForeign = false, scope }: NamedOpening = {},
): Promise<WrappableStore> {
  const mayBeEmpty = options.emptyStore.includes(name);
  const text = sourceText({ name, ...(source === undefined ? {} : { source }) }, config);
  if (text.startsWith("memory:") || text === "sqlite::memory:") throw inMemory(name);
  const path = text.startsWith("sqlite:") ? text.slice("sqlite:".length) : undefined;
  if (path !== undefined && !mayBeEmpty) {
    requireUsedFile(name, source === undefined ? (config?.pathOf(path) ?? path) : path, mayBeForeign);
  }
  const store = await open(name, source, env, config);
  if (isInMemory(store)) {
    await closeStore(store);
    throw inMemory(name);
  }
  if (mayBeEmpty) return store;
  try {
    await requireUsed(name, store, mayBeForeign);
    if (typeof scope === "string") await requireUsedScope(name, store, scope);
    return store;
  } catch (error) {
    await closeStore(store);
    throw error;
  }
}

/** Refuses a missing or empty SQLite file before it is opened, because opening would make it a database. */
function requireUsedFile(name: string, path: string, mayBeForeign: boolean): void {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined) throw neverUsed(name, `The file of the store ${name} does not exist`);
  if (!status.isFile() || status.size > 0) return;
  throw neverUsed(name, `${mayBeForeign ? noRecords(name) : unused(name)}: its file is empty`);
}

const classesInMemory: readonly string[] = ["MemoryStore", "MemorySpace", "KeyvMemoryAdapter"];

/** Returns whether a store keeps its records only in memory. A function of the configuration may have made such a store. */
function isInMemory(store: WrappableStore): boolean {
  if (store instanceof Map || Reflect.get(store, "description") === 'SqliteStore ":memory:"') return true;
  // The package of a store in memory need not be installed, so the classes are compared by their names.
  for (let type: unknown = store.constructor; typeof type === "function"; type = Object.getPrototypeOf(type)) {
    if (classesInMemory.includes(type.name)) return true;
  }
  return false;
}

function inMemory(name: string): CommandError {
  return new CommandError(
    "USAGE",
    `The store ${name} keeps its records in the memory of a process, where no command can read them`,
    {
      hint: "Name the store in which the application keeps its records.",
    },
  );
}

/** Returns the source of a store, such as `redis://localhost`; "" if a function of the configuration makes the store. */
export function sourceText({ name, source }: StoreSource, config: Config | undefined): string {
  return source ?? config?.sourceOf(name) ?? "";
}

/** Closes the connection of a store, because an open connection would keep the process running. */
export async function closeStore(store: WrappableStore): Promise<void> {
  if ("disconnect" in store) await store.disconnect?.();
}

async function open(
  name: string,
  source: string | undefined,
  env: Environment,
  config: Config | undefined,
): Promise<WrappableStore> {
  if (source === undefined && config !== undefined) return await config.openStore(name, env);
  const { storeFrom } = await import("@keyward/stores-from");
  return await storeFrom(source, { env }).catch(asUsageError);
}

/** Checks that a process with a key has written to a store before. The store then has a check record. */
async function requireUsed(name: string, store: WrappableStore, mayBeForeign: boolean): Promise<void> {
  // A store without a reserved space keeps no check record, so nothing shows whether it was used.
  if (!hasReservedSpace(store)) return;
  const reserved = store.reserved();
  if ((await reserved.get(checkRecordKey(undefined))) !== undefined) return;
  const { entries } = await reserved.scan({ limit: 1 });
  if (entries.length > 0) return;
  if (!mayBeForeign) throw neverUsed(name, unused(name));
  if (!(await hasRecords(store))) throw neverUsed(name, noRecords(name));
}

/** Returns whether a store has a record. A store that cannot be searched counts as one that has records. */
async function hasRecords(store: WrappableStore): Promise<boolean> {
  if (!isScannable(store)) return true;
  let cursor: string | undefined;
  do {
    const page = await store.scan({ limit: 1, ...(cursor === undefined ? {} : { cursor }) });
    if (page.entries.length > 0) return true;
    cursor = page.cursor;
  } while (cursor !== undefined);
  return false;
}

function unused(name: string): string {
  return `The store ${name} was never used with Keyward`;
}

function noRecords(name: string): string {
  return `The store ${name} has no records`;
}

function neverUsed(name: string, problem: string): KeywardError {
  return new KeywardError("STORE_INVALID", problem, {
    hint:
      "Compare the source of the store with the source in the application: the path, host, database number and prefix. " +
      `Only if no record was ever written to this store, add \`--empty-store ${name}\`.`,
  });
}

/**
 * Reads a flag `--store`: `name=source`, a source, or the name of one of the stores `known`.
 *
 * @throws CommandError `USAGE` if the name is unknown.
 */
function readFlag(flag: string, known: readonly StoreSource[]): StoreSource {
  const text = flag.trim();
  const equals = text.indexOf("=");
  const name = equals === -1 ? "" : text.slice(0, equals);
  // A source may contain "=" in its parameters, so the name ends at the first "=".
  if (storeName.test(name)) return { name, source: text.slice(equals + 1).trim() };
  if (text.includes(":")) return { name: unnamedStore, source: text };
  const found = known.find((store) => store.name === text);
  if (found !== undefined) return found;
  const names = known.map((store) => store.name).join(", ");
  throw new CommandError(
    "USAGE",
    "A flag --store is neither a source nor the name of a store in the configuration or in an environment variable",
    {
      hint:
        "Write a source, such as `--store sessions=redis://localhost`, or a name. " +
        (names === "" ? "No name is set in environment variables or in a configuration." : `The names are: ${names}.`),
    },
  );
}

function readVariables(env: Environment, listed: readonly string[]): readonly StoreSource[] {
  return Object.entries(env)
    .flatMap(([variable, value = ""]) => {
      const source = value.trim();
      if (source === "") return [];
      if (variable === storeVariable) return [{ name: unnamedStore, source }];
      if (!variable.startsWith(`${storeVariable}_`)) return [];
      const name = variable.slice(storeVariable.length + 1).toLowerCase();
      if (!storeName.test(name)) return [];
      return [{ name: listed.find((one) => one.toLowerCase() === name) ?? name, source }];
    })
    .sort((one, other) => (one.name < other.name ? -1 : 1));
}
