import { Keyring, KeywardError, type OptionNames } from "@keyward/core";

/** What to do when nothing is configured at the first load. */
export interface MissingKeysOptions {
  /**
   * - `"error"` (default): `load` rejects with `PROVIDER_UNAVAILABLE`.
   * - `"generate"`: a random key that lives as long as the provider, and a warning: after a restart nothing written
   *   under it can be read.
   * - `"plaintext"`: a ring without keys, and a warning: values are written unsealed.
   *
   * It applies as long as no key was ever found. A source that vanishes later rejects with `PROVIDER_UNAVAILABLE`.
   */
  readonly whenMissing?: "error" | "generate" | "plaintext";
  /**
   * Lets `"generate"` and `"plaintext"` work where `NODE_ENV` is `production`, which refuses them otherwise. Default
   * false.
   */
  readonly dangerouslyAllowInProduction?: boolean;
  /** Receives the warnings; default `process.emitWarning`. */
  readonly warn?: (message: string, code: KeysWarningCode) => void;
}

/** The names of these options, for those that add their own. */
export const missingKeysOptionNames: OptionNames<MissingKeysOptions> = {
  whenMissing: true,
  dangerouslyAllowInProduction: true,
  warn: true,
};

const modes: readonly unknown[] = ["error", "generate", "plaintext"];

/** The code of a warning: a random key is in use, or none at all. */
export type KeysWarningCode = "KEYWARD_KEY_GENERATED" | "KEYWARD_PLAINTEXT";

/** What a provider hands out while its source has never held anything. */
export class MissingKeys {
  readonly #options: MissingKeysOptions;
  #everFound = false;
  #standIn: Keyring | undefined;

  /** @throws KeywardError `VALUE_INVALID` for a `whenMissing` that is none. */
  constructor(options: MissingKeysOptions) {
    const { whenMissing = "error" } = options;
    if (!modes.includes(whenMissing)) {
      throw new KeywardError("VALUE_INVALID", "whenMissing is none of those that there are", {
        hint: 'It is "error", "generate" or "plaintext"; "error" where it is left out.',
      });
    }
    this.#options = options;
  }

  /** To be called when the source holds something, valid or not: from then on nothing stands in for it. */
  found(): void {
    this.#everFound = true;
    this.#standIn = undefined;
  }

  /**
   * The ring in place of the missing one.
   *
   * @param missing What was looked for and not found.
   * @throws KeywardError `PROVIDER_UNAVAILABLE`.
   */
  standIn(missing: string, hint: string, production: boolean): Keyring {
    if (this.#everFound) {
      throw new KeywardError("PROVIDER_UNAVAILABLE", `${missing}, though something was there before`, {
        hint: "Restore it: a process that had a key goes on with that key, or with none.",
      });
    }
    this.#standIn ??= this.#make(missing, hint, production);
    return this.#standIn;
  }

  #make(missing: string, hint: string, production: boolean): Keyring {
    const { whenMissing = "error", dangerouslyAllowInProduction = false, warn = emitWarning } = this.#options;
    if (whenMissing === "error") throw new KeywardError("PROVIDER_UNAVAILABLE", missing, { hint });
    if (production && !dangerouslyAllowInProduction) {
      const refused = `${missing}, and whenMissing: "${whenMissing}" is refused where NODE_ENV is production`;
      throw new KeywardError("PROVIDER_UNAVAILABLE", refused, { hint });
    }
    switch (whenMissing) {
      case "generate":
        warn(
          `${missing}: a random key is used, and data will be unreadable after a restart. ${hint}`,
          "KEYWARD_KEY_GENERATED",
        );
        return Keyring.generate();
      case "plaintext":
        warn(`${missing}: values are written unsealed, in plaintext. ${hint}`, "KEYWARD_PLAINTEXT");
        return Keyring.dangerouslyPlaintext();
    }
  }
}

/** Whether one of these environments is that of a production process. */
export function isProduction(...environments: readonly Readonly<Record<string, string | undefined>>[]): boolean {
  return environments.some((environment) => environment["NODE_ENV"] === "production");
}

function emitWarning(message: string, code: KeysWarningCode): void {
  process.emitWarning(message, { type: "KeywardWarning", code });
}
