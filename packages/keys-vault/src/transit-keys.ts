import {
  type KeyringLocation,
  type KeyringWrapper,
  KeywardError,
  type OptionNames,
  requireOptions,
  type WrappedKeys,
  type WrappedKeysOptions,
  wrappedKeys,
} from "@keyward/core";
import {
  connectionOptionNames,
  type Purpose,
  VaultConnection,
  type VaultConnectionOptions,
} from "./retrying-vault-connection.ts";
import { fieldOf, VaultFailure } from "./vault-client.ts";
import { encodePath } from "./vault-path.ts";

/** Options of {@link transitKeys}. */
export interface TransitKeysOptions extends VaultConnectionOptions, WrappedKeysOptions {
  /** Name of the key in the Transit engine that wraps (encrypts) the keyring. The key must exist. */
  readonly key: string;
  /** Path at which the Transit engine is mounted. Default: `transit`. */
  readonly mount?: string;
  /**
   * Location where the wrapped (encrypted) keyring is stored: `storeLocation(store)` or `fileLocation(path)` of
   * `@keyward/core`.
   */
  readonly place: KeyringLocation;
  /**
   * Context for a Transit key with key derivation (`derived=true`). Required for such a key, and not allowed for a
   * Transit key without key derivation.
   */
  readonly derivedContext?: string;
}

const optionNames: OptionNames<TransitKeysOptions> = {
  ...connectionOptionNames,
  key: true,
  mount: true,
  place: true,
  derivedContext: true,
  name: true,
  minGeneration: true,
};

/**
 * Returns a key provider for a keyring that is wrapped (encrypted) by a key of the Transit engine of Vault or OpenBao.
 * The wrapping key never leaves Vault. Vault is called when a keyring is saved, and when a keyring that has changed is
 * loaded, but never when a record is encrypted or decrypted.
 *
 * @example
 * import { createKeyv, storeLocation } from "@keyward/core";
 * import { transitKeys } from "@keyward/keys-vault";
 * import { MemoryStore } from "@keyward/store-memory";
 *
 * const store = new MemoryStore();
 * const address = "https://vault.example.com:8200";
 * const keys = transitKeys({ address, key: "app", place: storeLocation(store) });
 * const sessions = createKeyv({ store, keys, namespace: "sessions" });
 *
 * @throws KeywardError `VALUE_INVALID` for an invalid address, path or key name, for an unknown option, and for an
 * option out of range.
 */
export function transitKeys(options: TransitKeysOptions): WrappedKeys {
  const { place, name, minGeneration } = requireOptions("transitKeys", options, optionNames);
  const connection = new VaultConnection(options);
  return wrappedKeys(new TransitWrapper(connection, options), place, {
    ...connection.freshness,
    ...(name === undefined ? {} : { name }),
    ...(minGeneration === undefined ? {} : { minGeneration }),
  });
}

class TransitWrapper implements KeyringWrapper {
  readonly #connection: VaultConnection;
  readonly #mount: string;
  readonly #key: string;
  readonly #context: { readonly context?: string };
  readonly #name: string;

  constructor(connection: VaultConnection, options: TransitKeysOptions) {
    const { key, mount = "transit", derivedContext } = options;
    this.#connection = connection;
    this.#mount = encodePath(mount, "mount");
    this.#key = encodePath(key, "key");
    this.#context = derivedContext === undefined ? {} : { context: Buffer.from(derivedContext).toString("base64") };
    this.#name = `The key ${JSON.stringify(key)} in ${JSON.stringify(mount)}`;
  }

