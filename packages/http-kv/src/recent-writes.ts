import type { Answer } from "./exchange.ts";
import { headers, invalid, Refusal } from "./protocol.ts";

interface NamespaceWrites {
  readonly writes: Map<string, Write>;
  bytes: number;
  /** The time at which the last forgotten write began, by `performance.now()`. */
  forgottenMs: number;
}

interface Write {
  /** The digest of the request. */
  readonly request: string;
  readonly answer: Promise<Answer>;
  readonly atMs: number;
  bytes: number;
  /** Whether an attempt failed with an unknown outcome. If so, the next attempt does the write again. */
  uncertain: boolean;
}

const keptMs = 5 * 60_000;
const maxBytesPerNamespace = 8 * 2 ** 20;
const bytesPerWrite = 512;

/**
 * Remembers the recent writes of this process by their idempotency keys. So a write is done only once, even if a client
 * sends it again because the answer was lost. A delayed attempt that arrives after a later write does not undo the
 * later write.
 *
 * Each write is remembered for five minutes. If the answers of a tenant namespace need more than 8 MiB, the oldest
 * writes are forgotten earlier.
 */
export class RecentWrites {
  readonly #namespaces = new Map<string, NamespaceWrites>();

  /**
   * Returns whether this process still remembers every write that began after `timeMs` in a tenant namespace. `timeMs`
   * is a time by `performance.now()`.
   */
  knowsSince(tenantNamespace: string, timeMs: number): boolean {
    return (this.#namespaces.get(tenantNamespace)?.forgottenMs ?? Number.NEGATIVE_INFINITY) < timeMs;
  }

  /**
   * Does a write, or returns the answer to an earlier attempt with the same idempotency key.
   *
   * @param idempotencyKey the random key that the client sends with each attempt of the write.
   * @param request a digest of the whole request. All attempts with the same idempotency key must have the same digest.
   * @param sinceMs time at which this process made the token that the client sent in the header `x-server`, or
   * `undefined` if the client sent no token.
   * @param write function that does the write. The argument of `write` is true if an earlier attempt in this process
   * threw an error, but may have done the write.
   * @throws Refusal `REQUEST_INVALID` if the idempotency key belongs to another request; `MISDIRECTED` if this process
   * may have done the write before and has forgotten it, because doing the write again could undo a later write; an
   * error that `write` throws.
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
      throw invalid(
        `Another request had this ${headers.idempotencyKey}. Send a new ${headers.idempotencyKey} with each new write`,
      );
    }
    if (known?.uncertain === false) return await known.answer;
    if (known === undefined && sinceMs !== undefined && !this.knowsSince(tenantNamespace, sinceMs)) {
      throw new Refusal("MISDIRECTED", "The server may have done this write before, and has forgotten its outcome");
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
      // The next attempt does the write again. A refused attempt did nothing. After any other error, this attempt may be done.
      entry.uncertain = failedBefore || !(error instanceof Refusal);
      if (!entry.uncertain && writes.get(idempotencyKey) === entry) forget(idempotencyKey, entry);
      throw error;
    }
  }
}
