import crypto, { randomBytes } from "node:crypto";
import { syncBuiltinESMExports } from "node:module";
import { Worker } from "node:worker_threads";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { seal } from "../../src/envelope/envelope.ts";
import { drawRandom, reseed } from "../../src/envelope/nonces.ts";
import { RootKey } from "../../src/envelope/root-key.ts";
import { openStored } from "../records.ts";

const address = { namespace: "flows", key: "session:42" };
const sessionRecords = 2 ** 20;
const sessionAgeMs = 10 * 60 * 1000;

function draw(root: RootKey, plaintextBytes = 64): Buffer {
  const nonce = Buffer.alloc(24);
  root.drawNonce(nonce, 0, plaintextBytes);
  return nonce;
}

const prefixOf = (nonce: Buffer): string => nonce.toString("hex", 0, 12);

/** Adds each nonce to a set. */
function addAll(seen: Set<string>, nonces: Buffer): void {
  for (let at = 0; at < nonces.length; at += 24) seen.add(nonces.toString("latin1", at, at + 24));
}

function drawInWorker(material: Uint8Array, draws: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./nonce-worker.ts", import.meta.url), { workerData: { material, draws } });
    worker.once("message", (nonces: Uint8Array) => resolve(Buffer.from(nonces)));
    worker.once("error", reject);
    worker.once("exit", (code) => reject(new Error(`The worker exited with code ${code}`)));
  });
}

describe("a nonce", () => {
  it("is never drawn twice in more than 10^6 draws of one process, and changes its prefix after 2^20 draws", () => {
    const root = new RootKey(randomBytes(32));
    const draws = sessionRecords + 1_000;
    const nonces = Buffer.alloc(draws * 24);
    for (let at = 0; at < nonces.length; at += 24) root.drawNonce(nonces, at, 64);
    const seen = new Set<string>();
    addAll(seen, nonces);
    expect(seen.size).toBe(draws);

    const prefixAt = (index: number): string => prefixOf(nonces.subarray(index * 24, index * 24 + 24));
    expect(prefixAt(sessionRecords - 1)).toBe(prefixAt(0));
    expect(prefixAt(sessionRecords)).not.toBe(prefixAt(0));
    expect(prefixAt(draws - 1)).toBe(prefixAt(sessionRecords));
  });

  it("is never drawn twice in 10^6 draws under one key in four threads", async () => {
    const material = randomBytes(32);
    const drawn = await Promise.all([1, 2, 3, 4].map(() => drawInWorker(material, 250_000)));
    const seen = new Set<string>();
    for (const nonces of drawn) addAll(seen, nonces);
    expect(seen.size).toBe(1_000_000);
    expect(new Set(drawn.map(prefixOf)).size).toBe(4);
  });

  it("is in only one of 10^5 envelopes", () => {
    const root = new RootKey(randomBytes(32));
    const seen = new Set<string>();
    for (let index = 0; index < 100_000; index++) {
      const sealed = seal("k", root, address, { value: "v" }, { form: "binary" });
      if (typeof sealed === "string") throw new Error("A string in the binary form");
      addAll(seen, Buffer.from(sealed.subarray(6 + 32, 6 + 32 + 24)));
    }
    expect(seen.size).toBe(100_000);
  });

  it("has another prefix under each key, and in each RootKey object of the same key", () => {
    const material = randomBytes(32);
    const roots = [new RootKey(material), new RootKey(material), new RootKey(randomBytes(32))];
    expect(new Set(roots.map((root) => prefixOf(draw(root)))).size).toBe(3);
  });
});

