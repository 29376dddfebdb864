import type { EncryptedStoreOptions, ForeignFormat, KeyProvider, WrappableStore } from "@keyward/core";

/** The settings of rotations that `keyward` runs. Each setting is the default of the flag with the same meaning. */
export interface RotationSettings {
  /** How long the old key stays disabled before it is removed, in milliseconds. Default: one day. */
  readonly graceMs?: number;
  /** The most records that are re-encrypted per second. Default: no limit. */
  readonly maxPerSecond?: number;
  /**
   * The longest time that an unregistered process takes to load changed keys, in milliseconds. 0 if all processes are
   * registered.
   */
  readonly unregisteredMs?: number;
  /**
   * How long to wait for the replicas in each step, in milliseconds. Default: ten minutes, or twice the longest lease if
   * that is longer.
   */
  readonly replicasWithinMs?: number;
}

/** Where the secrets service keeps its records. */
export interface GatewaySettings {
  /**
   * The store of workspaces, servers, secrets and tokens: a source as for `storeFrom` of `@keyward/stores-from`, such as
   * `sqlite:.keyward/service.db`; or a function that returns a store.
   */
  readonly store: string | (() => WrappableStore | Promise<WrappableStore>);
  /** The path of the SQLite file of the audit, such as `.keyward/audit.db`. */
  readonly audit: string;
}

/** The settings that an application and the command `keyward` share. Each environment may have settings of its own. */
export interface ConfigSettings {
  /**
   * The source of the keys, as for `keysFrom` of `@keyward/keys-from`, such as `file:production.keyring`; or a function
   * that returns a key provider.
   */
  readonly keys?: string | (() => KeyProvider | Promise<KeyProvider>);
  /**
   * The stores by name: the source of each, as for `storeFrom` of `@keyward/stores-from`, such as `redis://localhost`;
   * or a function that returns a store. Do not write a password into a file that you commit: read the source from an
   * environment variable.
   */
  readonly stores?: Readonly<Record<string, string | (() => WrappableStore | Promise<WrappableStore>)>>;
  /** The scope of the records in all stores. Default: no scope. */
  readonly scope?: NonNullable<EncryptedStoreOptions["scope"]>;
  /** The foreign formats in which the stores have records that Keyward did not write. Default: none. */
  readonly accept?: readonly ForeignFormat[];
  /** The settings of rotations that `keyward` runs. Default: the defaults of the flags. */
  readonly rotation?: RotationSettings;
  /**
   * Where the secrets service keeps its records. With this setting, the configuration has the stores `service` and `audit`
   * too, so that a rotation re-encrypts their records. Default: no secrets service.
   */
  readonly gateway?: GatewaySettings;
}

/** The content of a configuration file. */
export interface ConfigOptions extends ConfigSettings {
  /**
   * The folder that relative paths in sources start from. In a TypeScript or JavaScript file: `import.meta.dirname`.
   * Default: relative paths are refused, because an application and an operator run in different folders.
   */
  readonly folder?: string;
  /**
   * The settings of each environment, by its name. `--env` or the environment variable `KEYWARD_ENV` chooses the environment. A
   * setting of the environment replaces the whole shared setting of the same name.
   */
  readonly environments?: Readonly<Record<string, ConfigSettings>>;
}
