import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import { singleFlight } from "../waiting/single-flight.ts";
import { freshnessNames, type KeyFreshness, type KeyProvider, requireFreshness } from "./key-provider.ts";
import { exportKeyring, Keyring, requireSavable, sameRing, sharesKey } from "./keyring.ts";
import type { KeyringLocation } from "./keyring-location.ts";

/** What each call to a {@link KeyringWrapper} is given. */
export interface WrapOptions {
  /** Ends the call; `undefined` where nobody may end it, and the wrapper bounds its time itself. */
  readonly signal: AbortSignal | undefined;
}

/** Wraps a keyring document under a key that never leaves a key service. */
export interface KeyringWrapper {
  /**
   * The document as a text that only the service can read again. Keeps neither the bytes nor a copy.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when the service does not answer or refuses.
   */
  wrap(document: Uint8Array, options: WrapOptions): Promise<string>;
  /**
   * The document of a wrapped text, in bytes that the caller zeroes.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when the service does not answer or refuses, `KEYRING_INVALID` for a
   * text that was not wrapped under this key.
   */
  unwrap(wrapped: string, options: WrapOptions): Promise<Uint8Array>;
  /**
   * The same document under the newest version of the wrapping key, without showing it, where the service can do that;
   * `wrapped` itself where it is under that version already.
   *
   * @throws KeywardError as {@link KeyringWrapper.unwrap}.
   */
  rewrap?(wrapped: string, options: WrapOptions): Promise<string>;
}

/** What a wrapped keyring must be, to be taken, and how fresh it is kept. */
export interface WrappedKeysOptions extends KeyFreshness {
  /** The name of the ring. When absent, that of the first ring seen. */
  readonly name?: string;
  /**
   * The lowest generation that is taken; 1 when absent. A provider takes none lower than the highest it has seen, but
   * a new process has seen nothing: this keeps it from a ring with a revoked key that was put back.
   */
  readonly minGeneration?: number;
}

const wrappedKeysOptionNames = {
  name: true,
  minGeneration: true,
  ...freshnessNames,
} as const satisfies OptionNames<WrappedKeysOptions>;

/** Keys from a wrapped keyring. */
export interface WrappedKeys extends KeyProvider {
  /**
   * As {@link KeyProvider.load}. The key service is asked only where the wrapped text has changed.
   *
   * @throws KeywardError `KEYRING_ROLLBACK` for a ring of another name or of a generation that is too low.
   */
  load(options?: { readonly signal?: AbortSignal; readonly inUse?: Keyring }): Promise<Keyring>;
  /**
   * As {@link KeyProvider.save}.
   *
   * @throws KeywardError `KEYRING_INVALID` for a ring that is scoped, has no keys, or has another name;
   * `KEYRING_CONFLICT` where another ring lies there than `previous`; `KEYRING_ROLLBACK` where `previous` lies there and
   * the generation is too low all the same.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Wraps the first ring.
   *
   * @throws KeywardError `KEYRING_CONFLICT` where one lies already, and as {@link WrappedKeys.save}.
   */
  create(ring: Keyring): Promise<void>;
  /**
   * Wraps the ring that lies there under the newest version of the wrapping key, and says whether it was under an older
   * one. No record is touched.
   *
   * @throws KeywardError `KEYRING_CONFLICT` when the ring was changed meanwhile.
   */
  rewrap(): Promise<boolean>;
}

/**
 * Keys from a keyring whose whole document, name and generation included, is wrapped by a key service. Whoever can write
 * to the place can neither read the ring nor make one; that he does not put an older one back is what name and
 * generation are checked for.
 *
 * @throws KeywardError `VALUE_INVALID` for a `minGeneration` that is not a whole number from 1, and for settings of
 * freshness that are out of range.
 */
export function wrappedKeys(
  wrapper: KeyringWrapper,
  location: KeyringLocation,
  options: WrappedKeysOptions = {},
): WrappedKeys {
  const keyring = new WrappedKeyring(wrapper, location, options);
  // Methods of its own, so that a copy made with `{ ...keys }` has them too.
  return {
    freshness: keyring.freshness,
    load: keyring.load,
    save: (next, previous) => keyring.save(next, previous),
    create: (ring) => keyring.create(ring),
    requireWritable: async () => await location.requireWritable?.(),
    rewrap: () => keyring.rewrap(),
  };
}

interface Seen {
  readonly wrapped: string;
  readonly ring: Keyring;
}

/** What a load found, and the latest ring that had been seen when it began. */
interface Found extends Seen {
  readonly before: Keyring | undefined;
}

class WrappedKeyring {
  readonly freshness: KeyFreshness;
  readonly load: WrappedKeys["load"];
  readonly #wrapper: KeyringWrapper;
  readonly #location: KeyringLocation;
  readonly #name: string | undefined;
  readonly #minGeneration: number;
  #seen: Seen | undefined;

