import { setTimeout as sleep } from "node:timers/promises";
import {
  type Checkpoint,
  census,
  EncryptedStore,
  type RangedStore,
  type Replacement,
  rangesOf,
  reencrypt,
  type ScanPage,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { rotation } from "../rings.ts";

const targetBytes = 2 * 1024 * 1024;

interface Page {
  readonly limit: number;
  readonly records: number;
  readonly bytes: number;
  readonly atMs: number;
  /** Number of bytes that had been read and not yet written when the page was requested. */
  readonly bytesInProgress: number;
}

/** Logs the scans of a memory store, and can make its replacements slow. */
class LoggingStore extends MemoryStore {
  readonly scans: Page[] = [];
  msPerReplacement = 0;
  #bytesInProgress = 0;

  /** Clears the log, because the first write to a store also scans the store. */
  forget(): void {
    this.scans.length = 0;
    this.#bytesInProgress = 0;
  }

  override namespaced(): MemoryStore {
    return this;
  }

  override async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    const page = await super.scan(options);
    const bytes = page.entries.reduce((sum, { value }) => sum + value.length, 0);
    this.scans.push({
      limit: options.limit ?? 0,
      records: page.entries.length,
      bytes,
      atMs: performance.now(),
      bytesInProgress: this.#bytesInProgress,
    });
    this.#bytesInProgress += bytes;
    return page;
  }

  override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    await sleep(this.msPerReplacement * changes.length);
    const replaced = await super.replaceMany(changes);
    this.#bytesInProgress -= changes.reduce((sum, { expected }) => sum + (expected?.length ?? 0), 0);
    return replaced;
  }
}

/** Returns a store to re-encrypt, with values of these sizes in bytes. */
async function rotated<Store extends MemoryStore>(inner: Store, sizes: readonly number[]) {
  const rings = rotation();
  const writer = new EncryptedStore(inner, { keys: rings.before });
  await writer.setMany(sizes.map((size, index) => ({ key: `key ${index}`, value: new Uint8Array(size) })));
  const store = new EncryptedStore(inner, { keys: rings.promoted });
  if (inner instanceof LoggingStore) inner.forget();
  const expectMoved = async () => {
    expect((await census(inner)).keys).toEqual(new Map([["new", sizes.length]]));
  };
  return { inner, store, expectMoved };
}

function sizes(count: number, bytes: number): number[] {
  return new Array<number>(count).fill(bytes);
}

function memoryCheckpoint(): Checkpoint & { text: string | undefined } {
  return {
    text: undefined,
    async read() {
      return this.text;
    },
    async write(text) {
      this.text = text;
    },
  };
}

