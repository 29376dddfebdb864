import { RecentlyUsed } from "../envelope/recently-used.ts";
import { KeywardError } from "../errors/errors.ts";
import { type Keyring, maxScopeNameBytes } from "../keyring/keyring.ts";
import { type RecordAddress, recordError } from "../store-interface/record.ts";

/** The option `scope` of a store: the scope of all records, or a function that returns the scope of a record. */
export type ScopeOption = string | ((address: RecordAddress) => string | undefined);

// A cached keyring takes about 2 KB.
const maxCachedKeyrings = 10_000;
// A job that reads all records needs most scopes only once. To keep their keyrings in a large cache would cost more
// time for garbage collection than it saves.
const maxCachedInOnePass = 100;

/** Finds the scope of each record of a store, and derives the keyring for that scope. */
export class RecordScopes {
  readonly #scope: ScopeOption | undefined;
  readonly #maxCached: number;
  /** For each keyring: the keyrings that were derived from it, by the name of their scope. */
  readonly #derived = new WeakMap<Keyring, RecentlyUsed<string, Keyring>>();

  /** @param scope the option `scope` of the store; `undefined` for a store without scopes. */
  constructor(scope: ScopeOption | undefined, maxCached = maxCachedKeyrings) {
    if (scope !== undefined && typeof scope !== "string" && typeof scope !== "function") {
      throw new KeywardError(
        "VALUE_INVALID",
        `The option "scope" is neither a string nor a function, but of type ${typeof scope}`,
        {
          hint: "Pass the name of a scope, or a function that gets the address of a record and returns the name of its scope.",
        },
      );
    }
    this.#scope = scope;
    this.#maxCached = maxCached;
  }

  /**
   * Returns the scopes for a job that reads all records once. If a function returns the scope of each record, the
   * result has a separate, smaller cache. Otherwise the result is this object.
   */
  forOnePass(): RecordScopes {
    return this.differByRecord ? new RecordScopes(this.#scope, maxCachedInOnePass) : this;
  }

  /** The scope of all records; `undefined` if there is no scope, or if a function returns the scope of each record. */
  get ofStore(): string | undefined {
    return typeof this.#scope === "string" ? this.#scope : undefined;
  }

  /** True if the option `scope` is a function, which returns the scope of each record. */
  get differByRecord(): boolean {
    return typeof this.#scope === "function";
  }

  /**
   * Returns the scope of the record at an address; `undefined` for a record without a scope.
   *
   * @throws KeywardError `VALUE_INVALID` if the function `scope` throws or returns something else than a name.
   */
  of(address: RecordAddress): string | undefined {
    const scope = this.#scope;
    if (typeof scope !== "function") return scope;
    let name: unknown;
    try {
      name = scope({ namespace: address.namespace, key: address.key });
    } catch {
      // The error is not passed on, because it may contain the record's key.
      throw invalidScope(address, "the function `scope` threw an error");
    }
    if (name === undefined || isScopeName(name)) return name;
    // An unhandled rejection of the promise would end the process.
    if (name instanceof Promise) name.catch(() => undefined);
    throw invalidScope(address, `the function \`scope\` returned ${described(name)}`);
  }

  /**
   * Derives a keyring for the scope of the store. Returns the keyring itself if not all records have the same scope.
   */
  keyringForStore(keyring: Keyring): Keyring {
    return typeof this.#scope === "string" ? this.#inScope(keyring, this.#scope) : keyring;
  }

  /**
   * Derives a keyring for the record at an address.
   *
   * @param keyring a keyring that {@link RecordScopes.keyringForStore} returned.
   * @throws KeywardError `VALUE_INVALID` like {@link RecordScopes.of}; `KEYRING_INVALID` if the application passed a
   * keyring that was derived for another scope.
   */
  keyringForRecord(keyring: Keyring, address: RecordAddress): Keyring {
    if (typeof this.#scope !== "function") return keyring;
    const name = this.of(address);
    if (keyring.scopeName !== undefined && keyring.scopeName !== name) {
      throw recordError(
        "KEYRING_INVALID",
        address,
        "is not in the scope that the keyring of this process was derived for",
        {
          hint: "Pass the unscoped keyring to this store. Otherwise use only records of the scope that the keyring was derived for.",
        },
      );
    }
    return name === undefined ? keyring : this.#inScope(keyring, name);
  }

  #inScope(keyring: Keyring, name: string): Keyring {
    if (keyring.scopeName === name || keyring.primary === "") return keyring;
    let derived = this.#derived.get(keyring);
    if (derived === undefined) {
      derived = new RecentlyUsed(this.#maxCached);
      this.#derived.set(keyring, derived);
    }
    let scoped = derived.get(name);
    if (scoped === undefined) {
      scoped = keyring.scope(name);
      derived.set(name, scoped);
    }
    return scoped;
  }
}

function isScopeName(name: unknown): name is string {
  if (typeof name !== "string" || name === "" || !name.isWellFormed()) return false;
  // Each UTF-16 unit of a string needs at most three bytes in UTF-8.
  return name.length * 3 <= maxScopeNameBytes || Buffer.byteLength(name) <= maxScopeNameBytes;
}

function described(returned: unknown): string {
  if (returned === "") return "an empty string";
  if (typeof returned === "string") return "a name that is ill-formed or longer than 1,000 bytes";
  if (returned instanceof Promise) return "a promise";
  return returned === null ? "null" : `a value of type ${typeof returned}`;
}

function invalidScope(address: RecordAddress, problem: string): KeywardError {
  return recordError("VALUE_INVALID", address, `has no valid scope: ${problem}`, {
    hint: "Correct the function `scope`, so that it is synchronous and returns a name of 1 to 1,000 bytes for this address, or `undefined` for no scope.",
  });
}
