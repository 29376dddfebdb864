import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { Keyring } from "./keyring.ts";

/** How often a source is asked for its ring, and how long its last answer counts. */
export interface KeyFreshness {
  /**
   * The source is asked again about every so many milliseconds, give or take a tenth, while any store is in use.
   * Default: it is not, and a change is seen when the provider tells of it or a record names a key that the ring lacks.
   */
  readonly refreshMs?: number;
  /**
   * For how many milliseconds a ring may be used since its source was last asked and still had it. When it is older, the
   * next call waits until the source was asked again; while that fails, calls reject with `PROVIDER_UNAVAILABLE`. Longer
   * than `timeoutMs`. Default: for ever.
   */
  readonly maxAgeMs?: number;
  /** After how many milliseconds a load counts as failed. Default 15,000. */
  readonly timeoutMs?: number;
}

/**
 * Where a keyring comes from. Only `load` is required; the rest are things that some sources can do.
 * The core asks once for all its stores (single-flight), keeps the last good ring through an outage, and asks
 * again when a record names a key that the ring does not have.
 */
export interface KeyProvider {
  /** How often the core asks, and how long an answer counts. Read once, when the first store is made. */
  readonly freshness?: KeyFreshness;
  /**
   * The ring as the source has it now.
   *
   * @param options.inUse the ring that the caller uses, if it has one. A provider that refuses older rings does not refuse
   * this one: the caller may have refused a later one.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when the source does not answer or has nothing; `KEY_INVALID` or
   * `KEYRING_INVALID` when what it has is not a key or a ring.
   */
  load(options?: { readonly signal?: AbortSignal; readonly inUse?: Keyring }): Promise<Keyring>;
  /**
   * Writes `next` if the source still holds `previous`.
   *
   * @throws KeywardError `KEYRING_CONFLICT` when somebody else was first.
   */
  save?(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Checks that `save` can work where the source is now, and writes nothing. For a provider whose `save` can work for some
   * sources and not for others.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY` when the source cannot be changed from here.
   */
  requireWritable?(): Promise<void>;
  /**
   * Writes the first ring, where the source holds none.
   *
   * @throws KeywardError `KEYRING_CONFLICT` where it holds one already.
   */
  create?(ring: Keyring): Promise<void>;
  /** Calls `changed` whenever the source may hold another ring; returns what ends it. Must not keep a process alive. */
  subscribe?(changed: () => void): () => void;
}

/** The name of every setting of freshness. Not part of the public surface. */
export const freshnessNames = {
  refreshMs: true,
  maxAgeMs: true,
  timeoutMs: true,
} as const satisfies OptionNames<KeyFreshness>;

const defaultTimeoutMs = 15_000;

/**
 * The settings of freshness among the options of a provider, for those who write one.
 *
 * @throws KeywardError `VALUE_INVALID` for one that is not a whole number from 1 to 2^30, and for a `maxAgeMs` that is not
 * longer than `timeoutMs`.
 */
export function requireFreshness(options: KeyFreshness): KeyFreshness & { readonly timeoutMs: number } {
  const { refreshMs, maxAgeMs, timeoutMs = defaultTimeoutMs } = options;
  for (const [name, value] of Object.entries({ refreshMs, maxAgeMs, timeoutMs })) {
    if (value !== undefined) requireAmount(name, value, "milliseconds");
  }
  if (maxAgeMs !== undefined && maxAgeMs <= timeoutMs) {
    // Otherwise an answer could be too old when it arrives, and no call would ever end.
    throw new KeywardError("VALUE_INVALID", `maxAgeMs, ${maxAgeMs}, is not longer than timeoutMs, ${timeoutMs}`, {
      hint: "Raise maxAgeMs, or set timeoutMs to less.",
    });
  }
  return {
    timeoutMs,
    ...(refreshMs === undefined ? {} : { refreshMs }),
    ...(maxAgeMs === undefined ? {} : { maxAgeMs }),
  };
}

/**
 * The same provider with other settings of freshness. What `freshness` leaves out stays as the provider has it.
 *
 * A copy made with `{ ...provider }` lacks every method that the provider has from its class. This one has them all. Make
 * it once and give it to every store: stores with the same provider share its loads.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown setting, and as {@link requireFreshness}.
 * @example
 * const keys = withFreshness(envKeys("APP_ENCRYPTION_KEY"), { refreshMs: 60_000 });
 */
export function withFreshness<Provider extends KeyProvider>(provider: Provider, freshness: KeyFreshness): Provider {
  requireOptions("withFreshness", freshness, freshnessNames);
  const changed = requireFreshness({ ...provider.freshness, ...freshness });
  const copy: Provider = Object.create(Object.getPrototypeOf(provider));
  for (const name of namesOf(provider)) {
    const get = () => {
      const value: unknown = Reflect.get(provider, name);
      // Its methods may use private fields, which only the provider itself has.
      return typeof value === "function" ? value.bind(provider) : value;
    };
    Object.defineProperty(copy, name, { get, enumerable: true, configurable: true });
  }
  return Object.defineProperty(copy, "freshness", { value: changed, enumerable: true });
}

/** The names of all properties that an object has, itself or from its classes. */
function namesOf(object: object): ReadonlySet<PropertyKey> {
  const names = new Set<PropertyKey>();
  let holder: object | null = object;
  while (holder !== null && holder !== Object.prototype) {
    for (const name of Reflect.ownKeys(holder)) if (name !== "constructor") names.add(name);
    holder = Reflect.getPrototypeOf(holder);
  }
  return names;
}