describe("a page of a bulk re-encryption", () => {
  it("has 16 records at first, and grows to batchSize if the records are small", async () => {
    const { inner, store, expectMoved } = await rotated(new LoggingStore(), sizes(700, 100));
    // Pages also shrink if they take long, as on a busy machine.
    vi.useFakeTimers({ toFake: ["performance"] });
    onTestFinished(() => {
      vi.useRealTimers();
    });
    await reencrypt(store, { batchSize: 200 });
    expect(inner.scans.map(({ limit }) => limit)).toEqual([16, 32, 64, 128, 200, 200, 200]);
    await expectMoved();
    const first = inner.scans.length;
    await census(inner, { batchSize: 50 });
    expect(inner.scans.slice(first, first + 3).map(({ limit }) => limit)).toEqual([16, 32, 50]);
  });

  it.each([300_000, 1_500_000])("has about 2 MiB in total if each record has %d bytes", async (size) => {
    const { inner, store, expectMoved } = await rotated(new LoggingStore(), sizes(40, size));
    inner.msPerReplacement = 1;
    await reencrypt(store);
    const [, ...later] = inner.scans;
    expect(later.length).toBeGreaterThan(3);
    for (const { bytes } of later) expect(bytes).toBeLessThan(targetBytes + 1);
    await expectMoved();
    const counted = inner.scans.length;
    await census(inner);
    for (const { bytes } of inner.scans.slice(counted + 1)) expect(bytes).toBeLessThan(targetBytes + 1);
  });

  it("has fewer records while they are large and more when they are small again, and is not read while many bytes of earlier pages are unwritten", async () => {
    const mixed = [...sizes(1_100, 10), ...sizes(600, 40_000), ...sizes(2_000, 10)];
    const { inner, store, expectMoved } = await rotated(new LoggingStore(), mixed);
    inner.msPerReplacement = 0.01;
    await reencrypt(store, { concurrency: 4 });
    const heaviest = inner.scans.reduce((most, { bytes }) => Math.max(most, bytes), 0);
    // The first page of large records cannot be predicted, and a mixed page predicts little about the next.
    expect(heaviest).toBeGreaterThan(3 * targetBytes);
    expect(inner.scans.filter(({ bytes }) => bytes > 1.5 * targetBytes).length).toBeLessThanOrEqual(2);
    for (const { bytesInProgress } of inner.scans) expect(bytesInProgress).toBeLessThanOrEqual(3 * targetBytes);
    expect(inner.scans.at(-1)?.limit).toBeGreaterThan(200);
    await expectMoved();
  });

  it("has fewer records if the re-encryption of earlier pages takes long", async () => {
    const { inner, store, expectMoved } = await rotated(new LoggingStore(), sizes(300, 10));
    inner.msPerReplacement = 10;
    await reencrypt(store, { concurrency: 1 });
    for (const { limit } of inner.scans) expect(limit).toBeLessThanOrEqual(100);
    await expectMoved();
  });
});

describe("maxPerSecond", () => {
  it("is never exceeded during a re-encryption, from the first record to the last", async () => {
    const { inner, store, expectMoved } = await rotated(new LoggingStore(), sizes(450, 10));
    const maxPerSecond = 150;
    const startedAtMs = performance.now();
    const report = await reencrypt(store, { maxPerSecond });
    let looked = 0;
    for (const { records, atMs, limit } of inner.scans) {
      // Earlier records have used up their time. A timer may fire a millisecond early.
      expect(looked).toBeLessThanOrEqual(((atMs - startedAtMs + 2) / 1_000) * maxPerSecond);
      expect(limit).toBeLessThanOrEqual(maxPerSecond);
      looked += records;
    }
    expect(looked).toBe(450);
    expect(report.complete).toBe(true);
    await expectMoved();
  });

  it("is not exceeded to catch up after the store was slow for a while", async () => {
    const { inner, store } = await rotated(new LoggingStore(), sizes(120, 10));
    const scan = inner.scan.bind(inner);
    vi.spyOn(inner, "scan").mockImplementationOnce(async (options) => {
      await sleep(600);
      return await scan(options);
    });
    await reencrypt(store, { maxPerSecond: 100 });
    const [first, ...later] = inner.scans;
    const last = later.at(-1);
    if (first === undefined || last === undefined) throw new Error("Nothing was walked");
    const looked = 120 - last.records;
    expect(last.atMs - first.atMs).toBeGreaterThanOrEqual((looked / 100) * 1_000 - 2 * inner.scans.length);
  });

  it("does not delay the stop of a job whose signal is aborted, and the next run continues where the job stopped", async () => {
    // A store may return more records than requested.
    class GenerousStore extends LoggingStore {
      override scan(options: { readonly cursor?: string } = {}): Promise<ScanPage> {
        return super.scan({ ...options, limit: 2_000 });
      }
    }
    const { inner, store, expectMoved } = await rotated(new GenerousStore(), sizes(4_000, 1));
    const checkpoint = memoryCheckpoint();
    const stop = new AbortController();
    // The first page uses up half an hour.
    const stopped = reencrypt(store, { maxPerSecond: 1, checkpoint, signal: stop.signal });
    await vi.waitFor(() => expect(checkpoint.text).toBeDefined(), 20_000);
    stop.abort();
    expect(await stopped).toMatchObject({ complete: false, scanned: 2_000, reencrypted: 2_000 });
    expect(await reencrypt(store, { checkpoint })).toMatchObject({ complete: true, scanned: 4_000, current: 0 });
    expect(inner.scans.reduce((sum, { records }) => sum + records, 0)).toBe(4_000);
    await expectMoved();
  });

  it("is refused, before any record is changed, if it is not a positive integer", async () => {
    const { inner, store } = await rotated(new LoggingStore(), [1]);
    for (const maxPerSecond of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      await expectRefusal(reencrypt(store, { maxPerSecond }), "VALUE_INVALID");
    }
    expect(inner.scans).toEqual([]);
  });

  it("leaves no listener on the abort signal when the re-encryption is done", async () => {
    const { store } = await rotated(new LoggingStore(), sizes(60, 10));
    const { signal } = new AbortController();
    const added = vi.spyOn(signal, "addEventListener");
    const removed = vi.spyOn(signal, "removeEventListener");
    onTestFinished(() => {
      vi.restoreAllMocks();
    });
    await reencrypt(store, { maxPerSecond: 1_000, signal });
    expect(removed.mock.calls.length).toBe(added.mock.calls.length);
  });
});

