import type { StoredValue } from "@keyward/core";
import type { KvLimits } from "./limits.ts";
import type { RequestMemory } from "./memory-budget.ts";
import type { NamespaceRecords, RecordReplacement } from "./namespace-records.ts";
import { ReadSize } from "./read-size.ts";
import type { StoredRecord } from "./stored-record.ts";
import { tagInTurns } from "./values.ts";

/**
 * A replacement of a value. The client sends the entity tag of the expected value instead of the expected value itself.
 */
export interface TaggedReplacement {
  readonly key: string;
  /** The replacement is done only if the stored value has this entity tag. `undefined`: only if there is no record. */
  readonly expected: string | undefined;
  readonly next: StoredValue;
  /** When the record expires, in milliseconds since the epoch; `null` for never. `undefined`: the record keeps its expiry. */
  readonly expires: number | null | undefined;
}

/** How often the server tries a replacement if other requests change the record after the server has read it. */
const maxAttempts = 16;

/**
 * Replaces each value that has the expected entity tag, in the order of `changes`. Returns, for each change, whether
 * the value was replaced.
 *
 * To compare the tags, the server reads the stored values. If the stored values need more bytes than `maxAnswerBytes`
 * or than the free memory, the server tries only the changes at the beginning of `changes`, at least one. The returned
 * list then ends with the result of the last change that the server tried.
 *
 * @throws Refusal `NOT_ATOMIC` if the store cannot replace a value atomically; `OVERLOADED` if the free part of
 * `maxBytesInMemory` is too little for the first values. After `OVERLOADED`, no value was replaced.
 */
export async function replaceTagged(
  records: NamespaceRecords,
  changes: readonly TaggedReplacement[],
  { limits, memory }: { readonly limits: KvLimits; readonly memory: RequestMemory },
): Promise<boolean[]> {
  records.requireAtomic();
  const size = new ReadSize(limits, memory);
  const results: boolean[] = [];
  let bytes = 0;
  while (results.length < changes.length && bytes < limits.maxAnswerBytes) {
    const { batch, keys, found } = await size.reading(async (count) => {
      const batch = changes.slice(results.length, results.length + count);
      const keys = [...new Set(batch.map(({ key }) => key))];
      return { batch, keys, found: await records.getRecords(keys) };
    });
    const foundBytes = found.reduce((sum, record) => sum + (record?.value.length ?? 0), 0);
    if (results.length === 0) memory.reserve(foundBytes);
    else if (!memory.tryReserve(foundBytes)) break;
    const current = new Map(keys.map((key, index) => [key, found[index]]));
    results.push(...(await replaceBatch(records, batch, current, memory)));
    bytes += foundBytes;
    size.adapt(foundBytes);
  }
  return results;
}

async function replaceBatch(
  records: NamespaceRecords,
  changes: readonly TaggedReplacement[],
  current: Map<string, StoredRecord | undefined>,
  memory: RequestMemory,
): Promise<boolean[]> {
  const done = changes.map(() => false);
  let open = [...changes.keys()];
  for (let attempt = 1; open.length > 0; attempt++) {
    const refused = await replaceOnce(records, changes, open, current, done);
    if (refused.size === 0 || attempt === maxAttempts) break;
    // Another request wrote in between. It may have written the same value, or only another expiry, which is no reason
    // to refuse the change. Later changes of the same key are tried again too.
    // But no change is tried after a later change of its key was done, since changes are done in order.
    const lastDone = new Map(open.filter((index) => done[index]).map((index) => [changes[index]?.key ?? "", index]));
    const again = new Set<string>();
    open = open.filter((index) => {
      const key = changes[index]?.key ?? "";
      if (index < (lastDone.get(key) ?? 0)) return false;
      if (refused.has(index)) again.add(key);
      return done[index] === false && again.has(key);
    });
    for (const key of again) {
      const [record] = await records.getRecords([key]);
      if (!memory.tryReserve(record?.value.length ?? 0)) return done;
      current.set(key, record);
    }
  }
  return done;
}

/** Tries the changes at the positions in `open` once. Returns the positions of the changes that the store refused. */
async function replaceOnce(
  records: NamespaceRecords,
  changes: readonly TaggedReplacement[],
  open: readonly number[],
  current: Map<string, StoredRecord | undefined>,
  done: boolean[],
): Promise<ReadonlySet<number>> {
  // If the value that was read has another tag, it was not the expected one at that moment, and the change is refused.
  // If it has the tag, the store compares the whole value once more, in the same step in which it writes.
  const tags = new Map<string, string | undefined>();
  const possible: (RecordReplacement & { readonly index: number })[] = [];
  for (const index of open) {
    const change = changes[index];
    if (change === undefined) continue;
    const { key, expected, next, expires } = change;
    const stored = current.get(key);
    if (!tags.has(key)) tags.set(key, stored === undefined ? undefined : await tagInTurns(stored.value));
    if (tags.get(key) !== expected) continue;
    const successor = records.successorOf(stored, next, expires);
    possible.push({ index, key, expected: stored, next: successor, setsExpiry: expires !== undefined });
    // A change with a time in the past removes the record.
    const removes = typeof expires === "number" && expires <= Date.now();
    current.set(key, removes ? undefined : successor);
    tags.set(key, removes ? undefined : await tagInTurns(next));
  }
  const replaced = await records.replaceMany(possible);
  const refused = new Set<number>();
  for (const [at, { index }] of possible.entries()) {
    if (replaced[at] === true) done[index] = true;
    else refused.add(index);
  }
  return refused;
}
