import type { Variant } from "./rounds.ts";

/** A task that several variants can do with values of one size. */
export interface Task {
  /** Name of the operation. Tasks of the same name and different sizes are in one table. */
  readonly name: string;
  readonly sizeBytes: number;
  /** Prepares the variants. The others are compared with the first. */
  prepare(): Promise<PreparedTask>;
}

/** A task that is ready to be measured. */
export interface PreparedTask {
  readonly variants: readonly Variant[];
  /** Releases the stores and servers of the task. */
  close(): Promise<void>;
}

/** Returns an operation that uses the next item in each call, and starts again after the last. */
export function inTurn<Item>(items: readonly Item[], operation: (item: Item) => unknown): () => unknown {
  let next = 0;
  return () => {
    const item = items[next];
    next = next + 1 === items.length ? 0 : next + 1;
    return item === undefined ? undefined : operation(item);
  };
}
