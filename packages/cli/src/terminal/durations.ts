import { InvalidArgumentError } from "commander";

const unitsMs = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

// A time this far in the future is still a safe integer in milliseconds and a valid date.
const longestMs = 100_000 * 365 * unitsMs.d;

/**
 * Reads a duration such as `90s`, `10m`, `36h` or `7d`, and returns it in milliseconds.
 *
 * @throws InvalidArgumentError for any other text, and for a duration that is too long to be counted in milliseconds.
 */
export function readDuration(text: string): number {
  const [, amount, unit] = /^(\d+)(ms|s|m|h|d)$/.exec(text) ?? [];
  const found = Object.entries(unitsMs).find(([name]) => name === unit);
  if (amount === undefined || found === undefined) {
    throw new InvalidArgumentError("A duration is a number and a unit: 90s, 10m, 36h or 7d.");
  }
  const durationMs = Number(amount) * found[1];
  if (durationMs <= longestMs) return durationMs;
  throw new InvalidArgumentError("The duration is longer than 100,000 years.");
}

/**
 * Returns how long ago a time was, such as `2d 3h`. `timeMs` is in milliseconds since the epoch. Returns `0ms` for a future
 * time.
 */
export function shownSince(timeMs: number): string {
  return shownDuration(Math.max(0, Date.now() - timeMs));
}

/** Returns a duration as text in at most two units, such as `2d 3h`, `4m 5s` or `600ms`. */
export function shownDuration(durationMs: number): string {
  if (durationMs < 1_000) return `${Math.round(durationMs)}ms`;
  let restMs = durationMs;
  const parts: string[] = [];
  for (const [unit, unitMs] of Object.entries(unitsMs).reverse()) {
    const count = Math.floor(restMs / unitMs);
    restMs -= count * unitMs;
    if (count > 0 && unit !== "ms" && parts.length < 2) parts.push(`${count}${unit}`);
  }
  return parts.join(" ");
}
