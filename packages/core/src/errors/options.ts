import { KeywardError } from "./errors.ts";

// Checks of options, for this and every other package, and for authors of a store or a provider.

/** The unit of a numeric option. */
export type Unit =
  | "milliseconds"
  | "bytes"
  | "records"
  | "pages"
  | "ranges"
  | "generations"
  | "attempts"
  | "iterations"
  | "workers"
  | "requests";

/** The smallest and the largest allowed value of a numeric option. */
export interface Bounds {
  /** The smallest allowed value. Default: 1. */
  readonly least?: number;
  /**
   * The largest allowed value. Default: 2^30 for milliseconds, about 12 days, and 2^40 for other units. The default for
   * milliseconds is low because a timer of Node.js fires at once if it is longer than about 24 days, and because
   * Keyward adds a random part to some pauses.
   */
  readonly most?: number;
}

/**
 * Checks an option that is a duration, a size or a count, and returns it.
 *
 * @param name the name of the option as the caller wrote it, such as `timeoutMs` or `unregistered.waitMs`.
 * @throws KeywardError `VALUE_INVALID` if `given` is not an integer within `bounds`, for example NaN or Infinity.
 * @example
 * const timeoutMs = requireAmount("timeoutMs", options.timeoutMs ?? 5_000, "milliseconds");
 */
export function requireAmount(name: string, given: unknown, unit: Unit, bounds: Bounds = {}): number {
  const { least = 1, most = unit === "milliseconds" ? 2 ** 30 : 2 ** 40 } = bounds;
  if (typeof given === "number" && Number.isSafeInteger(given) && given >= least && given <= most) return given;
  const shown =
    typeof given === "number" ? `, but ${given}` : `, but of type ${given === null ? "null" : typeof given}`;
  throw new KeywardError(
    "VALUE_INVALID",
    `${name} is not an integer between ${least} and ${most} (in ${unit})${shown}`,
    {
      hint: `Set ${name} to an integer between ${least} and ${most}, or omit it to use the default.`,
    },
  );
}

/** An object with a field for every option of a type. The compiler refuses an object that lacks one of the options. */
export type OptionNames<Options> = Readonly<Record<keyof Options, true>>;

/**
 * Checks that `given` is an object without unknown options, and returns it. In JavaScript, where no compiler checks the
 * names, this check finds a misspelt option.
 *
 * @param taker the name of the function or class that takes the options, such as `createKeyv`, for the error message.
 * @param known every allowed name.
 * @throws KeywardError `VALUE_INVALID` for a value that is not an object, and for an unknown name.
 * @example
 * const options: { readonly maxRecords?: number } = { maxRecords: 1_000 };
 * requireOptions("openPool", options, { maxRecords: true } satisfies OptionNames<typeof options>);
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
    hint: `Correct the name, or remove the option. The options are: ${names.join(", ")}.`,
  });
}

/**
 * Copies options, including those that `options` inherits from a class or prototype. A copy made with `{ ...options }`
 * would lack the inherited options.
 *
 * @param known the name of every option.
 */
export function copyOptions<Options extends object>(options: Options, known: OptionNames<Options>): Options {
  const copy = { ...options };
  for (const name of Object.keys(known)) if (name in options) Reflect.set(copy, name, Reflect.get(options, name));
  return copy;
}

/**
 * Checks that the value of an option is one of `words`.
 *
 * @throws KeywardError `VALUE_INVALID` if `given` is not one of `words`.
 */
export function requireOneOf(name: string, given: unknown, words: readonly string[]): void {
  if (words.some((word) => word === given)) return;
  const all = words.map((word) => `"${word}"`).join(", ");
  const shown = typeof given === "string" ? JSON.stringify(given) : `of type ${given === null ? "null" : typeof given}`;
  throw new KeywardError("VALUE_INVALID", `${name} is ${shown}, but must be one of ${all}`, {
    hint: `Set ${name} to one of ${all}.`,
  });
}

/**
 * Checks that the value of an option is an object or a class that has all `methods`.
 *
 * @throws KeywardError `VALUE_INVALID` if `given` is neither an object nor a class, or lacks one of `methods`.
 */
export function requireMethods(name: string, given: unknown, methods: readonly string[], hint: string): void {
  const isObject = (typeof given === "object" || typeof given === "function") && given !== null;
  const missing = methods.filter((method) => !isObject || typeof Reflect.get(given, method) !== "function");
  if (missing.length === 0) return;
  const shown = `${given === null ? "null" : `of type ${typeof given}`}, and lacks ${missing.map((method) => `${method}()`).join(" and ")}`;
  throw new KeywardError("VALUE_INVALID", `${name} is ${shown}`, { hint });
}
