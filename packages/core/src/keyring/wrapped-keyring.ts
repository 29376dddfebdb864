import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import { singleFlight } from "../waiting/single-flight.ts";
import { freshnessNames, type KeyFreshness, type KeyProvider, requireFreshness } from "./key-provider.ts";
import { exportKeyring, Keyring, requireSavable, sameKeyring, sharesKey } from "./keyring.ts";
import type { KeyringLocation } from "./keyring-location.ts";

/** Options of each call to a {@link KeyringWrapper}. */
export interface WrapOptions {
  /**
   * When this signal is aborted, the wrapper must abort its call to the key service. `undefined` if the caller sets no
   * time limit: in this case, the wrapper must set its own.
   */
  readonly signal: AbortSignal | undefined;
}

/** Encrypts ("wraps") and decrypts keyring documents under a key that never leaves a key service. */
export interface KeyringWrapper {
  /**
   * Wraps the bytes of a keyring document, and returns a text that only the key service can unwrap. The wrapper must
   * keep neither the bytes nor a copy of them.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if the key service does not answer, or refuses to wrap the document.
   */
  wrap(document: Uint8Array, options: WrapOptions): Promise<string>;
  /**
   * Unwraps a text that `wrap` returned. Returns the bytes of the keyring document, which the caller overwrites with
   * zeros after use.
   *
   * @throws KeywardError
   * - `PROVIDER_UNAVAILABLE` if the key service does not answer, or refuses to unwrap the text;
   * - `KEYRING_INVALID` if the text was not wrapped under the key of this wrapper.
   */
  unwrap(wrapped: string, options: WrapOptions): Promise<Uint8Array>;
  /**
   * Asks the key service to unwrap the text `wrapped`, and to wrap the document again under the newest version of the
   * wrapping key, without sending the document to this process. Returns `wrapped` unchanged if it is under the newest
   * version already. Omit this method if the key service cannot do this: `unwrap` and `wrap` are then called instead.
   *
   * @throws KeywardError with the same codes as {@link KeyringWrapper.unwrap}.
   */
  rewrap?(wrapped: string, options: WrapOptions): Promise<string>;
}

/** Options of {@link wrappedKeys}: which keyrings the provider accepts, and how often stores load the keyring. */
export interface WrappedKeysOptions extends KeyFreshness {
  /** The name that each keyring must have. Default: the name of the first keyring that this provider loads or saves. */
  readonly name?: string;
  /**
   * The lowest generation number that the provider accepts in a keyring. Default: 1.
   *
   * Raise this number after you have revoked a key. An attacker could put an older keyring back, which contains the
   * revoked key. A running process refuses a lower generation than the highest that it has loaded or saved, but a new
   * process has loaded none: only this option keeps it from accepting the older keyring.
   */
  readonly minGeneration?: number;
}

const wrappedKeysOptionNames = {
  name: true,
  minGeneration: true,
  ...freshnessNames,
} as const satisfies OptionNames<WrappedKeysOptions>;

/** A key provider for a keyring that is stored at a {@link KeyringLocation}, wrapped by a key service. */
export interface WrappedKeys extends KeyProvider {
  /**
   * Loads the keyring. Asks the key service only if the wrapped text has changed since the last load.
   *
   * @throws KeywardError
   * - with the codes of {@link KeyProvider.load};
   * - `KEYRING_ROLLBACK` if the stored keyring has another name than the provider requires, or a generation number that
   *   is too low. {@link WrappedKeysOptions} sets the required name and the lowest generation number.
   */
  load(options?: { readonly signal?: AbortSignal; readonly inUse?: Keyring }): Promise<Keyring>;
  /**
   * Wraps `next` and stores the wrapped text, if the keyring at the location is still `previous`.
   *
   * @throws KeywardError
   * - `KEYRING_INVALID` if `next` is scoped, has no keys, or has another name than the option `name` or the last loaded
   *   keyring.
   * - `KEYRING_CONFLICT` if the keyring at the location is not `previous`.
   * - `KEYRING_ROLLBACK` if the generation number of `next` is too low, as in {@link WrappedKeysOptions.minGeneration}.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Wraps `ring`, the first keyring, and stores the wrapped text.
   *
   * @throws KeywardError
   * - `KEYRING_CONFLICT` if a keyring is stored at the location already;
   * - `KEYRING_INVALID` and `KEYRING_ROLLBACK`, for the same reasons as {@link WrappedKeys.save}.
   */
  create(ring: Keyring): Promise<void>;
  /**
   * Wraps the stored keyring again, under the newest version of the wrapping key. Changes no record.
   *
   * @returns true if the keyring was wrapped again; false if it was under the newest version already.
   * @throws KeywardError `KEYRING_CONFLICT` if another writer changed the stored keyring during this call.
   */
  rewrap(): Promise<boolean>;
}

