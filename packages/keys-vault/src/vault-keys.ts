import {
  exportKeyring,
  type KeyProvider,
  Keyring,
  KeywardError,
  type OptionNames,
  requireOptions,
  requireSavable,
  sameKeyring,
  singleFlight,
} from "@keyward/core";
import {
  connectionOptionNames,
  type Purpose,
  unavailable,
  VaultConnection,
  type VaultConnectionOptions,
} from "./retrying-vault-connection.ts";
import { fieldOf, VaultFailure } from "./vault-client.ts";
import { encodePath } from "./vault-path.ts";

/** Options of {@link vaultKeys}. */
export interface VaultKeysOptions extends VaultConnectionOptions {
  /** Path of the secret in the KV engine, such as `app/keyring`, without the mount. */
  readonly path: string;
  /** Path at which the KV engine is mounted. The engine must have version 2. Default: `secret`. */
  readonly mount?: string;
  /** Field of the secret that holds the keyring document. Other fields are not changed. Default: `keyring`. */
  readonly field?: string;
}

/** A key provider that reads a keyring from a secret in Vault, made by {@link vaultKeys}. */
export interface VaultKeys extends KeyProvider {
  /**
   * Replaces the keyring in the secret by `next`, if the secret still holds `previous`. Writes with check-and-set.
   * Implements {@link KeyProvider.save}.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the secret holds another keyring than `previous`.
   * @throws KeywardError `KEYRING_INVALID` if the keyring `next` cannot be saved, or if the KV engine has version 1.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if Vault does not answer, is sealed or denies access.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Writes the first keyring into a new secret.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the secret exists, even if its current version was deleted.
   * @throws KeywardError `KEYRING_INVALID` if the keyring cannot be saved, or if the KV engine has version 1.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if Vault does not answer, is sealed or denies access.
   */
  create(ring: Keyring): Promise<void>;
}

const optionNames: OptionNames<VaultKeysOptions> = { ...connectionOptionNames, path: true, mount: true, field: true };

/**
 * Returns a key provider that reads a keyring from HashiCorp Vault or OpenBao. The keyring document is stored in one field
 * of a secret in a KV engine of version 2.
 *
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { vaultKeys } from "@keyward/keys-vault";
 *
 * // The token is read from VAULT_TOKEN.
 * const keys = vaultKeys({ address: "https://vault.example.com:8200", path: "app/keyring" });
 * const sessions = createKeyv({ store: new Map(), keys, namespace: "sessions" });
 *
 * @throws KeywardError `VALUE_INVALID` for an invalid address or path, for an unknown option, and for an option out of
 * range.
 */
export function vaultKeys(options: VaultKeysOptions): VaultKeys {
  const keyring = new SecretKeyring(requireOptions("vaultKeys", options, optionNames));
  // An object literal, so that a copy made with `{ ...keys }` has the methods too.
  return {
    freshness: keyring.freshness,
    load: keyring.load,
    save: (next, previous) => keyring.save(next, previous),
    create: (ring) => keyring.create(ring),
  };
}

interface Found {
  readonly ring: Keyring;
  readonly version: number;
  readonly fields: Readonly<Record<string, unknown>>;
}

const noEngineHint =
  "Check `mount` and the namespace. If no keyring has existed yet, enable an engine with `bao secrets enable -version=2 -path=… kv`.";
const notThereHint =
  "Check `path`, `mount` and the namespace, and that the KV engine is of version 2. If the secret held a keyring before, restore this keyring, because a new keyring cannot decrypt existing records. If no keyring has existed yet, run `vaultKeys(…).create(Keyring.generate())`.";

