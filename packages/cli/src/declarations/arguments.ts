import { InvalidArgumentError } from "commander";

/** Adds the value of a flag that may be repeated to its earlier values. */
export function collect(text: string, texts: readonly string[] = []): readonly string[] {
  return [...texts, text];
}

/**
 * Reads a number of things, which is a positive integer.
 *
 * @throws InvalidArgumentError for any other text.
 */
export function readAmount(text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("The value is not a positive integer.");
}

/** Returns a function that reads an integer from `least` to `most`, and throws InvalidArgumentError for any other text. */
export function amountBetween(least: number, most: number): (text: string) => number {
  return (text) => {
    const amount = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (amount >= least && amount <= most) return amount;
    throw new InvalidArgumentError(`The value is not an integer between ${least} and ${most}.`);
  };
}
