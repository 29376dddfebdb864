import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EncryptedStore, type KeyProvider, Keyring, type RecordAddress, rotateKey } from "@keyward/core";
import { scopeOfServiceRecord, serviceNamespace } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";
import { quantile } from "./rounds.ts";
import { sampleRecords } from "./sample-records.ts";

/** How the records of a backend with many scopes are named, and in which scope each record is. */
export interface Layout {
  readonly name: string;
  /** The average number of records in each scope. */
  readonly recordsPerScope: number;
  readonly recordBytes: number;
  keyOf(number: number): string;
  scope(address: RecordAddress): string | undefined;
}

/** Five records of 1 KiB in each scope. */
export const fiveInEach: Layout = {
  name: "5 of 1 KiB in each scope",
  recordsPerScope: 5,
  recordBytes: 1_024,
  keyOf: (number) => `scope-${Math.floor(number / 5)}/${number}`,
  scope: ({ key }) => key.slice(0, key.indexOf("/")),
};

const workspace = "a".repeat(12);

/** The servers of a workspace of the secrets service: the record of each, and one value, which has a scope of its own. */
export const servers: Layout = {
  name: "servers of the secrets service",
  recordsPerScope: 2,
  recordBytes: 400,
  keyOf: (number) => {
    const server = String(Math.floor(number / 2)).padStart(12, "0");
    return number % 2 === 0 ? `server/${workspace}/${server}` : `value/${workspace}/${server}/1`;
  },
  scope: ({ key }) => scopeOfServiceRecord({ namespace: serviceNamespace, key }),
};

/** Measurements of whole rotations: a backend with many scopes, compared to the same records in one scope. */
export interface ScopeFigures {
  readonly layout: string;
  readonly scopes: number;
  readonly records: number;
  /** Duration and CPU time of a rotation of one scope, per record, in microseconds. */
  readonly oneScopeUs: { readonly elapsed: number; readonly cpu: number };
  /** Duration and CPU time with many scopes, divided by those with one scope: the median of the ratios in each round. */
  readonly ratio: { readonly elapsed: number; readonly cpu: number };
}

export const scopesName = "rotation of many scopes, SQLite";

const fillBatch = 500;

/** Rotates the key of a file with many scopes and of a file with one scope, in turns. */
export async function measureScopes(layout: Layout, scopes: number, rounds: number): Promise<ScopeFigures> {
  const folder = mkdtempSync(join(tmpdir(), "keyward-bench-scopes-"));
  const records = scopes * layout.recordsPerScope;
  const many = new Backend(join(folder, "many.db"), layout, layout.scope);
  const one = new Backend(join(folder, "one.db"), layout, "one");
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
      layout: layout.name,
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
  readonly #layout: Layout;
  #rotations = 0;

  constructor(path: string, layout: Layout, scope: string | Layout["scope"]) {
    this.#layout = layout;
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
    const texts = sampleRecords(this.#layout.recordBytes, { count: fillBatch }).map(({ text }) => text);
    for (let first = 0; first < records; first += fillBatch) {
      const entries = texts
        .slice(0, records - first)
        .map((value, index) => ({ key: this.#layout.keyOf(first + index), value }));
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