  constructor(wrapper: KeyringWrapper, location: KeyringLocation, options: WrappedKeysOptions) {
    const { name, minGeneration = 1 } = requireOptions("wrappedKeys", options, wrappedKeysOptionNames);
    requireAmount("minGeneration", minGeneration, "generations", { most: Number.MAX_SAFE_INTEGER });
    this.freshness = requireFreshness(options);
    const flight = singleFlight(({ signal }) => this.#load(signal));
    this.load = async ({ signal, inUse } = {}) => this.#take(await flight({ signal }), inUse);
    this.#wrapper = wrapper;
    this.#location = location;
    this.#name = name;
    this.#minGeneration = minGeneration;
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    requireSavable(next, this.#name ?? this.#seen?.ring.name);
    // A ring that others saved, and that was seen since, is what the change is in conflict with, and no rollback.
    const before = this.#seen?.ring;
    const wrapped = await this.#read(undefined);
    if (!sameRing(await this.#unwrap(wrapped, undefined), previous)) throw conflict();
    this.#requireSuccessor(next, before);
    await this.#write(wrapped, next);
  }

  async create(ring: Keyring): Promise<void> {
    requireSavable(ring, this.#name ?? this.#seen?.ring.name);
    const before = this.#seen?.ring;
    // Asked before as well: nothing is wrapped in vain.
    if ((await this.#location.read()) !== undefined) throw conflict();
    this.#requireSuccessor(ring, before);
    await this.#write(undefined, ring);
  }

  async rewrap(): Promise<boolean> {
    const wrapped = await this.#read(undefined);
    const next = await this.#wrappedAnew(wrapped);
    if (next === wrapped) return false;
    if (!(await this.#location.replace(wrapped, next))) throw conflict();
    return true;
  }

  async #wrappedAnew(wrapped: string): Promise<string> {
    if (this.#wrapper.rewrap !== undefined) return await this.#wrapper.rewrap(wrapped, { signal: undefined });
    return await this.#wrap(await this.#unwrap(wrapped, undefined));
  }

  async #load(signal: AbortSignal): Promise<Found> {
    // A save of our own may come in between; what was read before it is no rollback.
    const before = this.#seen?.ring;
    const wrapped = await this.#read(signal);
    return { wrapped, ring: await this.#unwrap(wrapped, signal), before };
  }

  #take({ wrapped, ring, before }: Found, inUse: Keyring | undefined): Keyring {
    if (inUse === undefined || ring.generation < this.#minGeneration || !sameRing(ring, inUse)) {
      this.#requireSuccessor(ring, before);
      return this.#remember(wrapped, ring);
    }
    // The ring in use was taken once already: going on with it is no step back. An unrelated one that was seen meanwhile,
    // and that the caller refused, is forgotten, and no ring of this line with it.
    if (before !== undefined && this.#seen?.ring === before && !sharesKey(before, ring)) this.#seen = { wrapped, ring };
    return ring;
  }

  /** The latest ring that was seen: this one, unless it was overtaken. */
  #remember(wrapped: string, ring: Keyring): Keyring {
    if (this.#seen !== undefined && this.#seen.ring.generation > ring.generation) return this.#seen.ring;
    this.#seen = { wrapped, ring };
    return ring;
  }

  async #read(signal: AbortSignal | undefined): Promise<string> {
    const wrapped = await this.#location.read({ signal });
    if (wrapped !== undefined) return wrapped;
    throw new KeywardError("PROVIDER_UNAVAILABLE", "There is no wrapped keyring at its location", {
      hint: "Check the location. If a keyring was stored there before, restore it from a backup: a new keyring opens no existing record. Only for the first one: create(Keyring.generate()).",
    });
  }

  async #unwrap(wrapped: string, signal: AbortSignal | undefined): Promise<Keyring> {
    if (wrapped === this.#seen?.wrapped) return this.#seen.ring;
    const document = await this.#wrapper.unwrap(wrapped, { signal });
    try {
      return Keyring.parse(Buffer.from(document.buffer, document.byteOffset, document.byteLength).toString());
    } finally {
      document.fill(0);
    }
  }

  async #wrap(ring: Keyring): Promise<string> {
    // Not Buffer.from, whose memory is shared with other Buffers: the wrapper is code of others.
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

  #requireSuccessor(ring: Keyring, before: Keyring | undefined): void {
    const name = this.#name ?? before?.name ?? ring.name;
    const generation = Math.max(this.#minGeneration, before?.generation ?? 1);
    const problem =
      ring.name !== name
        ? `is another ring, ${JSON.stringify(ring.name)} instead of ${JSON.stringify(name)}`
        : ring.generation < generation
          ? `is of generation ${ring.generation}, older than ${generation}`
          : undefined;
    if (problem === undefined) return;
    throw new KeywardError("KEYRING_ROLLBACK", `The wrapped keyring ${problem}`, {
      hint: "Restore the latest keyring, and find out who writes to its location: an older one may hold a key that was revoked. Lower minGeneration, or change name, only where the older keyring was put back on purpose.",
    });
  }
}

function conflict(): KeywardError {
  return new KeywardError("KEYRING_CONFLICT", "Another wrapped keyring lies there than the one that was changed", {
    hint: "Load the ring again, repeat the change on it, and save that.",
  });
}
