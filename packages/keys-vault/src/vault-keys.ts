import { exportKeyring, type KeyProvider, Keyring, KeywardError, requireSavable, singleFlight } from "@keyward/core";
import { fieldOf, VaultFailure } from "./vault-client.ts";
import { type Purpose, unavailable, VaultConnection, type VaultConnectionOptions } from "./vault-connection.ts";
import { encodePath } from "./vault-path.ts";

/** Options of {@link vaultKeys}. */
export interface VaultKeysOptions extends VaultConnectionOptions {
  /** Where the secret lies in its engine, such as `app/keyring`. */
  readonly path: string;
  /** Where the engine, KV version 2, is mounted; default "secret". */
  readonly mount?: string;
  /** The field of the secret that holds the keyring document; default "keyring". Its other fields stay as they are. */
  readonly field?: string;
}

/** Keys from a secret in Vault. */
export interface VaultKeys extends KeyProvider {
  /** As {@link KeyProvider.save}, by Vault's check-and-set. */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Writes the first ring.
   *
   * @throws KeywardError `KEYRING_CONFLICT` where a secret lies already.
   */
  create(ring: Keyring): Promise<void>;
}

/**
 * Keys from HashiCorp Vault or OpenBao: the keyring document lies in one field of one secret of a KV engine, version 2.
 *
 * @throws KeywardError `VALUE_INVALID` for an address, a path or a setting that cannot be.
 */
export function vaultKeys(options: VaultKeysOptions): VaultKeys {
  const keyring = new SecretKeyring(options);
  // Methods of its own, so that a copy made with `{ ...keys }` has them too.
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

class SecretKeyring {
  readonly freshness;
  readonly load = singleFlight(async ({ signal }) => (await this.#read(this.#connection.inTime(signal))).ring);
  readonly #connection: VaultConnection;
  readonly #path: string;
  readonly #field: string;
  readonly #purpose: Purpose;

  constructor(options: VaultKeysOptions) {
    const { mount = "secret", path, field = "keyring" } = options;
    this.#path = `${encodePath(mount, "mount")}/data/${encodePath(path, "path")}`;
    this.#field = field;
    this.#purpose = {
      what: `The secret ${JSON.stringify(path)} in ${JSON.stringify(mount)}`,
      policy: `path "${mount}/data/${path}" { capabilities = ["read", "create", "update"] }, the last two for writers alone.`,
    };
    this.#connection = new VaultConnection(options);
    this.freshness = this.#connection.freshness;
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    requireSavable(next);
    const signal = this.#connection.inTime(undefined);
    const { ring, version, fields } = await this.#read(signal);
    if (exportKeyring(ring) !== exportKeyring(previous)) throw this.#conflict();
    await this.#write(next, version, fields, signal);
  }

  async create(ring: Keyring): Promise<void> {
    requireSavable(ring);
    await this.#write(ring, 0, {}, this.#connection.inTime(undefined));
  }

  async #read(signal: AbortSignal): Promise<Found> {
    const answer = await this.#connection
      .request({ method: "GET", path: this.#path }, this.#purpose, signal)
      .catch((error: unknown) => {
        throw error instanceof VaultFailure ? this.#unread(error) : error;
      });
    const data = fieldOf(answer, "data");
    const fields = fieldOf(data, "data");
    const version = fieldOf(fieldOf(data, "metadata"), "version");
    if (typeof fields !== "object" || fields === null || typeof version !== "number") {
      throw this.#invalid("is not of a KV engine of version 2", "See `bao secrets list -detailed`; is it version 1?");
    }
    const document = fieldOf(fields, this.#field);
    if (typeof document !== "string") {
      const field = JSON.stringify(this.#field);
      throw this.#invalid(`has no text in its field ${field}`, `Put a keyring document there, or name the field.`);
    }
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
      // Not a second time: where the answer was lost, the secret itself shows what became of it.
      await this.#connection.request({ ...request, repeatable: false }, this.#purpose, signal);
    } catch (error) {
      if (!(error instanceof VaultFailure)) throw error;
      if (!error.isPassing) throw this.#unwritten(error);
      if (!(await this.#holds(ring, signal))) throw unavailable(error);
    }
  }

  async #holds(ring: Keyring, signal: AbortSignal): Promise<boolean> {
    return await this.#read(signal).then(
      (found) => exportKeyring(found.ring) === exportKeyring(ring),
      () => false,
    );
  }

  #parse(document: string): Keyring {
    try {
      return Keyring.parse(document);
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      const { code, message, hint, keyId } = error;
      throw new KeywardError(code, `${this.#purpose.what}: ${message}`, { hint, keyId });
    }
  }

  #unread(failure: VaultFailure): KeywardError {
    if (failure.status !== 404) return this.#other(failure);
    const metadata = fieldOf(failure.data, "metadata");
    if (metadata === undefined) {
      const noEngine = failure.reasons.some((reason) => reason.includes("no handler for route"));
      return new KeywardError(
        "PROVIDER_UNAVAILABLE",
        noEngine ? `${this.#purpose.what}: no engine is mounted there` : `${this.#purpose.what} is not there`,
        {
          hint: noEngine
            ? "Check `mount` and the namespace, or enable it: `bao secrets enable -version=2 -path=… kv`."
            : "Check the path and the namespace. For a first ring: create(Keyring.generate()).",
        },
      );
    }
    const version = Number(fieldOf(metadata, "version"));
    const gone = fieldOf(metadata, "destroyed") === true ? "destroyed" : "deleted";
    return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#purpose.what} was ${gone}: its version ${version}`, {
      hint:
        gone === "deleted"
          ? `Bring it back: \`bao kv undelete -versions=${version} …\`.`
          : "That version is gone for good: write an older one again (`bao kv rollback`), or a backup.",
    });
  }

  #unwritten(failure: VaultFailure): KeywardError {
    return failure.reasons.some((reason) => reason.includes("check-and-set")) ? this.#conflict() : this.#other(failure);
  }

  #other(failure: VaultFailure): KeywardError {
    return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#purpose.what}: Vault refuses (${failure.message})`, {
      hint: "Check mount and path; see Vault's log and audit log.",
    });
  }

  #invalid(problem: string, hint: string): KeywardError {
    return new KeywardError("KEYRING_INVALID", `${this.#purpose.what} ${problem}`, { hint });
  }

  #conflict(): KeywardError {
    return new KeywardError("KEYRING_CONFLICT", `${this.#purpose.what} holds another ring than the one expected`, {
      hint: "Load the ring again, repeat the change on it, and save that.",
    });
  }
}
