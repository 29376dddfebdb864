import { hasReservedSpace, type KeyProvider, KeywardError, type WrappableStore } from "@keyward/core";
import type { ConfiguredStore } from "./configuration/config.ts";
import { findConfig } from "./configuration/config-file.ts";
import type { RotationSettings } from "./configuration/config-options.ts";
import {
  closeStore,
  namedStores,
  namesAnyStore,
  type OpenStores,
  oneStore,
  openKeys,
  openNamed,
  openStores,
  type SourceOptions,
  type StoreOpening,
  scopeOf,
  sourceText,
  type Told,
} from "./configuration/sources.ts";
import { CommandError } from "./exit-codes.ts";
import { readInput } from "./terminal/input.ts";
import { Operator, type OperatorStreams } from "./terminal/operator.ts";
import { Output, type OutputOptions, type Streams } from "./terminal/output.ts";
import { RecordProgress } from "./terminal/record-progress.ts";

/** The options that every command has. */
export interface CommonOptions extends SourceOptions, OutputOptions {
  /** The name of the environment in the configuration. */
  readonly env?: string;
}

/** The streams, the environment variables and the stop signal of the process, which `main` passes to a command. */
export interface Surroundings extends Streams, OperatorStreams {
  /** The stream for help and for the completion scripts of shells. */
  readonly stdout: NodeJS.WritableStream;
  readonly stderr: Streams["stderr"] & OperatorStreams["stderr"];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted when the operator stops the command. */
  readonly signal: AbortSignal;
  /** Sets how long the command may take to stop after a signal, in milliseconds, before its process is ended. Default: 10 s. */
  readonly allowStop: (withinMs: number) => void;
}

/** Makes the context of a command when the command runs. */
export type OpenContext = () => Promise<Context>;

/** Gives a command its output, its operator (the person who answers questions), its keys and its stores. */
export class Context {
  readonly output: Output;
  readonly operator: Operator;
  readonly signal: AbortSignal;
  readonly allowStop: Surroundings["allowStop"];
  readonly env: Surroundings["env"];
  readonly #options: CommonOptions;
  readonly #stdin: Surroundings["stdin"];
  #told: Promise<Told> | undefined;
  #recordProgress: RecordProgress | undefined;

  constructor(options: CommonOptions, surroundings: Surroundings) {
    const { signal } = surroundings;
    this.output = new Output(surroundings, options);
    this.operator = new Operator(surroundings, { yes: options.yes, signal });
    this.signal = signal;
    this.allowStop = surroundings.allowStop;
    this.env = surroundings.env;
    this.#options = options;
    this.#stdin = surroundings.stdin;
  }