class SecretKeyring {
  readonly freshness;
  readonly load = singleFlight(async ({ signal }) => (await this.#read(this.#connection.inTime(signal))).ring);
  readonly #connection: VaultConnection;
  readonly #mount: string;
  readonly #secret: string;
  readonly #path: string;
  readonly #field: string;
  readonly #name: string;

  constructor(options: VaultKeysOptions) {
    const { mount = "secret", path, field = "keyring" } = options;
    this.#mount = encodePath(mount, "mount");
    this.#secret = encodePath(path, "path");
    this.#path = `${this.#mount}/data/${this.#secret}`;
    this.#field = field;
    this.#name = `The secret ${JSON.stringify(path)} in ${JSON.stringify(mount)}`;
    this.#connection = new VaultConnection(options);
    this.freshness = this.#connection.freshness;
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    requireSavable(next);
    const signal = this.#connection.inTime(undefined);
    const { ring, version, fields } = await this.#read(signal);
    if (!sameKeyring(ring, previous)) throw this.#conflict();
    await this.#write(next, version, fields, signal);
  }

  async create(ring: Keyring): Promise<void> {
    requireSavable(ring);
    const signal = this.#connection.inTime(undefined);
    // An engine of version 1 would execute the write and overwrite an existing secret.
    if ((await this.#engineVersion(signal)) === 1) throw this.#isVersion1();
    await this.#write(ring, 0, {}, signal);
  }

  #purpose(...capabilities: readonly string[]): Purpose {
    const listed = capabilities.map((capability) => JSON.stringify(capability)).join(", ");
    return { resource: this.#name, policy: `path "${this.#path}" { capabilities = [${listed}] }` };
  }

  /** Returns the version of the KV engine; `undefined` if the token may not read it, or the engine is not a KV engine. */
  async #engineVersion(signal: AbortSignal): Promise<number | undefined> {
    const mounted = fieldOf(await this.#connection.ask(`sys/internal/ui/mounts/${this.#mount}`, signal), "data");
    if (fieldOf(mounted, "type") !== "kv") return undefined;
    // An engine that was mounted without a version has version 1.
    return fieldOf(fieldOf(mounted, "options"), "version") === "2" ? 2 : 1;
  }

  async #read(signal: AbortSignal): Promise<Found> {
    const answer = await this.#connection
      .request({ method: "GET", path: this.#path }, this.#purpose("read"), signal)
      .catch(async (error: unknown) => {
        throw error instanceof VaultFailure ? await this.#readFailure(error, signal) : error;
      });
    const data = fieldOf(answer, "data");
    const fields = fieldOf(data, "data");
    const version = fieldOf(fieldOf(data, "metadata"), "version");
    if (typeof fields !== "object" || fields === null || typeof version !== "number") throw this.#isVersion1();
    const document = fieldOf(fields, this.#field);
    if (typeof document !== "string") throw this.#withoutText(fields, document);
    return { ring: this.#parse(document), version, fields: { ...fields } };
  }

  async #write(
    ring: Keyring,
    version: number,
    fields: Readonly<Record<string, unknown>>,
    signal: AbortSignal,
  ): Promise<void> {
    const body = { options: { cas: version }, data: { ...fields, [this.#field]: exportKeyring(ring) } };
    const request = { method: "POST", path: this.#path, body } as const;
    try {
      // The write is not retried. If its answer is lost, the secret is read to find out whether it was written.
      const purpose = this.#purpose("read", "create", "update");
      const answer = await this.#connection.request({ ...request, repeatable: false }, purpose, signal);
      if (typeof fieldOf(fieldOf(answer, "data"), "version") !== "number") throw this.#isVersion1();
    } catch (error) {
      if (!(error instanceof VaultFailure)) throw error;
      if (!error.isPassing) throw this.#writeFailure(error, version === 0);
      if (!(await this.#holds(ring, signal))) throw unavailable(error);
    }
  }

  async #holds(ring: Keyring, signal: AbortSignal): Promise<boolean> {
    return await this.#read(signal).then(
      (found) => sameKeyring(found.ring, ring),
      () => false,
    );
  }

  #parse(document: string): Keyring {
    try {
      return Keyring.parse(document);
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      const { code, message, hint, keyId } = error;
      throw new KeywardError(code, `${this.#name}: ${message}`, { hint, keyId });
    }
  }

  async #readFailure(failure: VaultFailure, signal: AbortSignal): Promise<KeywardError> {
    if (failure.status !== 404) return this.#refused(failure);
    const metadata = fieldOf(failure.data, "metadata");
    if (metadata === undefined) {
      if ((await this.#engineVersion(signal)) === 1) return this.#isVersion1();
      const noEngine = failure.reasons.some((reason) => reason.includes("no handler for route"));
      return new KeywardError(
        "PROVIDER_UNAVAILABLE",
        noEngine ? `${this.#name}: no engine is mounted at the path in \`mount\`` : `${this.#name} does not exist`,
        { hint: `${this.#redundantParts()}${noEngine ? noEngineHint : notThereHint}` },
      );
    }
    const version = Number(fieldOf(metadata, "version"));
    const gone = fieldOf(metadata, "destroyed") === true ? "destroyed" : "deleted";
    return new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `${this.#name} cannot be read: its version ${version} was ${gone}`,
      {
        hint:
          gone === "deleted"
            ? `Restore the version with \`bao kv undelete -versions=${version} …\`.`
            : "A destroyed version cannot be restored. Make an older version current with `bao kv rollback`, or write a backup of the keyring into the secret.",
      },
    );
  }

  /** Returns advice if `path` or `mount` contain a part that Keyward adds to them; "" otherwise. */
  #redundantParts(): string {
    const repeated = ["data/", `${this.#mount}/data/`, `${this.#mount}/`].filter((part) =>
      this.#secret.startsWith(part),
    );
    const parts = [
      ...repeated.slice(0, 1).map((part) => `Remove "${part}" from \`path\`: Keyward adds this part.`),
      ...(this.#mount.endsWith("/data") ? ['Remove "/data" from `mount`: Keyward adds this part.'] : []),
    ];
    return parts.map((part) => `${part} `).join("");
  }

  #withoutText(fields: object, found: unknown): KeywardError {
    const name = JSON.stringify(this.#field);
    const hint =
      fieldOf(fields, "keyward") !== undefined
        ? `The keyring document was written as several fields of the secret. Write the whole document into one field with \`bao kv put … ${this.#field}=@ring.json\`.`
        : typeof found === "object" && found !== null
          ? "The field holds a JSON object. Write the keyring document as text."
          : "If another field holds the keyring, set `field` to the name of that field. Otherwise restore an earlier version of the secret with `bao kv rollback`.";
    return this.#invalid(`has no text in the field ${name}`, hint);
  }

  #isVersion1(): KeywardError {
    return this.#invalid(
      "is in a KV engine of version 1, where a writer could overwrite the keyring of another writer",
      "Set `mount` to an engine of version 2, or mount a new engine with `bao secrets enable -version=2 -path=… kv`. Do not upgrade an engine that other applications use.",
    );
  }

  #writeFailure(failure: VaultFailure, isFirst: boolean): KeywardError {
    if (!failure.reasons.some((reason) => reason.includes("check-and-set"))) return this.#refused(failure);
    return isFirst ? this.#alreadyExists() : this.#conflict();
  }

  #refused(failure: VaultFailure): KeywardError {
    return new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `${this.#name} cannot be accessed: Vault refused the request (${failure.message})`,
      {
        hint: "Check `mount` and `path`. If they are correct, look for the reason in the log and the audit log of Vault.",
      },
    );
  }

  #invalid(problem: string, hint: string): KeywardError {
    return new KeywardError("KEYRING_INVALID", `${this.#name} ${problem}`, { hint });
  }

  #alreadyExists(): KeywardError {
    return new KeywardError(
      "KEYRING_CONFLICT",
      `${this.#name} already has a version, so no first keyring was written`,
      {
        hint: "If the latest version of the secret was deleted, restore this version with `bao kv undelete …`. Use the existing keyring with `load()`, and change the keyring with `save()`.",
      },
    );
  }

  #conflict(): KeywardError {
    return new KeywardError(
      "KEYRING_CONFLICT",
      `${this.#name} does not hold the keyring that this change is based on, because another writer has changed the keyring`,
      {
        hint: "Load the keyring again, repeat your change in the loaded keyring, and save the result.",
      },
    );
  }
}
