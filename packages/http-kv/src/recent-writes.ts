import type { Answer } from "./exchange.ts";
import { headers, invalid, Refusal } from "./protocol.ts";

interface NamespaceWrites {
  readonly writes: Map<string, Write>;
  bytes: number;
  /** When the last write began that was forgotten. */
  forgottenMs: number;
}

interface Write {
  /** The digest of what was asked for. */
  readonly request: string;
  readonly answer: Promise<Answer>;
  readonly atMs: number;
  bytes: number;
  /** Whether an attempt failed so that nobody knows whether it was done: the next one is made all the same. */
  uncertain: boolean;
}

const keptMs = 5 * 60_000;
const maxBytesPerNamespace = 8 * 2 ** 20;
const bytesPerWrite = 512;

/**
 * Does a write once, however often it is sent: a client that lost the answer sends it again, and one that was held up
 * on its way may arrive after a later write, which it must not undo. Kept for five minutes and 8 MiB for each area, in
 * this process.
 */
export class RecentWrites {
  readonly #namespaces = new Map<string, NamespaceWrites>();

  /** Whether every write is known that began after this time of `performance.now()`. */
  knowsSince(tenantNamespace: string, timeMs: number): boolean {
    return (this.#namespaces.get(tenantNamespace)?.forgottenMs ?? Number.NEGATIVE_INFINITY) < timeMs;
  }

  /**
   * @param request a digest of all that the write does: a name stands for one write.
   * @param sinceMs when the client last had an answer before it first sent the write, if it says so.
   * @param write is told whether an earlier attempt failed here, and may have been done all the same.
   * @throws Refusal `REQUEST_INVALID` for a name that stands for another write; `MISDIRECTED` for a write that may have been done and forgotten: a later one could be undone.
   */
  async once(
    tenantNamespace: string,
    {
      idempotencyKey,
      request,
      sinceMs,
    }: { readonly idempotencyKey: string; readonly request: string; readonly sinceMs: number | undefined },
    write: (mayHaveBeenDone: boolean) => Promise<Answer>,
  ): Promise<Answer> {
    const kept = this.#namespaces.get(tenantNamespace) ?? {
      writes: new Map(),
      bytes: 0,
      forgottenMs: Number.NEGATIVE_INFINITY,
    };
    this.#namespaces.set(tenantNamespace, kept);
    const { writes } = kept;
    const known = writes.get(idempotencyKey);
    if (known !== undefined && known.request !== request) {
      throw invalid(`The ${headers.idempotencyKey} is that of another request: each write needs a new one`);
    }
    if (known?.uncertain === false) return await known.answer;
    if (known === undefined && sinceMs !== undefined && !this.knowsSince(tenantNamespace, sinceMs)) {
      throw new Refusal("MISDIRECTED", "The server may have done this, and forgotten it");
    }

    const forget = (id: string, { bytes }: Write) => {
      if (writes.delete(id)) kept.bytes -= bytes;
    };
    for (const [id, old] of writes) {
      if (performance.now() - old.atMs < keptMs && kept.bytes < maxBytesPerNamespace) break;
      forget(id, old);
      kept.forgottenMs = old.atMs;
    }
    const failedBefore = known !== undefined;
    if (failedBefore) forget(idempotencyKey, known);
    const entry: Write = {
      request,
      answer: write(failedBefore),
      atMs: performance.now(),
      bytes: bytesPerWrite,
      uncertain: false,
    };
    writes.set(idempotencyKey, entry);
    kept.bytes += entry.bytes;
    try {
      const answer = await entry.answer;
      if (writes.get(idempotencyKey) === entry) {
        const bytes = typeof answer.body === "string" ? answer.body.length : 0;
        entry.bytes += bytes;
        kept.bytes += bytes;
      }
      return answer;
    } catch (error) {
      // The next attempt tries. A refusal did nothing; after all else it must be known that this one may have been done.
      entry.uncertain = failedBefore || !(error instanceof Refusal);
      if (!entry.uncertain && writes.get(idempotencyKey) === entry) forget(idempotencyKey, entry);
      throw error;
    }
  }
}
