import type { Contestant } from "./rounds.ts";

/** Something that several contestants can do to values of one size. */
export interface Task {
  /** What is done. Tasks of the same name and different sizes stand in one table. */
  readonly name: string;
  readonly sizeBytes: number;
  /** Makes the contestants ready. The first is the one that the others are compared with. */
  prepare(): Promise<PreparedTask>;
}

/** A task ready to be measured. */
export interface PreparedTask {
  readonly contestants: readonly Contestant[];
  /** Releases what was prepared. */
  close(): Promise<void>;
}

/** An operation that takes the next item with each call, and begins again after the last. */
export function inTurn<Item>(items: readonly Item[], operation: (item: Item) => unknown): () => unknown {
  let next = 0;
  return () => {
    const item = items[next];
    next = next + 1 === items.length ? 0 : next + 1;
    return item === undefined ? undefined : operation(item);
  };
}
