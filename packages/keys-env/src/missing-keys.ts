import { Keyring, KeywardError, type OptionNames } from "@keyward/core";

/** Options that decide what a key provider does if no key has ever been set, for example in development. */
export interface MissingKeysOptions {
  /**
   * Behavior of `load` if no key is set. Default: `"error"`.
   *
   * - `"error"`: `load` rejects with `PROVIDER_UNAVAILABLE`.
   * - `"generate"`: `load` returns a keyring with a random key, and warns. The random key exists only in memory, so
   *   records that were encrypted with this key cannot be read after a restart.
   * - `"plaintext"`: `load` returns a keyring without keys, and warns. Values are written unencrypted.
   *
   * The option applies only until the provider finds a key for the first time. If the key disappears later, `load`
   * rejects with `PROVIDER_UNAVAILABLE`, whatever value the option has.
   */
  readonly whenMissing?: "error" | "generate" | "plaintext";
  /**
   * Whether the values `"generate"` and `"plaintext"` of `whenMissing` are allowed if `NODE_ENV` is `production`. If
   * false, and no key is set in production, `load` rejects with `PROVIDER_UNAVAILABLE`. Default: false.
   */
  readonly dangerouslyAllowInProduction?: boolean;
  /** Function that receives the text and the code of each warning. Default: `process.emitWarning`. */
  readonly warn?: (message: string, code: KeysWarningCode) => void;
}

/**
 * Names of all options in {@link MissingKeysOptions}. A provider adds its own option names, and refuses options with
 * any other name.
 */
export const missingKeysOptionNames: OptionNames<MissingKeysOptions> = {
  whenMissing: true,
  dangerouslyAllowInProduction: true,
  warn: true,
};

const modes: readonly unknown[] = ["error", "generate", "plaintext"];

/**
 * Code of a warning: `KEYWARD_KEY_GENERATED` if a random key is in use, `KEYWARD_PLAINTEXT` if values are written
 * unencrypted.
 */
export type KeysWarningCode = "KEYWARD_KEY_GENERATED" | "KEYWARD_PLAINTEXT";

/**
 * Implements the option `whenMissing`. Makes the keyring that a key provider returns until it finds a key for the first
 * time.
 */
export class MissingKeys {
  readonly #options: MissingKeysOptions;
  #everFound = false;
  #fallback: Keyring | undefined;

  /**
   * Checks the option `whenMissing`.
   *
   * @throws KeywardError `VALUE_INVALID` if the option has an unknown value.
   */
  constructor(options: MissingKeysOptions) {
    const { whenMissing = "error" } = options;
    if (!modes.includes(whenMissing)) {
      throw new KeywardError("VALUE_INVALID", 'The option "whenMissing" has an unknown value', {
        hint: 'Set `whenMissing` to "error" (the default), "generate" or "plaintext".',
      });
    }
    this.#options = options;
  }

  /**
   * Remembers that the provider found a value, even if the value is not a valid key. From then on, {@link fallback}
   * throws.
   */
  found(): void {
    this.#everFound = true;
    this.#fallback = undefined;
  }

  /**
   * Returns the keyring that the provider uses while no key is set. The keyring has a random key if `whenMissing` is
   * `"generate"`, and no keys if `whenMissing` is `"plaintext"`.
   *
   * @param missing Text that names the environment variable or path without a key. The message of the error or warning
   * begins with this text.
   * @param hint Hint of the error or warning, which describes how to set a key.
   * @param production Whether `NODE_ENV` is `production`.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if `whenMissing` is `"error"` or is not allowed in production, or if
   * {@link found} was called before.
   */
  fallback(missing: string, hint: string, production: boolean): Keyring {
    if (this.#everFound) {
      throw new KeywardError("PROVIDER_UNAVAILABLE", `${missing}, although this process has found a key there before`, {
        hint: "Restore the earlier key. Until then, processes that have loaded a keyring keep using that keyring.",
      });
    }
    this.#fallback ??= this.#make(missing, hint, production);
    return this.#fallback;
  }

  #make(missing: string, hint: string, production: boolean): Keyring {
    const { whenMissing = "error", dangerouslyAllowInProduction = false, warn = emitWarning } = this.#options;
    if (whenMissing === "error") throw new KeywardError("PROVIDER_UNAVAILABLE", missing, { hint });
    if (production && !dangerouslyAllowInProduction) {
      const refused = `${missing}, and whenMissing: "${whenMissing}" is not allowed if NODE_ENV is production`;
      throw new KeywardError("PROVIDER_UNAVAILABLE", refused, { hint });
    }
    switch (whenMissing) {
      case "generate":
        warn(
          `${missing}: a random key is in use, and records will be unreadable after a restart. ${hint}`,
          "KEYWARD_KEY_GENERATED",
        );
        return Keyring.generate();
      case "plaintext":
        warn(`${missing}: values are written unencrypted. ${hint}`, "KEYWARD_PLAINTEXT");
        return Keyring.dangerouslyPlaintext();
    }
  }
}

/** Returns true if `NODE_ENV` is `production` in at least one of `environments`. */
export function isProduction(...environments: readonly Readonly<Record<string, string | undefined>>[]): boolean {
  return environments.some((environment) => environment["NODE_ENV"] === "production");
}

function emitWarning(message: string, code: KeysWarningCode): void {
  process.emitWarning(message, { type: "KeywardWarning", code });
}
