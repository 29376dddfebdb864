/** Returns random numbers of at least 0 and less than 1. */
export type Random = () => number;

/** Returns a generator of numbers that are the same for the same seed (mulberry32). */
export function randomFrom(start: number): Random {
  let state = start;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Returns a random integer of at least 0 and less than `end`. */
export function below(random: Random, end: number): number {
  return Math.floor(random() * end);
}

/** Returns a random item. */
export function pick<Item>(random: Random, items: readonly Item[]): Item {
  const item = items[below(random, items.length)];
  if (item === undefined) throw new Error("There are no items to pick from");
  return item;
}
