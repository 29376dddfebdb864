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
import { fieldOf, VaultFailure } from "./vault-client.ts";
import {
  connectionOptionNames,
  type Purpose,
  VaultConnection,
  type VaultConnectionOptions,
} from "./vault-connection.ts";
import { encodePath } from "./vault-path.ts";

/** Options of {@link transitKeys}. */
export interface TransitKeysOptions extends VaultConnectionOptions, WrappedKeysOptions {
  /** The name of the key in the Transit engine. It must exist. */
  readonly key: string;
  /** Where the engine is mounted; default "transit". */
  readonly mount?: string;
  /** Where the wrapped keyring lies: `storeLocation(store)` or `fileLocation(path)`. */
  readonly place: KeyringLocation;
  /** The context of a key that is derived; must be given for such a key, and for no other. */
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
 * Keys from a keyring that a key of Vault's Transit engine wraps as a whole, which never leaves Vault. Vault is asked to
 * unwrap the ring when it is loaded and has changed, and for nothing when records are sealed or opened.
 *
 * @throws KeywardError `VALUE_INVALID` for an address, a name or a setting that cannot be, and for an unknown option.
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
  readonly #what: string;

  constructor(connection: VaultConnection, options: TransitKeysOptions) {
    const { key, mount = "transit", derivedContext } = options;
    this.#connection = connection;
    this.#mount = encodePath(mount, "mount");
    this.#key = encodePath(key, "key");
    this.#context = derivedContext === undefined ? {} : { context: Buffer.from(derivedContext).toString("base64") };
    this.#what = `The key ${JSON.stringify(key)} in ${JSON.stringify(mount)}`;
  }

  async wrap(document: Uint8Array, { signal }: { readonly signal: AbortSignal | undefined }): Promise<string> {
    const bytes = Buffer.from(document.buffer, document.byteOffset, document.byteLength);
    return requireWrapped(await this.#ask("encrypt", { plaintext: bytes.toString("base64") }, "ciphertext", signal));
  }

  async unwrap(wrapped: string, { signal }: { readonly signal: AbortSignal | undefined }): Promise<Uint8Array> {
    const plaintext = await this.#ask("decrypt", { ciphertext: requireWrapped(wrapped) }, "plaintext", signal);
    // Buffer.from would decode into memory that is shared with other Buffers.
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
      what: this.#what,
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
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${this.#what}: Vault answers without a ${field}`, {
      hint: "Check `mount`: the engine there may not be Transit.",
    });
  }

  #refused(failure: VaultFailure, operation: string): KeywardError {
    const { status, reasons, message } = failure;
    const says = (words: RegExp) => reasons.some((reason) => words.test(reason));
    if (status === 404 || says(/key not found|no handler/)) {
      const check = "Check `key`, `mount` and the namespace.";
      return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#what} is not there`, {
        hint:
          operation === "encrypt"
            ? `${check} Only for a keyring that is new, make the key: \`bao write -f transit/keys/…\`.`
            : `${check} If the key was deleted, restore it (\`bao write transit/restore/…\`, or a snapshot of Vault): a new key of this name does not unwrap the keyring. Keep processes running that have loaded it.`,
      });
    }
    if (says(/too old/)) {
      return new KeywardError(
        "KEYRING_INVALID",
        `${this.#what} does not unwrap versions as old as that of this keyring`,
        {
          hint: "Lower min_decryption_version of the key, call rewrap() on the keyring, and raise it again.",
        },
      );
    }
    if (says(/context/)) {
      return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#what} was given no context, or one it does not take`, {
        hint: "A key that is derived needs `derivedContext`; any other takes none.",
      });
    }
    if (status === 400 && operation !== "encrypt") {
      return new KeywardError("KEYRING_INVALID", `What lies there was not wrapped by this key, or was altered`, {
        hint: "Check the key and the place; restore the wrapped keyring from a backup.",
      });
    }
    return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#what}: Vault refuses (${message})`, {
      hint: "Check that the key supports encryption; see Vault's log and audit log.",
    });
  }
}

const wrappedPattern = /^vault:v(\d+):/;

function versionOf(wrapped: string): string | undefined {
  return wrappedPattern.exec(wrapped)?.[1];
}

function requireWrapped(text: string): string {
  if (wrappedPattern.test(text)) return text;
  // It may be a keyring in the clear, and is not repeated.
  throw new KeywardError("KEYRING_INVALID", "What lies there is no text that Transit wrapped", {
    hint: "Check the place. It begins with vault:v and the version of the key.",
  });
}
