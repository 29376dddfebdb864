import {
  exportKeyring,
  type KeyProvider,
  Keyring,
  KeywardError,
  type OptionNames,
  requireOptions,
  requireSavable,
  singleFlight,
} from "@keyward/core";
import { fieldOf, VaultFailure } from "./vault-client.ts";
import {
  connectionOptionNames,
  type Purpose,
  unavailable,
  VaultConnection,
  type VaultConnectionOptions,
} from "./vault-connection.ts";
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

const optionNames: OptionNames<VaultKeysOptions> = { ...connectionOptionNames, path: true, mount: true, field: true };

/**
 * Keys from HashiCorp Vault or OpenBao: the keyring document lies in one field of one secret of a KV engine, version 2.
 *
 * @throws KeywardError `VALUE_INVALID` for an address, a path or a setting that cannot be, and for an unknown option.
 */
export function vaultKeys(options: VaultKeysOptions): VaultKeys {
  const keyring = new SecretKeyring(requireOptions("vaultKeys", options, optionNames));
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

const noEngineHint =
  "Check `mount` and the namespace. Only for a keyring that is new, enable an engine: `bao secrets enable -version=2 -path=… kv`.";
const notThereHint =
  "Check `path`, `mount` and the namespace, and that the KV engine is of version 2. If the ring was there before, restore it: a new ring opens no existing record. Only for the first ring: create(Keyring.generate()).";

class SecretKeyring {
  readonly freshness;
  readonly load = singleFlight(async ({ signal }) => (await this.#read(this.#connection.inTime(signal))).ring);
  readonly #connection: VaultConnection;
  readonly #mount: string;
  readonly #secret: string;
  readonly #path: string;
  readonly #field: string;
  readonly #what: string;

  constructor(options: VaultKeysOptions) {
    const { mount = "secret", path, field = "keyring" } = options;
    this.#mount = encodePath(mount, "mount");
    this.#secret = encodePath(path, "path");
    this.#path = `${this.#mount}/data/${this.#secret}`;
    this.#field = field;
    this.#what = `The secret ${JSON.stringify(path)} in ${JSON.stringify(mount)}`;
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
    const signal = this.#connection.inTime(undefined);
    // An engine of version 1 would take the write, whatever is stored there.
    if ((await this.#engineVersion(signal)) === 1) throw this.#isVersion1();
    await this.#write(ring, 0, {}, signal);
  }

  #purpose(...capabilities: readonly string[]): Purpose {
    const listed = capabilities.map((capability) => JSON.stringify(capability)).join(", ");
    return { what: this.#what, policy: `path "${this.#path}" { capabilities = [${listed}] }` };
  }

  /** The version of the KV engine; `undefined` where this token may not ask, or it is none. */
  async #engineVersion(signal: AbortSignal): Promise<number | undefined> {
    const mounted = fieldOf(await this.#connection.ask(`sys/internal/ui/mounts/${this.#mount}`, signal), "data");
    if (fieldOf(mounted, "type") !== "kv") return undefined;
    // An engine that was mounted without a version is of version 1.
    return fieldOf(fieldOf(mounted, "options"), "version") === "2" ? 2 : 1;
  }

  async #read(signal: AbortSignal): Promise<Found> {
    const answer = await this.#connection
      .request({ method: "GET", path: this.#path }, this.#purpose("read"), signal)
      .catch(async (error: unknown) => {
        throw error instanceof VaultFailure ? await this.#unread(error, signal) : error;
      });
    const data = fieldOf(answer, "data");
    const fields = fieldOf(data, "data");
    const version = fieldOf(fieldOf(data, "metadata"), "version");
    if (typeof fields !== "object" || fields === null || typeof version !== "number") throw this.#isVersion1();
    const document = fieldOf(fields, this.#field);
    if (typeof document !== "string") throw this.#hasNoText(fields, document);
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
      const purpose = this.#purpose("read", "create", "update");
      const answer = await this.#connection.request({ ...request, repeatable: false }, purpose, signal);
      if (typeof fieldOf(fieldOf(answer, "data"), "version") !== "number") throw this.#isVersion1();
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
      throw new KeywardError(code, `${this.#what}: ${message}`, { hint, keyId });
    }
  }

  async #unread(failure: VaultFailure, signal: AbortSignal): Promise<KeywardError> {
    if (failure.status !== 404) return this.#other(failure);
    const metadata = fieldOf(failure.data, "metadata");
    if (metadata === undefined) {
      if ((await this.#engineVersion(signal)) === 1) return this.#isVersion1();
      const noEngine = failure.reasons.some((reason) => reason.includes("no handler for route"));
      return new KeywardError(
        "PROVIDER_UNAVAILABLE",
        noEngine ? `${this.#what}: no engine is mounted there` : `${this.#what} is not there`,
        { hint: `${this.#repetition()}${noEngine ? noEngineHint : notThereHint}` },
      );
    }
    const version = Number(fieldOf(metadata, "version"));
    const gone = fieldOf(metadata, "destroyed") === true ? "destroyed" : "deleted";
    return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#what} was ${gone}: its version ${version}`, {
      hint:
        gone === "deleted"
          ? `Bring it back: \`bao kv undelete -versions=${version} …\`.`
          : "That version is gone for good: write an older one again (`bao kv rollback`), or a backup.",
    });
  }

  /** What to correct, where path or mount have in them what is added to them. */
  #repetition(): string {
    const repeated = ["data/", `${this.#mount}/data/`, `${this.#mount}/`].filter((part) =>
      this.#secret.startsWith(part),
    );
    const parts = [
      ...repeated.slice(0, 1).map((part) => `Leave "${part}" out of \`path\`: it is added to it.`),
      ...(this.#mount.endsWith("/data") ? ['Leave "/data" out of `mount`: it is added to it.'] : []),
    ];
    return parts.map((part) => `${part} `).join("");
  }

  #hasNoText(fields: object, found: unknown): KeywardError {
    const name = JSON.stringify(this.#field);
    const hint =
      fieldOf(fields, "keyward") !== undefined
        ? `The fields of the document became fields of the secret. Put the document into one field: \`bao kv put … ${this.#field}=@ring.json\`.`
        : typeof found === "object" && found !== null
          ? "The field holds a JSON object. Put the document there as text."
          : "Give the name of the field as `field`, or restore an earlier version of the secret (`bao kv rollback`).";
    return this.#invalid(`has no text in its field ${name}`, hint);
  }

  #isVersion1(): KeywardError {
    return this.#invalid(
      "is in no KV engine of version 2, but of version 1, where a writer could overwrite the ring of another",
      "Name an engine of version 2 as `mount`, or mount another one: `bao secrets enable -version=2 -path=… kv`. Do not upgrade an engine that others use.",
    );
  }

  #unwritten(failure: VaultFailure): KeywardError {
    return failure.reasons.some((reason) => reason.includes("check-and-set")) ? this.#conflict() : this.#other(failure);
  }

  #other(failure: VaultFailure): KeywardError {
    return new KeywardError("PROVIDER_UNAVAILABLE", `${this.#what}: Vault refuses (${failure.message})`, {
      hint: "Check `mount` and `path`; see Vault's log and audit log.",
    });
  }

  #invalid(problem: string, hint: string): KeywardError {
    return new KeywardError("KEYRING_INVALID", `${this.#what} ${problem}`, { hint });
  }

  #conflict(): KeywardError {
    return new KeywardError("KEYRING_CONFLICT", `${this.#what} holds another ring than the one expected`, {
      hint: "Load the ring again, repeat the change on it, and save that.",
    });
  }
}
