import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { Keyring } from "./keyring.ts";
import type { ChangeInstruction, KeyringChange } from "./keyring-change.ts";

/**
 * Settings of a key provider: how often stores load the keyring, how long they may use a loaded keyring, and how long a
 * load may take.
 */
export interface KeyFreshness {
  /**
   * The time between two loads of the keyring while a store is in use, in milliseconds. The time varies at random by up
   * to a tenth. Default: the keyring is loaded again only when the provider reports a change, or when a record names a
   * key that the keyring lacks.
   */
  readonly refreshMs?: number;
  /**
   * How long a keyring may be used after the provider last returned it, in milliseconds. Must be longer than
   * `timeoutMs`. If the keyring is older, calls wait until the keyring is loaded again. If the load fails, the calls
   * reject with `PROVIDER_UNAVAILABLE`. Default: unlimited.
   */
  readonly maxAgeMs?: number;
  /**
   * The time limit of a load, in milliseconds. A load that takes longer fails with `PROVIDER_UNAVAILABLE`. Default:
   * 15,000.
   */
  readonly timeoutMs?: number;
}

/**
 * Loads a keyring from a source, such as a file, an environment variable or a key service. Only the method `load` is
 * required.
 *
 * All stores with the same provider share each load, and one load runs at a time. The stores keep the last good keyring
 * while loads fail. The stores load the keyring again when a record names a key that the keyring lacks.
 *
 * @example
 * const keys: KeyProvider = { load: async () => Keyring.parse(await readFile("keyring.json", "utf8")) };
 */
export interface KeyProvider {
  /**
   * How often stores load the keyring, and how long a load may take. Read only once, when the first store with this
   * provider is made.
   */
  readonly freshness?: KeyFreshness;
  /**
   * Loads the keyring that the source contains now.
   *
   * @param options.signal Aborted when the load has taken longer than `timeoutMs`.
   * @param options.inUse The keyring that the caller uses; absent in the first load. If the source contains this
   * keyring, the provider must return it, even if the provider has loaded a later keyring in between and otherwise
   * refuses older keyrings. The caller may have refused that later keyring.
   * @throws KeywardError
   * - `PROVIDER_UNAVAILABLE` if the source does not answer or contains no keyring;
   * - `KEY_INVALID` or `KEYRING_INVALID` if the source contains a key or a keyring that is not valid.
   */
  load(options?: { readonly signal?: AbortSignal; readonly inUse?: Keyring }): Promise<Keyring>;
  /**
   * Writes the keyring `next` to the source, if the keyring at the source is still `previous`.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the keyring at the source is not `previous`.
   */
  save?(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Checks that `save` can write to the source, but writes nothing. Implement this method if the provider can write to
   * some sources but not to others.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY` if this process cannot write to the source.
   */
  requireWritable?(): Promise<void>;
  /**
   * Describes how an operator makes a change at the source. Called if the provider cannot save the change itself.
   * Implement this method if the provider can name the file, the secret or the environment variable to change. The
   * instruction must not contain key material. Default: an instruction without such a name.
   *
   * @param keyring The keyring at the source, before the change.
   */
  describeChange?(change: KeyringChange, keyring: Keyring): ChangeInstruction | Promise<ChangeInstruction>;
  /**
   * Writes `ring`, the first keyring, to a source that contains no keyring yet.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the source contains a keyring already.
   */
  create?(ring: Keyring): Promise<void>;
  /**
   * Calls `changed` whenever the keyring at the source may have changed. The subscription must not keep the process
   * alive.
   *
   * @returns a function that ends the subscription.
   */
  subscribe?(changed: () => void): () => void;
}

/** The name of every setting of {@link KeyFreshness}. Not part of the public surface. */
export const freshnessNames = {
  refreshMs: true,
  maxAgeMs: true,
  timeoutMs: true,
} as const satisfies OptionNames<KeyFreshness>;

const defaultTimeoutMs = 15_000;

/**
 * Picks the settings of {@link KeyFreshness} from the options of a key provider, checks the settings and returns them.
 * For authors of a key provider.
 *
 * @returns the settings, with the default `timeoutMs` of 15,000.
 * @throws KeywardError `VALUE_INVALID` if a setting is not an integer between 1 and 2^30, or if `maxAgeMs` is not
 * longer than `timeoutMs`.
 * @example
 * const { timeoutMs } = requireFreshness({ refreshMs: 60_000 });
 * console.log(timeoutMs); // 15000
 */
export function requireFreshness(options: KeyFreshness): KeyFreshness & { readonly timeoutMs: number } {
  const { refreshMs, maxAgeMs, timeoutMs = defaultTimeoutMs } = options;
  for (const [name, value] of Object.entries({ refreshMs, maxAgeMs, timeoutMs })) {
    if (value !== undefined) requireAmount(name, value, "milliseconds");
  }
  if (maxAgeMs !== undefined && maxAgeMs <= timeoutMs) {
    // Otherwise a keyring could be too old when its load ends, and calls would load forever.
    throw new KeywardError("VALUE_INVALID", `maxAgeMs (${maxAgeMs}) is not longer than timeoutMs (${timeoutMs})`, {
      hint: `Set \`maxAgeMs\` to more than ${timeoutMs}, or \`timeoutMs\` to less than ${maxAgeMs}.`,
    });
  }
  return {
    timeoutMs,
    ...(refreshMs === undefined ? {} : { refreshMs }),
    ...(maxAgeMs === undefined ? {} : { maxAgeMs }),
  };
}

/**
 * Returns a copy of a key provider with the settings `freshness`. The copy keeps the other settings of the provider.
 *
 * The copy has every method of the provider. A copy made with `{ ...provider }` would lack the methods of the
 * provider's class. Make the copy once and pass it to every store, because only stores with the same provider share
 * each load.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown setting, or for a setting that {@link requireFreshness} refuses.
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
      // A method may use private fields. Only the provider has them, the copy does not.
      return typeof value === "function" ? value.bind(provider) : value;
    };
    Object.defineProperty(copy, name, { get, enumerable: true, configurable: true });
  }
  return Object.defineProperty(copy, "freshness", { value: changed, enumerable: true });
}

/** Returns the names of all properties of an object, its own and those of its classes. */
function namesOf(object: object): ReadonlySet<PropertyKey> {
  const names = new Set<PropertyKey>();
  let owner: object | null = object;
  while (owner !== null && owner !== Object.prototype) {
    for (const name of Reflect.ownKeys(owner)) if (name !== "constructor") names.add(name);
    owner = Reflect.getPrototypeOf(owner);
  }
  return names;
}
