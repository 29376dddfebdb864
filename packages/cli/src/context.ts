import type { KeyProvider } from "@keyward/core";
import { Output, type Streams } from "./output.ts";
import { type OpenStores, openKeys, openStores, type SourceOptions } from "./settings.ts";

/** The options that every command has. */
export interface CommonOptions extends SourceOptions {
  readonly json: boolean;
  readonly quiet: boolean;
}

/** What `main` gets from the process. */
export interface Surroundings extends Streams {
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted when the operator stops the command. */
  readonly signal: AbortSignal;
}

/** Makes the context of a command when the command runs. */
export type OpenContext = () => Promise<Context>;

/** What a command works with: its output, its keys and its stores. */
export class Context {
  readonly output: Output;
  readonly signal: AbortSignal;
  readonly #options: CommonOptions;
  readonly #env: Surroundings["env"];

  constructor(options: CommonOptions, surroundings: Surroundings) {
    this.output = new Output(surroundings, options);
    this.signal = surroundings.signal;
    this.#options = options;
    this.#env = surroundings.env;
  }

  /** Returns the key provider of the command. */
  async keys(): Promise<KeyProvider> {
    return await openKeys(this.#options, this.#env);
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
    const opened = await openStores(this.#options, { keys, listed, env: this.#env, failed });
    try {
      await work(keys, opened.stores, listed);
    } finally {
      await opened.close();
    }
  }
}
