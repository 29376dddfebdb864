import { setTimeout as sleep } from "node:timers/promises";
import { createKeyv, EncryptedStore, Keyring, type KeywardKeyv } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import { startRedisServer } from "./redis-server.ts";
import { quantile } from "./rounds.ts";
import { sampleRecords } from "./sample-records.ts";

/** Durations of single reads, with and without lazy re-encryption: medians over the chunks. */
export interface LazyFigures {
  /** Rate of the reads, in words. */
  readonly load: string;
  readonly reads: number;
  readonly offNs: { readonly p50: number; readonly p99: number };
  readonly onNs: { readonly p50: number; readonly p99: number };
}

export const lazyName = "get of records under the old key, Redis";

const chunkReads = 2_500;
const fillBatch = 500;

/**
 * Reads records of 1 KiB under the old key, each once. Chunks of reads with lazy re-encryption alternate with chunks
 * without. Lazy re-encryption finishes before the next chunk begins.
 *
 * @param pauseMs Pause between two reads, in milliseconds. 0 for no pause.
 */
export async function measureLazyReads(program: string, chunks: number, pauseMs: number): Promise<LazyFigures> {
  const server = await startRedisServer(program);
  const old = Keyring.generate("old");
  const ring = old.add({ id: "new" }).promote("new");
  const store = new RedisStore(server.url);
  try {
    const variant = async (reencrypt: "off" | "on-read") => {
      const filled = new EncryptedStore(store.namespaced(reencrypt), { keys: old });
      const records = sampleRecords(1024, { count: chunks * chunkReads });
      for (let first = 0; first < records.length; first += fillBatch) {
        const entries = records.slice(first, first + fillBatch).map(({ address, text }) => ({
          key: address.key,
          value: JSON.stringify({ value: JSON.parse(text) }),
        }));
        await filled.setMany(entries);
      }
      return new Reader(
        store,
        reencrypt,
        ring,
        records.map(({ address }) => address.key),
      );
    };
    const off = await variant("off");
    const on = await variant("on-read");
    for (let chunk = 0; chunk < chunks; chunk++) {
      const order = Math.random() < 0.5 ? [off, on] : [on, off];
      for (const reader of order) await reader.read(chunkReads, pauseMs);
    }
    return {
      load: pauseMs === 0 ? "one after the other" : `one every ${pauseMs} ms`,
      reads: chunks * chunkReads,
      offNs: off.quantiles(),
      onNs: on.quantiles(),
    };
  } finally {
    await store.disconnect();
    await server.stop();
  }
}

class Reader {
  readonly #keyv: KeywardKeyv;
  readonly #keys: readonly string[];
  readonly #chunks: { readonly p50: number; readonly p99: number }[] = [];
  #next = 0;

  constructor(store: RedisStore, reencrypt: "off" | "on-read", keys: Keyring, recordKeys: readonly string[]) {
    this.#keyv = createKeyv({ store, namespace: reencrypt, keys, reencrypt });
    this.#keys = recordKeys;
  }

  async read(count: number, pauseMs: number): Promise<void> {
    const samplesNs: number[] = [];
    for (const key of this.#keys.slice(this.#next, this.#next + count)) {
      if (pauseMs > 0) await sleep(pauseMs);
      const startNs = process.hrtime.bigint();
      const value = await this.#keyv.get(key);
      samplesNs.push(Number(process.hrtime.bigint() - startNs));
      if (value === undefined) throw new Error("A record is gone");
    }
    this.#next += count;
    this.#chunks.push({ p50: quantile(samplesNs, 0.5), p99: quantile(samplesNs, 0.99) });
    await this.#keyv.encryptedStore.settled();
  }

  /**
   * Medians over the chunks, which ignore a chunk in which the machine was busy. The first chunk only compiles the
   * code.
   */
  quantiles(): { p50: number; p99: number } {
    const chunks = this.#chunks.slice(1);
    const over = (name: "p50" | "p99") =>
      quantile(
        chunks.map((chunk) => chunk[name]),
        0.5,
      );
    return { p50: over("p50"), p99: over("p99") };
  }
}
