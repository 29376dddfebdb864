import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EncryptedStore, type KeyProvider, Keyring, type RecordAddress, rotateKey } from "@keyward/core";
import { SqliteStore } from "@keyward/store-sqlite";
import { quantile } from "./rounds.ts";
import { sampleRecords } from "./sample-records.ts";

/** Measurements of whole rotations: a backend with many scopes, compared to the same records in one scope. */
export interface ScopeFigures {
  readonly scopes: number;
  readonly records: number;
  /** Duration and CPU time of a rotation of one scope, per record, in microseconds. */
  readonly oneScopeUs: { readonly elapsed: number; readonly cpu: number };
  /** Duration and CPU time with many scopes, divided by those with one scope: the median of the ratios in each round. */
  readonly ratio: { readonly elapsed: number; readonly cpu: number };
}

export const scopesName = "rotation of many scopes, SQLite";

export const recordsPerScope = 5;
const fillBatch = 500;
const recordBytes = 1024;

/** Rotates the key of a file with many scopes and of a file with one scope, in turns. */
export async function measureScopes(scopes: number, rounds: number): Promise<ScopeFigures> {
  const folder = mkdtempSync(join(tmpdir(), "keyward-bench-scopes-"));
  const records = scopes * recordsPerScope;
  const many = new Backend(join(folder, "many.db"), ({ key }) => key.slice(0, key.indexOf("/")));
  const one = new Backend(join(folder, "one.db"), "one");
  try {
    for (const backend of [many, one]) await backend.fill(records);
    const taken: { readonly one: Duration; readonly many: Duration }[] = [];
    for (let round = 0; round < rounds; round++) {
      if (round % 2 === 0) taken.push({ one: await one.rotate(), many: await many.rotate() });
      else {
        const first = await many.rotate();
        taken.push({ one: await one.rotate(), many: first });
      }
    }
    const median = (value: (round: (typeof taken)[number]) => number) => quantile(taken.map(value), 0.5);
    return {
      scopes,
      records,
      oneScopeUs: {
        elapsed: median((round) => round.one.elapsedUs / records),
        cpu: median((round) => round.one.cpuUs / records),
      },
      ratio: {
        elapsed: median((round) => round.many.elapsedUs / round.one.elapsedUs),
        cpu: median((round) => round.many.cpuUs / round.one.cpuUs),
      },
    };
  } finally {
    for (const backend of [many, one]) await backend.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Duration {
  readonly elapsedUs: number;
  readonly cpuUs: number;
}

/** A file, its store, and the source of its keys. */
class Backend {
  readonly #inner: SqliteStore;
  readonly #store: EncryptedStore;
  readonly #keys: KeyProvider;
  #rotations = 0;

  constructor(path: string, scope: string | ((address: RecordAddress) => string)) {
    let keyring = Keyring.generate("first");
    this.#keys = {
      load: async () => keyring,
      save: async (next) => {
        keyring = next;
      },
    };
    this.#inner = new SqliteStore(path, { synchronous: "normal", sweepMs: 0 });
    this.#store = new EncryptedStore(this.#inner, { keys: this.#keys, scope });
  }

  async fill(records: number): Promise<void> {
    const texts = sampleRecords(recordBytes, { count: fillBatch }).map(({ text }) => text);
    for (let first = 0; first < records; first += fillBatch) {
      const entries = texts.slice(0, records - first).map((value, index) => {
        const number = first + index;
        return { key: `scope-${Math.floor(number / recordsPerScope)}/${number}`, value };
      });
      await this.#store.setMany(entries);
    }
  }

  async rotate(): Promise<Duration> {
    const startedAtMs = performance.now();
    const cpu = process.cpuUsage();
    const { step } = await rotateKey(this.#keys, {
      stores: { store: this.#store },
      newKey: { id: `next-${this.#rotations++}` },
      graceMs: 0,
      unregistered: { waitMs: 0 },
    });
    if (step !== "done") throw new Error(`The rotation ended at step ${step}`);
    const { user, system } = process.cpuUsage(cpu);
    return { elapsedUs: 1_000 * (performance.now() - startedAtMs), cpuUs: user + system };
  }

  async close(): Promise<void> {
    await this.#store.disconnect();
    await this.#inner.disconnect();
  }
}