  /**
   * Reads the value that is passed to the command on stdin, as text.
   *
   * @throws the errors of {@link readInput}.
   */
  async input(maxBytes: number): Promise<string> {
    return await readInput(this.#stdin, { maxBytes, signal: this.signal });
  }

  /** Returns the flags, the environment variables and the configuration file of the command. */
  told(): Promise<Told> {
    this.#told ??= this.#findTold();
    return this.#told;
  }

  /** Returns the display of the progress of a job over records. {@link Context.withStores} ends the display. */
  async recordProgress(stores: OpenStores["stores"]): Promise<RecordProgress> {
    this.#recordProgress ??= await RecordProgress.load(this.output, stores);
    return this.#recordProgress;
  }

  /** Ends the display of {@link Context.recordProgress}. Call this method before a result is printed. */
  endProgress(): void {
    this.#recordProgress?.end();
  }

  /** Returns the settings of rotations in the configuration. */
  async rotationSettings(): Promise<RotationSettings> {
    return (await this.told()).config?.settings.rotation ?? {};
  }

  /** Returns the source of a store, such as `sqlite:sessions.sqlite`; "" if a function in the configuration makes the store. */
  async sourceOf(name: string): Promise<string> {
    const told = await this.told();
    const found = namedStores(told, [name]).find((store) => store.name === name);
    return found === undefined ? "" : sourceText(found, told.config);
  }

  /** Returns the key provider of the command. */
  async keys(): Promise<KeyProvider> {
    return await openKeys(await this.told());
  }

  /**
   * Runs `work` with the keys and the stores of the command, and closes the stores afterwards. `listed` has the names of
   * the stores that the keyring lists, and is empty if the keyring cannot be loaded. `inner` has the stores that the
   * encrypted stores wrap.
   *
   * @param failed called with each store that cannot be opened, and its error. Default: rejects with the error.
   * @param opening how the stores are opened. Default: with the foreign formats in the configuration. A store that was never used
   * with Keyward is refused.
   */
  async withStores(
    work: (
      keys: KeyProvider,
      stores: OpenStores["stores"],
      listed: readonly string[],
      inner: OpenStores["inner"],
    ) => Promise<void>,
    failed: (name: string, error: unknown) => void = (_, error) => {
      throw error;
    },
    opening: StoreOpening = {},
  ): Promise<void> {
    const keys = await this.keys();
    const listed = await this.#listedBy(keys);
    const opened = await openStores(await this.told(), { ...opening, keys, listed, failed });
    try {
      await work(keys, opened.stores, listed, opened.inner);
    } finally {
      this.endProgress();
      await opened.close();
    }
  }

  /**
   * Opens the stores of the command with `keys` instead of the keys of the command, runs `work`, and closes the stores.
   *
   * @param listed the names of the stores that the keyring lists.
   * @param options.failed called with each store that cannot be opened, and its error.
   */
  async withStoresUnder(
    keys: KeyProvider,
    listed: readonly string[],
    work: (stores: OpenStores["stores"]) => Promise<void>,
    { failed }: { readonly failed: (name: string, error: unknown) => void },
  ): Promise<void> {
    const opened = await openStores(await this.told(), { keys, listed, failed });
    try {
      await work(opened.stores);
    } finally {
      await opened.close();
    }
  }

  /** Returns the names of the stores of the command; an empty list if no store is named. */
  async storeNames(): Promise<readonly string[]> {
    if (!(await this.namesStores())) return [];
    return namedStores(await this.told(), []).map(({ name }) => name);
  }

  /** Returns the names of the command's stores that answer and that a process has already used with a keyring. */
  async usedStores(): Promise<readonly string[]> {
    if (!(await this.namesStores())) return [];
    const told = await this.told();
    const used: string[] = [];
    for (const named of namedStores(told, [])) {
      if (told.options.emptyStore.includes(named.name)) continue;
      // A store that was never used is refused. A store that does not answer is left out.
      const store = await openNamed(told, named).catch(() => undefined);
      if (store === undefined) continue;
      if (hasReservedSpace(store)) used.push(named.name);
      await closeStore(store);
    }
    return used;
  }

  /** Returns whether flags, environment variables or the configuration name a store. */
  async namesStores(): Promise<boolean> {
    return namesAnyStore(await this.told());
  }

  /**
   * Runs `work` with the options of `createKeyv` for the one store of the command: the store, its keys, its scope and its foreign
   * formats. Closes the store afterwards.
   *
   * @throws CommandError `USAGE` if the command has several stores.
   */
  async withConfiguredStore(work: (store: ConfiguredStore, name: string) => Promise<void>): Promise<void> {
    const keys = await this.keys();
    const accept = (await this.told()).config?.settings.accept;
    const listed = await this.#listedBy(keys);
    const scope = await this.scope(oneStore(await this.told(), listed).name);
    const options = {
      keys,
      ...(scope === undefined ? {} : { scope }),
      ...(accept === undefined ? {} : { accept }),
    };
    await this.#withInner(listed, scope, (store, name) => work({ store, ...options }, name));
  }

  /**
   * Runs `work` with the one store of the command, and closes the store afterwards. Loads no keys, so `work` reads envelopes.
   *
   * @throws CommandError `USAGE` if the command has several stores.
   */
  async withInnerStore(work: (store: WrappableStore, name: string) => Promise<void>): Promise<void> {
    await this.#withInner([], undefined, work);
  }

  /**
   * Returns whether `--empty-store` names a store. For such a store, the command does not check for a misspelt source or
   * scope.
   */
  mayBeEmpty(name: string): boolean {
    return this.#options.emptyStore.includes(name);
  }

  /** Returns the scope of the records in a store, which a flag or the configuration sets. */
  async scope(name: string): Promise<ConfiguredStore["scope"]> {
    const told = await this.told();
    const named = namedStores(told, [name]).find((store) => store.name === name);
    return await scopeOf(told, named ?? { name });
  }

  async #withInner(
    listed: readonly string[],
    scope: ConfiguredStore["scope"],
    work: (store: WrappableStore, name: string) => Promise<void>,
  ): Promise<void> {
    const told = await this.told();
    const named = oneStore(told, listed);
    const store = await openNamed(told, named, { scope });
    try {
      await work(store, named.name);
    } finally {
      await closeStore(store);
    }
  }

  /** Returns the names of the stores that the keyring lists; an empty list if the keyring cannot be loaded. */
  async #listedBy(keys: KeyProvider): Promise<readonly string[]> {
    try {
      return (await keys.load({ signal: this.signal })).stores;
    } catch {
      // The work of the command reports why the keys cannot be loaded.
      return [];
    }
  }

  async #findTold(): Promise<Told> {
    requireText("--keys", this.#options.keys);
    requireText("--env", this.#options.env);
    requireText("--scope", this.#options.scope);
    for (const text of this.#options.store) requireText("--store", text);
    const environment = this.#options.env ?? this.env["KEYWARD_ENV"];
    const found = await findConfig(environment === undefined ? {} : { environment }).catch((error: unknown) => {
      if (error instanceof KeywardError) throw new CommandError("USAGE", error.message, { hint: error.hint });
      throw error;
    });
    if (found === undefined && this.#options.env !== undefined) {
      throw new CommandError("USAGE", "The flag --env names an environment, but there is no configuration file", {
        hint: "Run the command in a folder below keyward.config.ts, or make one with `keyward init`.",
      });
    }
    return { options: this.#options, env: this.env, config: found?.config, path: found?.path ?? "" };
  }
}

/** Refuses a flag with an empty value. An unset variable in a script must not make the command use other keys or stores. */
function requireText(flag: string, text: string | undefined): void {
  if (text === undefined || text.trim() !== "") return;
  throw new CommandError("USAGE", `The flag ${flag} is empty`, {
    hint: "If its value comes from a variable, check that the variable is set. Or omit the flag.",
  });
}
