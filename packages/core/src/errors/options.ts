import { KeywardError } from "./errors.ts";

// How every package checks its options, for those who write a store or a provider.

/** What a numeric option counts. */
export type Unit =
  | "milliseconds"
  | "bytes"
  | "records"
  | "pages"
  | "ranges"
  | "generations"
  | "attempts"
  | "workers"
  | "requests";

/** Which values of a numeric option make sense. */
export interface Bounds {
  /** The smallest value that is allowed. Default: 1. */
  readonly least?: number;
  /**
   * The largest value that is allowed. Default: 2^30 for milliseconds (about 12 days: a longer timer of Node.js fires at
   * once, and a jittered one must fit too), 2^40 otherwise.
   */
  readonly most?: number;
}

/**
 * Checks an option that is a duration, a size or a count.
 *
 * @param name the option's name as the caller wrote it, such as `timeoutMs` or `unregistered.waitMs`.
 * @returns the value.
 * @throws KeywardError `VALUE_INVALID` for anything but a whole number within the bounds; NaN and Infinity are refused.
 * @example
 * const timeoutMs = requireAmount("timeoutMs", options.timeoutMs ?? 5_000, "milliseconds");
 */
export function requireAmount(name: string, given: unknown, unit: Unit, bounds: Bounds = {}): number {
  const { least = 1, most = unit === "milliseconds" ? 2 ** 30 : 2 ** 40 } = bounds;
  if (typeof given === "number" && Number.isSafeInteger(given) && given >= least && given <= most) return given;
  const shown =
    typeof given === "number" ? `, but ${given}` : `, but of type ${given === null ? "null" : typeof given}`;
  throw new KeywardError("VALUE_INVALID", `${name} is not a whole number of ${unit} from ${least} to ${most}${shown}`, {
    hint: `Set ${name} to a whole number within these bounds, or leave it out for the default.`,
  });
}

/** The name of every option of a type: the compiler refuses a table that lacks one. */
export type OptionNames<Options> = Readonly<Record<keyof Options, true>>;

/**
 * Checks that options are an object which holds no unknown name, so that code without types learns of a misspelt option.
 *
 * @param taker what takes the options, such as `createKeyv`, for the message.
 * @param known every name that is allowed.
 * @returns the options.
 * @throws KeywardError `VALUE_INVALID` for what is no object and for a name that is not known.
 * @example
 * requireOptions("MemoryStore", options, { maxRecords: true } satisfies OptionNames<MemoryStoreOptions>);
 */
export function requireOptions<Options extends object>(
  taker: string,
  given: Options,
  known: OptionNames<Options>,
): Options {
  const names = Object.keys(known);
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new KeywardError("VALUE_INVALID", `The options of ${taker} are not an object`, {
      hint: `Pass an object. Its options are: ${names.join(", ")}.`,
    });
  }
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(known, name));
  if (unknown === undefined) return given;
  throw new KeywardError("VALUE_INVALID", `${taker} has no option ${JSON.stringify(unknown)}`, {
    hint: `Correct or remove it. The options are: ${names.join(", ")}.`,
  });
}

/**
 * A copy of options that has as its own also what they have from a class or another prototype: spreading loses that.
 *
 * @param known every name that is copied.
 */
export function copyOptions<Options extends object>(options: Options, known: OptionNames<Options>): Options {
  const copy = { ...options };
  for (const name of Object.keys(known)) if (name in options) Reflect.set(copy, name, Reflect.get(options, name));
  return copy;
}

/**
 * Checks an option that is one of some words.
 *
 * @throws KeywardError `VALUE_INVALID` for anything else, which may be of any type.
 */
export function requireOneOf(name: string, given: unknown, words: readonly string[]): void {
  if (words.some((word) => word === given)) return;
  const all = words.map((word) => `"${word}"`).join(", ");
  const shown = typeof given === "string" ? JSON.stringify(given) : `of type ${given === null ? "null" : typeof given}`;
  throw new KeywardError("VALUE_INVALID", `${name} is ${shown}, and none of ${all}`, {
    hint: `Set ${name} to one of these words.`,
  });
}

/**
 * Checks an option that is an object, or a class, with methods.
 *
 * @throws KeywardError `VALUE_INVALID` where a method is missing.
 */
export function requireMethods(name: string, given: unknown, methods: readonly string[], hint: string): void {
  const isObject = (typeof given === "object" || typeof given === "function") && given !== null;
  const missing = methods.filter((method) => !isObject || typeof Reflect.get(given, method) !== "function");
  if (missing.length === 0) return;
  const shown = `${given === null ? "null" : `of type ${typeof given}`}, without ${missing.join(" and ")}`;
  throw new KeywardError("VALUE_INVALID", `${name} is ${shown}`, { hint });
}