/**
 * Returns a key provider for a keyring that a key service wraps (encrypts). The key service wraps the whole keyring
 * document, with its name and generation number.
 *
 * An attacker who can write to the location can neither read the keyring nor make another keyring, but could put an
 * older keyring back. So the provider refuses a keyring with another name or with a generation that is too low.
 * {@link WrappedKeysOptions} sets the name and the lowest generation.
 *
 * @throws KeywardError `VALUE_INVALID` for a `minGeneration` that is not an integer of at least 1, and for a setting of
 * {@link KeyFreshness} that is out of range.
 * @example
 * const keys = wrappedKeys(wrapper, storeLocation(store), { name: "production" });
 * await keys.create(Keyring.generate("2026-11").rename("production"));
 */
export function wrappedKeys(
  wrapper: KeyringWrapper,
  location: KeyringLocation,
  options: WrappedKeysOptions = {},
): WrappedKeys {
  const keyring = new WrappedKeyring(wrapper, location, options);
  // A plain object, not the class instance, so that a copy made with `{ ...keys }` has the methods too.
  return {
    freshness: keyring.freshness,
    load: keyring.load,
    save: (next, previous) => keyring.save(next, previous),
    create: (ring) => keyring.create(ring),
    requireWritable: async () => await location.requireWritable?.(),
    rewrap: () => keyring.rewrap(),
  };
}

/** A keyring that this provider loaded and accepted, or saved, with its wrapped text. */
interface Accepted {
  readonly wrapped: string;
  readonly ring: Keyring;
}

/** A loaded keyring, together with the keyring that had been accepted last when the load began. */
interface Loaded extends Accepted {
  readonly latestBefore: Keyring | undefined;
}

class WrappedKeyring {
  readonly freshness: KeyFreshness;
  readonly load: WrappedKeys["load"];
  readonly #wrapper: KeyringWrapper;
  readonly #location: KeyringLocation;
  readonly #name: string | undefined;
  readonly #minGeneration: number;
  #latest: Accepted | undefined;

