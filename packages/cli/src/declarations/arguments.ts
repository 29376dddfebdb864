import { InvalidArgumentError } from "commander";

/** Adds the value of a flag that may be repeated to its earlier values. */
export function collect(text: string, texts: readonly string[] = []): readonly string[] {
  return [...texts, text];
}

/**
 * Reads a positive integer of at most nine digits.
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

const day = /^\d{4}-\d\d-\d\d$/;
const moment = /^\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:\d\d)$/;

/**
 * Reads a day or a time in RFC 3339, and returns the time in RFC 3339 and UTC.
 *
 * @throws InvalidArgumentError for any other text.
 */
export function readTime(text: string): string {
  // `Date.parse` takes 2026-02-31 for the third of March.
  const date = text.slice(0, 10);
  const isDate = day.test(date) && new Date(Date.parse(date) || 0).toISOString().startsWith(date);
  const time = isDate && (day.test(text) || moment.test(text)) ? Date.parse(text) : Number.NaN;
  if (Number.isNaN(time)) throw new InvalidArgumentError("A time is 2030-01-31 or 2030-01-31T12:00:00Z.");
  return new Date(time).toISOString();
}

/**
 * Reads a time as {@link readTime} does.
 *
 * @throws InvalidArgumentError also for a time that has passed.
 */
export function readFutureTime(text: string): string {
  const time = readTime(text);
  if (Date.parse(time) > Date.now()) return time;
  throw new InvalidArgumentError("The time has passed.");
}

/** Reads a list whose items are separated by commas. */
export function readList(text: string): readonly string[] {
  return text.split(",").map((item) => item.trim());
}
