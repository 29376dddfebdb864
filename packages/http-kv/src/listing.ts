import { type Answer, pieceBytes } from "./exchange.ts";
import type { KvLimits } from "./limits.ts";
import type { RequestMemory } from "./memory-budget.ts";
import type { NamespaceRecords } from "./namespace-records.ts";

/** What a listing works with. */
interface ListingContext {
  readonly limits: KvLimits;
  /** What the request holds in memory. */
  readonly memory: RequestMemory;
  /** Told of what goes wrong after the answer has begun. */
  readonly failed: (error: unknown) => void;
}

/** About what the iterator of a store reads ahead, and keeps while the client does not read. */
const iteratedBytes = 2 * 2 ** 20;

/**
 * The keys as JSON, sent as the store finds them: a bare list, as unstorage has it, or the answer of the operation.
 *
 * @throws Refusal `OVERLOADED`; `NOT_SCANNABLE`.
 */
export async function listing(
  records: NamespaceRecords,
  form: "list" | "operation",
  prefix: string,
  { limits, memory, failed }: ListingContext,
): Promise<Answer> {
  memory.reserve(Math.min(iteratedBytes, limits.maxValueBytes));
  const keys = records.keys();
  // A store that cannot be listed says so here, while there still is a status to answer with.
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
      // The connection breaks, so that nobody takes a part of the list for the whole.
      throw error;
    } finally {
      await keys.return(undefined);
    }
  }
  return { status: 200, headers: { "content-type": "application/json" }, body: json() };
}