  constructor(wrapper: KeyringWrapper, location: KeyringLocation, options: WrappedKeysOptions) {
    const { name, minGeneration = 1 } = requireOptions("wrappedKeys", options, wrappedKeysOptionNames);
    requireAmount("minGeneration", minGeneration, "generations", { most: Number.MAX_SAFE_INTEGER });
    this.freshness = requireFreshness(options);
    const flight = singleFlight(({ signal }) => this.#load(signal));
    this.load = async ({ signal, inUse } = {}) => this.#accept(await flight({ signal }), inUse);
    this.#wrapper = wrapper;
    this.#location = location;
    this.#name = name;
    this.#minGeneration = minGeneration;
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    requireSavable(next, this.#name ?? this.#latest?.ring.name);
    // Read `#latest` before the location, so that a keyring that another process saves in between causes a conflict,
    // and not a rollback error.
    const latestBefore = this.#latest?.ring;
    const wrapped = await this.#read(undefined);
    if (!sameKeyring(await this.#unwrap(wrapped, undefined), previous)) throw conflict();
    this.#requireSuccessor(next, latestBefore);
    await this.#write(wrapped, next);
  }

  async create(ring: Keyring): Promise<void> {
    requireSavable(ring, this.#name ?? this.#latest?.ring.name);
    const latestBefore = this.#latest?.ring;
    // Check before the write, too, so that the key service does not wrap a keyring that cannot be stored.
    if ((await this.#location.read()) !== undefined) throw conflict();
    this.#requireSuccessor(ring, latestBefore);
    await this.#write(undefined, ring);
  }

  async rewrap(): Promise<boolean> {
    const wrapped = await this.#read(undefined);
    const next = await this.#wrapAgain(wrapped);
    if (next === wrapped) return false;
    if (!(await this.#location.replace(wrapped, next))) throw conflict();
    return true;
  }

  async #wrapAgain(wrapped: string): Promise<string> {
    if (this.#wrapper.rewrap !== undefined) return await this.#wrapper.rewrap(wrapped, { signal: undefined });
    return await this.#wrap(await this.#unwrap(wrapped, undefined));
  }

  async #load(signal: AbortSignal): Promise<Loaded> {
    // Read `#latest` before the location: if this provider saves a later keyring in between, the loaded keyring must
    // not be refused as a rollback.
    const latestBefore = this.#latest?.ring;
    const wrapped = await this.#read(signal);
    return { wrapped, ring: await this.#unwrap(wrapped, signal), latestBefore };
  }

  #accept({ wrapped, ring, latestBefore }: Loaded, inUse: Keyring | undefined): Keyring {
    if (inUse === undefined || ring.generation < this.#minGeneration || !sameKeyring(ring, inUse)) {
      this.#requireSuccessor(ring, latestBefore);
      return this.#remember(wrapped, ring);
    }
    // The caller uses this keyring already, so it is not a rollback for the caller, even if its generation is lower. If
    // the latest keyring is unrelated to it, the caller has refused the latest keyring: this provider forgets the
    // latest keyring.
    const isLatestUnrelated = latestBefore !== undefined && !sharesKey(latestBefore, ring);
    if (isLatestUnrelated && this.#latest?.ring === latestBefore) this.#latest = { wrapped, ring };
    return ring;
  }

  /**
   * Remembers `ring` as the latest keyring, and returns it. If the latest keyring has a higher generation, returns the
   * latest keyring instead.
   */
  #remember(wrapped: string, ring: Keyring): Keyring {
    if (this.#latest !== undefined && this.#latest.ring.generation > ring.generation) return this.#latest.ring;
    this.#latest = { wrapped, ring };
    return ring;
  }

  async #read(signal: AbortSignal | undefined): Promise<string> {
    const wrapped = await this.#location.read({ signal });
    if (wrapped !== undefined) return wrapped;
    throw new KeywardError("PROVIDER_UNAVAILABLE", "No wrapped keyring is stored at the keyring's location", {
      hint: "Check that the location is the right one. If a keyring was stored at the location before, restore that keyring from a backup, because a new keyring decrypts no existing record. Only if there never was a keyring, call create(Keyring.generate()).",
    });
  }

  async #unwrap(wrapped: string, signal: AbortSignal | undefined): Promise<Keyring> {
    if (wrapped === this.#latest?.wrapped) return this.#latest.ring;
    const document = await this.#wrapper.unwrap(wrapped, { signal });
    try {
      return Keyring.parse(Buffer.from(document.buffer, document.byteOffset, document.byteLength).toString());
    } finally {
      document.fill(0);
    }
  }

  async #wrap(ring: Keyring): Promise<string> {
    // Not Buffer.from, whose memory is shared with other Buffers: the wrapper is third-party code.
    const document = new TextEncoder().encode(exportKeyring(ring));
    try {
      return await this.#wrapper.wrap(document, { signal: undefined });
    } finally {
      document.fill(0);
    }
  }

  async #write(expected: string | undefined, ring: Keyring): Promise<void> {
    const wrapped = await this.#wrap(ring);
    if (!(await this.#location.replace(expected, wrapped))) throw conflict();
    this.#remember(wrapped, ring);
  }

  #requireSuccessor(ring: Keyring, latestBefore: Keyring | undefined): void {
    const name = this.#name ?? latestBefore?.name ?? ring.name;
    const generation = Math.max(this.#minGeneration, latestBefore?.generation ?? 1);
    if (ring.name !== name) {
      throw refused(
        `it is another keyring, named ${JSON.stringify(ring.name)} instead of ${JSON.stringify(name)}`,
        "Only if the keyring was renamed on purpose, set the option `name` to the new name, and restart this process.",
      );
    }
    if (ring.generation >= generation) return;
    throw refused(
      `it is of generation ${ring.generation}, and the lowest that is accepted is ${generation}`,
      `Only if the older keyring was put back on purpose, set the option \`minGeneration\` to ${ring.generation} or lower, and restart this process.`,
    );
  }
}

function refused(problem: string, ifIntended: string): KeywardError {
  return new KeywardError("KEYRING_ROLLBACK", `The wrapped keyring was refused: ${problem}`, {
    hint: `Restore the latest keyring at the location, because the refused keyring may contain a revoked key. Find out who wrote the refused keyring to the location. ${ifIntended}`,
  });
}

function conflict(): KeywardError {
  return new KeywardError(
    "KEYRING_CONFLICT",
    "Another writer has changed the wrapped keyring at the location, so this change was not written",
    {
      hint: "Load the keyring again, repeat your change in the loaded keyring, and save the result.",
    },
  );
}