  async wrap(document: Uint8Array, { signal }: { readonly signal: AbortSignal | undefined }): Promise<string> {
    const bytes = Buffer.from(document.buffer, document.byteOffset, document.byteLength);
    return requireWrapped(await this.#ask("encrypt", { plaintext: bytes.toString("base64") }, "ciphertext", signal));
  }

  async unwrap(wrapped: string, { signal }: { readonly signal: AbortSignal | undefined }): Promise<Uint8Array> {
    const plaintext = await this.#ask("decrypt", { ciphertext: requireWrapped(wrapped) }, "plaintext", signal);
    // Buffer.from would decode the keyring into the memory pool that small Buffers share.
    const document = Buffer.alloc(Buffer.byteLength(plaintext, "base64"));
    return document.subarray(0, document.write(plaintext, "base64"));
  }

  async rewrap(wrapped: string, { signal }: { readonly signal: AbortSignal | undefined }): Promise<string> {
    const next = requireWrapped(
      await this.#ask("rewrap", { ciphertext: requireWrapped(wrapped) }, "ciphertext", signal),
    );
    return versionOf(next) === versionOf(wrapped) ? wrapped : next;
  }

  async #ask(
    operation: "encrypt" | "decrypt" | "rewrap",
    body: Readonly<Record<string, string>>,
    field: string,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const path = `${this.#mount}/${operation}/${this.#key}`;
    const purpose: Purpose = {
      resource: this.#name,
      policy: `path "${path}" { capabilities = ["update"] }`,
    };
    const request = { method: "POST", path, body: { ...body, ...this.#context } } as const;
    const answer = await this.#connection
      .request(request, purpose, this.#connection.inTime(signal))
      .catch((error: unknown) => {
        throw error instanceof VaultFailure ? this.#refused(error, operation) : error;
      });
    const text = fieldOf(fieldOf(answer, "data"), field);
    if (typeof text === "string") return text;
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${this.#name}: the answer of Vault has no field "${field}"`, {
      hint: "Check that `mount` is the path of a Transit engine, because another engine may have answered.",
    });
  }

  #refused(failure: VaultFailure, operation: string): KeywardError {
    const { status, reasons, message } = failure;
    const hasReason = (words: RegExp) => reasons.some((reason) => words.test(reason));
    if (status === 404 || hasReason(/key not found|no handler/)) {
      const check = "Check `key`, `mount` and the namespace.";
      return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#name} does not exist`, {
        hint:
          operation === "encrypt"
            ? `${check} If no keyring was ever wrapped by this key, create the key with \`bao write -f transit/keys/…\`.`
            : `${check} If the key was deleted, restore it with \`bao write transit/restore/…\` or from a snapshot of Vault, because a new key with this name cannot unwrap the keyring. Until then, do not stop processes that have loaded the keyring.`,
      });
    }
    if (hasReason(/too old/)) {
      return new KeywardError(
        "KEYRING_INVALID",
        `${this.#name} no longer accepts the key version that this keyring was wrapped with`,
        {
          hint: "Lower `min_decryption_version` of the key, so that Vault can unwrap the keyring again. Call `rewrap()`, which wraps the keyring with the newest key version. Then raise `min_decryption_version` again.",
        },
      );
    }
    if (hasReason(/context/)) {
      return new KeywardError(
        "PROVIDER_UNAVAILABLE",
        `${this.#name}: either the context for key derivation is missing, or this key does not accept a context`,
        {
          hint: "If the key has key derivation (`derived=true`), set `derivedContext`. Otherwise omit `derivedContext`.",
        },
      );
    }
    if (status === 400 && operation !== "encrypt") {
      return new KeywardError(
        "KEYRING_INVALID",
        `${this.#name} cannot unwrap the keyring, which was wrapped by another key or was altered`,
        {
          hint: "Check the options `key`, `mount` and `place`. If these options are correct, restore the wrapped keyring from a backup.",
        },
      );
    }
    return new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `${this.#name}: Vault refused to ${operation} the keyring (${message})`,
      {
        hint: "Check that the type of the key supports encryption. If the type is correct, look for the reason in the log and the audit log of Vault.",
      },
    );
  }
}

const wrappedPattern = /^vault:v(\d+):/;

function versionOf(wrapped: string): string | undefined {
  return wrappedPattern.exec(wrapped)?.[1];
}

function requireWrapped(text: string): string {
  if (wrappedPattern.test(text)) return text;
  // The message does not repeat the text, which may be an unwrapped keyring.
  throw new KeywardError(
    "KEYRING_INVALID",
    "The text at the location of the wrapped keyring was not wrapped by Transit",
    {
      hint: 'Check that `place` is the location of the wrapped keyring. A wrapped keyring begins with "vault:v" and the version of the Transit key. If `place` is correct, restore the wrapped keyring from a backup.',
    },
  );
}
