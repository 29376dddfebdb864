import { resolve } from "node:path";
import { type EncryptedStoreOptions, type KeyProvider, KeywardError, type WrappableStore } from "@keyward/core";
import { requireConfigOptions } from "./config-mistakes.ts";
import type { ConfigOptions, ConfigSettings } from "./config-options.ts";
import { gatewayStoreNames } from "./store-name.ts";

/** An open store with its keys, scope and foreign formats. Pass these as options to `createKeyv` or `EncryptedStore`. */
export interface ConfiguredStore extends Pick<EncryptedStoreOptions, "keys" | "scope" | "accept"> {
  /** The store, which the caller closes. */
  readonly store: WrappableStore;
}

/**
 * Checks a configuration, which the command `keyward` and an application share, and returns it as a {@link Config}.
 *
 * @throws KeywardError `VALUE_INVALID` that lists every mistake with its place.
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { defineConfig } from "keyward";
 *
 * const config = defineConfig({ keys: "env:APP_ENCRYPTION_KEY", stores: { sessions: "memory:" } });
 * const sessions = createKeyv({ ...(await config.store("sessions")), namespace: "sessions" });
 */
export function defineConfig(options: ConfigOptions): Config {
  return new Config(options);
}

/** A checked configuration. Make one with {@link defineConfig}, or read one from a file with `loadConfig`. */
export class Config {
  /** The settings that apply: a setting of the chosen environment replaces the shared setting of the same name. */
  readonly settings: ConfigSettings;
  readonly #options: ConfigOptions;
  #keys: Promise<KeyProvider> | undefined;

  /**
   * Checks a configuration.
   *
   * @param environment the name of the environment. Default: `KEYWARD_ENV`, or none.
   * @throws KeywardError `VALUE_INVALID`.
   */
  constructor(options: ConfigOptions, environment: string | undefined = process.env["KEYWARD_ENV"]) {
    const { environments = {}, folder: _folder, ...shared } = requireConfigOptions(options);
    this.#options = options;
    if (environment === undefined || environment === "") this.settings = shared;
    else {
      const own = Object.hasOwn(environments, environment) ? environments[environment] : undefined;
      if (own === undefined) throw unknownEnvironment(environment, Object.keys(environments));
      this.settings = { ...shared, ...own };
    }
  }

  /** The options from which the configuration was made. */
  get options(): ConfigOptions {
    return this.#options;
  }