describe("the session in which a writer keeps a nonce prefix", () => {
  const startMs = Date.UTC(2026, 0, 1);
  beforeEach(() => vi.useFakeTimers({ toFake: ["Date"], now: startMs }));
  afterEach(() => vi.useRealTimers());

  it("gives each nonce the same prefix and a new second half", () => {
    const root = new RootKey(randomBytes(32));
    const [one, other] = [draw(root), draw(root)];
    expect(prefixOf(one)).toBe(prefixOf(other));
    expect(one.subarray(12)).not.toEqual(other.subarray(12));
  });

  it("ends after the encryption of 2^36 bytes", () => {
    const root = new RootKey(randomBytes(32));
    const prefixes = [2 ** 35, 2 ** 35 - 1, 1, 1].map((bytes) => prefixOf(draw(root, bytes)));
    expect(prefixes[1]).toBe(prefixes[0]);
    expect(prefixes[2]).toBe(prefixes[0]);
    expect(prefixes[3]).not.toBe(prefixes[0]);
  });

  it("ends exactly ten minutes after it began", () => {
    const root = new RootKey(randomBytes(32));
    const first = prefixOf(draw(root));
    vi.setSystemTime(startMs + sessionAgeMs - 1);
    expect(prefixOf(draw(root))).toBe(first);
    vi.setSystemTime(startMs + sessionAgeMs);
    expect(prefixOf(draw(root))).not.toBe(first);
  });

  it("ends when the clock is set back, as on a machine that is restored from a snapshot", () => {
    const root = new RootKey(randomBytes(32));
    const first = prefixOf(draw(root));
    vi.setSystemTime(startMs - 1);
    expect(prefixOf(draw(root))).not.toBe(first);
  });

  it("ends for every key when reseed() is called", () => {
    const roots = [new RootKey(randomBytes(32)), new RootKey(randomBytes(32))];
    const before = roots.map((root) => prefixOf(draw(root)));
    reseed();
    const after = roots.map((root) => prefixOf(draw(root)));
    expect(new Set([...before, ...after]).size).toBe(4);
  });

  it("encrypts records that can be decrypted after the session has ended", () => {
    const root = new RootKey(randomBytes(32));
    for (const atMs of [0, 1, sessionAgeMs, sessionAgeMs * 3, -5]) {
      vi.setSystemTime(startMs + atMs);
      const sealed = seal("k", root, address, { value: `at ${atMs}` }, { form: "text" });
      if (typeof sealed !== "string") throw new Error("Bytes in the text form");
      expect(openStored(sealed, "k", new RootKey(root.material()), address)).toEqual({ value: `at ${atMs}` });
    }
  });
});

describe("the random bytes drawn in advance", () => {
  let fills = vi.spyOn(crypto, "randomFillSync");
  beforeEach(() => {
    fills = vi.spyOn(crypto, "randomFillSync");
    syncBuiltinESMExports();
    reseed();
  });
  afterEach(() => {
    fills.mockRestore();
    syncBuiltinESMExports();
  });

  const target = Buffer.alloc(64);
  /** Draws 12 bytes at a given time of the clock, and returns how often the pool was refilled for them. */
  function fillsAt(nowMs: number): number {
    fills.mockClear();
    drawRandom(target, 0, 12, nowMs);
    return fills.mock.calls.length;
  }

  it("are used for at most 128 nonces, so that two clones of a machine draw at most 128 equal nonces", () => {
    expect(fillsAt(5_000)).toBe(1);
    let draws = 1;
    while (fillsAt(5_000) === 0) draws++;
    expect(draws).toBe(128);
  });

  it("are used for at most one second", () => {
    expect(fillsAt(5_000)).toBe(1);
    expect(fillsAt(6_000)).toBe(0);
    expect(fillsAt(6_001)).toBe(1);
  });

  it("are discarded when the clock is set back, and when reseed() is called", () => {
    expect(fillsAt(5_000)).toBe(1);
    expect(fillsAt(4_999)).toBe(1);
    expect(fillsAt(4_999)).toBe(0);
    reseed();
    expect(fillsAt(4_999)).toBe(1);
  });

  it("are written only to the requested range of a buffer", () => {
    const around = Buffer.alloc(40, 0xaa);
    drawRandom(around, 8, 24, 5_000);
    expect(around.subarray(0, 8)).toEqual(Buffer.alloc(8, 0xaa));
    expect(around.subarray(32)).toEqual(Buffer.alloc(8, 0xaa));
    expect(around.subarray(8, 32)).not.toEqual(Buffer.alloc(24, 0xaa));
  });
});

describe("a reader's cache of subkeys", () => {
  it("returns the right subkey for each record, even after the cache has dropped the subkey", () => {
    const root = new RootKey(randomBytes(32));
    const records = Array.from({ length: 300 }, (_, index) => {
      const value = `record ${index}`;
      const sealed = seal("k", root, address, { value }, { form: "binary", knownAnswerNonce: randomBytes(24) });
      return { value, sealed: Buffer.from(sealed) };
    });
    for (const { value, sealed } of [...records, ...records.toReversed(), ...records]) {
      expect(openStored(sealed, "k", root, address)).toEqual({ value });
    }
  });
});
