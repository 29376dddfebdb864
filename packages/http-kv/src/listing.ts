import { type Answer, pieceBytes } from "./exchange.ts";
import type { KvLimits } from "./limits.ts";
import type { RequestMemory } from "./memory-budget.ts";
import type { NamespaceRecords } from "./namespace-records.ts";

/** The data that the server needs to answer a request that lists keys. */
interface ListingContext {
  readonly limits: KvLimits;
  /** The memory that the request has reserved. */
  readonly memory: RequestMemory;
  /** Called with an error that happens after the answer has begun. */
  readonly failed: (error: unknown) => void;
}

/** About how many bytes a store's iterator reads ahead, and keeps in memory while the client does not read the answer. */
const iteratedBytes = 2 * 2 ** 20;

/**
 * Returns an answer that lists all keys of records with a prefix, as JSON. The server begins to send the answer before
 * the store has found all keys.
 *
 * @param form "list" for a JSON list, which unstorage expects; "operation" for the object that the operation `list`
 * returns.
 * @throws Refusal `OVERLOADED` if too little of `maxBytesInMemory` is free; `NOT_SCANNABLE` if the store cannot list
 * its keys.
 */
export async function listing(
  records: NamespaceRecords,
  form: "list" | "operation",
  prefix: string,
  { limits, memory, failed }: ListingContext,
): Promise<Answer> {
  memory.reserve(Math.min(iteratedBytes, limits.maxValueBytes));
  const keys = records.keys();
  // If the store cannot list its keys, this throws, while the answer can still have another status.
  const first = await keys.next();
  async function* json(): AsyncGenerator<Uint8Array> {
    try {
      let text = form === "list" ? "[" : '{"keys":[';
      let separator = "";
      for (let each = first; each.done !== true; each = await keys.next()) {
        if (!each.value.startsWith(prefix)) continue;
        text += `${separator}${JSON.stringify(each.value)}`;
        separator = ",";
        if (text.length < pieceBytes / 4) continue;
        yield Buffer.from(text);
        text = "";
      }
      yield Buffer.from(`${text}${form === "list" ? "]" : "]}"}`);
    } catch (error) {
      failed(error);
      // The connection breaks, so that no client mistakes a part of the list for the whole.
      throw error;
    } finally {
      await keys.return(undefined);
    }
  }
  return { status: 200, headers: { "content-type": "application/json" }, body: json() };
}