  /**
   * Returns the key provider. Every call returns the same object, so that the stores of a process share their keys.
   *
   * @throws KeywardError `VALUE_INVALID` if the configuration has no keys; the errors of `keysFrom`.
   */
  keys(): Promise<KeyProvider> {
    this.#keys ??= this.#openKeys().catch((error: unknown) => {
      this.#keys = undefined;
      throw error;
    });
    return this.#keys;
  }

  /**
   * Opens a store, and returns it with its keys. Pass the result to `createKeyv`, with a namespace. The caller closes the
   * store: `disconnect()`.
   *
   * @throws KeywardError `VALUE_INVALID` if the configuration has no such store or no keys; the errors of `storeFrom` and
   * `keysFrom`.
   */
  async store(name: string): Promise<ConfiguredStore> {
    const { accept } = this.settings;
    const scope = await this.scopeOf(name);
    const keys = await this.keys();
    return {
      store: await this.openStore(name),
      keys,
      ...(scope === undefined ? {} : { scope }),
      ...(accept === undefined ? {} : { accept }),
    };
  }

  /**
   * Opens a store without loading its keys. The store returns records as they are stored.
   *
   * @param env environment variables for `storeFrom`. Default: `process.env`.
   * @throws KeywardError `VALUE_INVALID` if the configuration has no such store; the errors of `storeFrom`.
   */
  async openStore(
    name: string,
    env: Readonly<Record<string, string | undefined>> = process.env,
  ): Promise<WrappableStore> {
    const configured = this.#configured(name);
    if (configured === undefined) throw unknownStore(name, this.storeNames);
    const place = this.#placeOf(name);
    if (typeof configured === "function") return await ofFunction(place, configured);
    const source = configured.trim();
    this.#requireFolder(place, source, ["sqlite:"]);
    if (place === "gateway.audit") {
      const { openAuditStore } = await import("./gateway-stores.ts");
      return openAuditStore(this.pathOf(source.slice("sqlite:".length)));
    }
    const { storeFrom } = await import("@keyward/stores-from");
    return await storeFrom(source, { env, ...this.#folder });
  }

  /** The names of the stores: those of the setting `stores`, and with the setting `gateway` also `service` and `audit`. */
  get storeNames(): readonly string[] {
    const { stores = {}, gateway } = this.settings;
    return [...Object.keys(stores), ...(gateway === undefined ? [] : gatewayStoreNames)];
  }

  /** Returns the source of a store as text; "" if a function makes the store, or if there is no such store. */
  sourceOf(name: string): string {
    const configured = this.#configured(name);
    return typeof configured === "string" ? configured.trim() : "";
  }

  /**
   * Returns the scope of the records in a store. In the stores of the setting `gateway`, the records of the secrets service
   * have scopes of their own.
   *
   * @param scope the scope of all other records. Default: the setting `scope`.
   */
  async scopeOf(name: string, scope = this.settings.scope): Promise<ConfigSettings["scope"]> {
    if (!this.#isOfGateway(name)) return scope;
    const { scopeWithGateway } = await import("./gateway-stores.ts");
    return scopeWithGateway(scope);
  }

  /** Resolves the path in a source against the folder of the configuration. */
  pathOf(path: string): string {
    return resolve(this.#options.folder ?? "", path);
  }

  #isOfGateway(name: string): boolean {
    return this.settings.gateway !== undefined && gatewayStoreNames.some((reserved) => reserved === name);
  }

  #configured(name: string): string | (() => WrappableStore | Promise<WrappableStore>) | undefined {
    const { stores = {}, gateway } = this.settings;
    if (gateway !== undefined && name === "service") return gateway.store;
    if (gateway !== undefined && name === "audit") return `sqlite:${gateway.audit.trim()}`;
    return Object.hasOwn(stores, name) ? stores[name] : undefined;
  }

  #placeOf(name: string): string {
    if (!this.#isOfGateway(name)) return `stores.${name}`;
    return name === "service" ? "gateway.store" : "gateway.audit";
  }

  async #openKeys(): Promise<KeyProvider> {
    const { keys } = this.settings;
    if (keys === undefined) {
      throw new KeywardError("VALUE_INVALID", "The configuration has no keys", {
        hint: "Add the setting `keys`, such as `file:production.keyring`. If the settings of an environment contain the keys, choose this environment with KEYWARD_ENV.",
      });
    }
    if (typeof keys === "function") {
      const provider: unknown = await ofFunction("keys", keys);
      if (isKeyProvider(provider)) return provider;
      throw new KeywardError("VALUE_INVALID", "keys: the function does not return a key provider", {
        hint: "Return a key provider, which is an object with the method `load`, such as the result of `fileKeys` or `vaultKeys`.",
      });
    }
    const source = keys.trim();
    this.#requireFolder("keys", source, ["file:", "place=file:"]);
    const { keysFrom } = await import("@keyward/keys-from");
    return await keysFrom(source, this.#folder);
  }

  get #folder(): { readonly folder?: string } {
    const { folder } = this.#options;
    return folder === undefined ? {} : { folder };
  }

  #requireFolder(place: string, source: string, schemes: readonly string[]): void {
    if (this.#options.folder !== undefined) return;
    const isRelative = schemes.some((scheme) => {
      const at = source.trimStart().indexOf(scheme);
      return (
        at !== -1 &&
        (at === 0 || scheme.startsWith("place=")) &&
        !/^[/:]/.test(source.trimStart().slice(at + scheme.length))
      );
    });
    if (!isRelative) return;
    throw new KeywardError("VALUE_INVALID", `${place} has a relative path, and the configuration has no folder`, {
      hint: "Add `folder: import.meta.dirname` to the configuration, or write an absolute path.",
    });
  }
}

/**
 * Calls a function of a configuration. If it throws, the new error contains only the name of the error, because a message may
 * * contain a secret.
 */
async function ofFunction<Result>(place: string, make: () => Result | Promise<Result>): Promise<Result> {
  try {
    return await make();
  } catch (cause) {
    if (cause instanceof KeywardError) throw cause;
    const name = cause instanceof Error ? cause.name : "a value that is not an Error";
    throw new KeywardError("VALUE_INVALID", `${place}: the function throws ${name}`, {
      hint: "Correct the function in the configuration file. To see the message of the error, call the function in a program of its own.",
      cause,
    });
  }
}

function isKeyProvider(given: unknown): given is KeyProvider {
  return typeof given === "object" && given !== null && "load" in given && typeof given.load === "function";
}

function unknownEnvironment(name: string, known: readonly string[]): KeywardError {
  const hint = known.length === 0 ? "has no environments" : `has the environments ${known.join(", ")}`;
  return new KeywardError("VALUE_INVALID", `The configuration has no environment ${JSON.stringify(name)}`, {
    hint: `Correct --env or KEYWARD_ENV. The configuration ${hint}.`,
  });
}

function unknownStore(name: string, known: readonly string[]): KeywardError {
  const hint = known.length === 0 ? "has no stores" : `has the stores ${known.join(", ")}`;
  return new KeywardError("VALUE_INVALID", `The configuration has no store ${JSON.stringify(name)}`, {
    hint: `Correct the name, or add the store to the configuration, which ${hint}.`,
  });
}
