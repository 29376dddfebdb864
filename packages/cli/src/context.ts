import { type EncryptedStore, type KeyProvider, KeywardError } from "@keyward/core";
import { findConfig } from "./configuration/config-file.ts";
import type { RotationSettings } from "./configuration/config-options.ts";
import {
  namesAnyStore,
  type OpenStores,
  openKeys,
  openStores,
  type SourceOptions,
  type Told,
} from "./configuration/sources.ts";
import { CommandError } from "./exit-codes.ts";
import { Operator, type OperatorStreams } from "./terminal/operator.ts";
import { Output, type OutputOptions, type Streams } from "./terminal/output.ts";

/** The options that every command has. */
export interface CommonOptions extends SourceOptions, OutputOptions {
  /** The name of the environment in the configuration. */
  readonly env?: string;
  /** True if every question is answered with yes. */
  readonly yes: boolean;
}

/** What `main` gets from the process. */
export interface Surroundings extends Streams, OperatorStreams {
  readonly stderr: Streams["stderr"] & OperatorStreams["stderr"];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted when the operator stops the command. */
  readonly signal: AbortSignal;
}

/** Makes the context of a command when the command runs. */
export type OpenContext = () => Promise<Context>;

/** What a command works with: its output, the operator, its keys and its stores. */
export class Context {
  readonly output: Output;
  readonly operator: Operator;
  readonly signal: AbortSignal;
  readonly env: Surroundings["env"];
  readonly #options: CommonOptions;
  #told: Promise<Told> | undefined;

  constructor(options: CommonOptions, surroundings: Surroundings) {
    const { signal } = surroundings;
    this.output = new Output(surroundings, options);
    this.operator = new Operator(surroundings, { yes: options.yes, signal });
    this.signal = signal;
    this.env = surroundings.env;
    this.#options = options;
  }

  /** Returns what flags, environment variables and the configuration file say. */
  told(): Promise<Told> {
    this.#told ??= this.#findTold();
    return this.#told;
  }

  /** Returns the settings of rotations in the configuration. */
  async rotationSettings(): Promise<RotationSettings> {
    return (await this.told()).config?.settings.rotation ?? {};
  }

  /** Returns the key provider of the command. */
  async keys(): Promise<KeyProvider> {
    return await openKeys(await this.told());
  }

  /**
   * Runs `work` with the keys and the stores of the command, and closes the stores afterwards. `listed` has the names of
   * the stores that the keyring lists; none if the keyring cannot be loaded.
   *
   * @param failed called with each store that cannot be opened, and its error. Default: rejects with the error.
   */
  async withStores(
    work: (keys: KeyProvider, stores: OpenStores["stores"], listed: readonly string[]) => Promise<void>,
    failed: (name: string, error: unknown) => void = (_, error) => {
      throw error;
    },
  ): Promise<void> {
    const keys = await this.keys();
    const listed = await keys.load({ signal: this.signal }).then(
      ({ stores }) => stores,
      // The work of the command reports why the keys cannot be loaded.
      () => [],
    );
    await this.withStoresUnder(keys, listed, async (stores) => await work(keys, stores, listed), { failed });
  }

  /**
   * Runs `work` with the stores of the command under other keys than those of the command, and closes the stores afterwards.
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

  /** Returns whether flags, environment variables or the configuration name a store. */
  async namesStores(): Promise<boolean> {
    return namesAnyStore(await this.told());
  }

  /**
   * Runs `work` with the one store of the command, and closes it afterwards.
   *
   * @throws CommandError `USAGE` if the command has several stores.
   */
  async withStore(work: (store: EncryptedStore, name: string) => Promise<void>): Promise<void> {
    await this.withStores(async (_, stores) => {
      const [first, ...others] = Object.entries(stores);
      if (first === undefined || others.length > 0) {
        throw new CommandError("USAGE", "This command works with one store", {
          hint: `Choose one: ${Object.keys(stores)
            .map((name) => `\`--store ${name}\``)
            .join(" or ")}.`,
        });
      }
      await work(first[1], first[0]);
    });
  }

  async #findTold(): Promise<Told> {
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
    return { options: this.#options, env: this.env, config: found?.config };
  }
}