/** A memory store whose ranges divide the records by the last digit of their keys. */
class DividedStore extends MemoryStore implements RangedStore {
  override namespaced(): MemoryStore {
    return this;
  }

  async ranges(count: number): Promise<readonly string[]> {
    return count < 2 ? ["0123456789"] : ["01234", "56789"];
  }

  override async scan(
    options: { readonly cursor?: string; readonly limit?: number; readonly range?: string } = {},
  ): Promise<ScanPage> {
    const { range = "0123456789", ...rest } = options;
    const page = await super.scan(rest);
    return { ...page, entries: page.entries.filter(({ key }) => range.includes(key.at(-1) ?? "")) };
  }
}

describe("a range of a store", () => {
  it("limits a re-encryption to the records of the range", async () => {
    const { inner, store, expectMoved } = await rotated(new DividedStore(), sizes(100, 10));
    const ranges = await rangesOf(store, 8);
    expect(ranges).toEqual(["01234", "56789"]);
    const [low = "", high = ""] = ranges;
    expect(await reencrypt(store, { range: low })).toMatchObject({ scanned: 50, reencrypted: 50, complete: true });
    expect((await census(inner)).keys.get("old")).toBe(50);
    expect(await reencrypt(store, { range: high })).toMatchObject({ scanned: 50, reencrypted: 50, complete: true });
    await expectMoved();
  });

  it("is re-encrypted from its beginning if the checkpoint is for another range", async () => {
    const { store, expectMoved } = await rotated(new DividedStore(), sizes(100, 10));
    const [low = "", high = ""] = ["01234", "56789"];
    const checkpoint = memoryCheckpoint();
    const stop = new AbortController();
    const stopped = { concurrency: 1, signal: stop.signal, onProgress: () => stop.abort() };
    await reencrypt(store, { range: low, checkpoint, ...stopped });
    const left = checkpoint.text;
    expect(left).toBeDefined();
    // If the checkpoint of another range counted, the records before it would be skipped.
    expect(await reencrypt(store, { range: high, checkpoint })).toMatchObject({ scanned: 50 });
    checkpoint.text = left;
    expect(await reencrypt(store, { range: low, checkpoint })).toMatchObject({ scanned: 50, current: 0 });
    checkpoint.text = left;
    expect(await reencrypt(store, { checkpoint })).toMatchObject({ scanned: 100, current: 100 });
    await expectMoved();
  });

  it("is refused by reencrypt if the store cannot be divided, and rangesOf returns [undefined] for such a store", async () => {
    const { store } = await rotated(new MemoryStore(), [1]);
    expect(await rangesOf(store, 8)).toEqual([undefined]);
    await expectRefusal(reencrypt(store, { range: "01234" }), "VALUE_INVALID");
    for (const count of [0, 1.5, Number.NaN]) await expectRefusal(rangesOf(store, count), "VALUE_INVALID");
  });
});
