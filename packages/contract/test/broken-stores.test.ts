import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { type StoreContractOptions, storeContract } from "@keyward/contract";
import { KeywardError, type Replacement, type ScannedRecord, type ScanPage, type StoredValue } from "@keyward/core";
import { type MemorySpace, MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageEntry } from "keyv";
import { describe, it } from "vitest";

const allCapabilities = { atomic: true, scannable: true, ranged: false, bytes: true, reserved: true, namespaced: true };

/** Runs the contract, and returns the names of the tests that failed. */
async function failuresOf(options: StoreContractOptions): Promise<string[]> {
  const tests: { readonly name: string; readonly body: () => Promise<void> }[] = [];
  const path: string[] = [];
  storeContract(
    {
      describe(name, body) {
        path.push(name);
        body();
        path.pop();
      },
      it: (name, body) => tests.push({ name: [...path.slice(1), name].join(" > "), body }),
    },
    options,
  );
  const outcomes = await Promise.allSettled(tests.map(({ body }) => body()));
  return tests.filter((_, index) => outcomes[index]?.status === "rejected").map(({ name }) => name);
}

async function failuresOfStore(
  make: (origin?: MemoryStore) => MemoryStore,
  claims: Partial<StoreContractOptions> = {},
): Promise<string[]> {
  return failuresOf({
    name: "broken",
    expect: allCapabilities,
    ...claims,
    async open() {
      const store = make();
      return {
        store,
        inNamespace(namespace) {
          const view = make(store);
          view.namespace = namespace;
          return view;
        },
        again: async () => make(store),
        close: () => store.disconnect(),
      };
    },
  });
}

interface RangeScan {
  readonly cursor?: string;
  readonly limit?: number;
  readonly range?: string;
}

/** A MemoryStore with ranges: a digest of a record's address decides its range. */
class RangedMemoryStore extends MemoryStore {
  async ranges(count: number): Promise<readonly string[]> {
    if (!Number.isSafeInteger(count) || count < 1) throw invalid("count");
    return Array.from({ length: count }, (_, index) => `${index + 1}/${count}`);
  }

  override async scan({ range, ...options }: RangeScan = {}): Promise<ScanPage> {
    const has = range === undefined ? () => true : this.rangeOf(range);
    const page = await super.scan(options);
    return { ...page, entries: page.entries.filter(has) };
  }

  /** Returns a function that checks whether a record is in the range. */
  rangeOf(range: string): (record: ScannedRecord) => boolean {
    const [, index, count] = /^(\d+)\/(\d+)$/.exec(range) ?? [];
    if (count === undefined) throw invalid("range");
    return (record) => this.partOf(record, Number(count)) === Number(index) - 1;
  }

  partOf({ namespace, key }: ScannedRecord, parts: number): number {
    return (
      createHash("sha256")
        .update(JSON.stringify([namespace, key]))
        .digest()
        .readUInt32BE() % parts
    );
  }
}

function invalid(what: string): KeywardError {
  return new KeywardError("VALUE_INVALID", `The ${what} is not valid`, { hint: `Pass another ${what}.` });
}

/** A MemoryStore whose views share a connection, which can be closed. */
class ClosableMemoryStore extends MemoryStore {
  readonly connection: { open: boolean };

  constructor(origin?: MemoryStore) {
    super(origin);
    this.connection = origin instanceof ClosableMemoryStore ? origin.connection : { open: true };
  }

  override async get(key: string): Promise<StoredValue | undefined> {
    this.#requireOpen();
    return super.get(key);
  }

  override async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    this.#requireOpen();
    return super.set(key, value, expires);
  }

  #requireOpen(): void {
    if (this.connection.open) return;
    throw new KeywardError("STORE_UNAVAILABLE", "The store is disconnected", { hint: "Make a new store." });
  }
}

/** Stores that each break one rule, and the names of tests that must then fail. */
const broken: readonly {
  readonly name: string;
  readonly make: (origin?: MemoryStore) => MemoryStore;
  readonly failing: readonly string[];
}[] = [
  {
    name: "disconnecting a view closes the connection that all views share",
    make: (origin) =>
      new (class ClosesWithAView extends ClosableMemoryStore {
        override namespaced(namespace: string): MemoryStore {
          const view = new ClosesWithAView(this);
          view.namespace = namespace;
          return view;
        }

        override async disconnect(): Promise<void> {
          this.connection.open = false;
        }
      })(origin),
    failing: [
      "namespaces > stores in other namespaces still read and write after a store in one namespace is disconnected",
      "views > a store still reads, writes and returns further views after a view is disconnected",
      "reserved space > a store still reads and writes after its reserved space or a view is disconnected",
    ],
  },
  {
    name: "disconnecting the reserved space closes the connection of the store",
    make: (origin) =>
      new (class extends ClosableMemoryStore {
        override reserved(): MemorySpace {
          const space = super.reserved();
          space.disconnect = async () => {
            this.connection.open = false;
          };
          return space;
        }
      })(origin),
    failing: ["reserved space > a store still reads and writes after its reserved space or a view is disconnected"],
  },
  {
    name: "replace ignores the expected value",
    make: (origin) =>
      new (class extends MemoryStore {
        override async replace(key: string, _: StoredValue | undefined, next: StoredValue): Promise<boolean> {
          return this.set(key, next);
        }
      })(origin),
    failing: [
      "atomic replacement > replace() does not overwrite a value that is newer than the expected value",
      "atomic replacement > replace() does not restore a deleted record",
      "atomic replacement > replace() succeeds for exactly one of two concurrent replacements, in each of 50 rounds",
    ],
  },
  {
    name: "replace is not atomic: another write can occur between its read and its write",
    make: (origin) =>
      new (class extends MemoryStore {
        override async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
          return (await this.get(key)) === expected && (await this.set(key, next));
        }
      })(origin),
    failing: [
      "atomic replacement > replace() succeeds for exactly one of two concurrent replacements, in each of 50 rounds",
      "atomic replacement > replace() loses no increment of a counter that several writers increment",
      "atomic replacement > replace() keeps the expiry of the record if it is called without an expiry",
    ],
  },
  {
    name: "replace accepts an expected value that is only the beginning of the stored value",
    make: (origin) =>
      new (class extends MemoryStore {
        override async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
          const stored = await this.get(key);
          const alike = typeof stored === "string" && typeof expected === "string" && stored.startsWith(expected);
          return super.replace(key, alike ? stored : expected, next);
        }
      })(origin),
    failing: ["atomic replacement > replace() does not replace a value that is only similar to the expected value"],
  },
  {
    name: "replaceMany makes no further replacements after one that does not match",
    make: (origin) =>
      new (class extends MemoryStore {
        override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
          const results: boolean[] = [];
          for (const { key, expected, next } of changes) {
            results.push(!results.includes(false) && (await this.replace(key, expected, next)));
          }
          return results;
        }
        override replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
          return super.replaceMany([{ key, expected, next }]).then(([replaced = false]) => replaced);
        }
      })(origin),
    failing: [
      "atomic replacement > replaceMany() makes its replacements in order, even if some of them do not match the stored value",
    ],
  },
  {
    name: "setMany writes nothing",
    make: (origin) =>
      new (class extends MemoryStore {
        override async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
          return entries.map(() => true);
        }
      })(origin),
    failing: [
      "values > a batch returns its results in the order of its keys, also for duplicate and missing keys",
      "values > a Keyv over the store stores, lists, deletes and clears its records",
    ],
  },
  {
    name: "getMany leaves out missing records, so that its results are at wrong positions",
    make: (origin) =>
      new (class extends MemoryStore {
        override async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
          return (await super.getMany(keys)).filter((value) => value !== undefined);
        }
      })(origin),
    failing: ["values > a batch returns its results in the order of its keys, also for duplicate and missing keys"],
  },
  {
    name: "set ignores the expiry",
    make: (origin) =>
      new (class extends MemoryStore {
        override set(key: string, value: unknown): Promise<boolean> {
          return super.set(key, value);
        }
      })(origin),
    failing: ["expiry > a record is missing if it is written with a past expiry"],
  },
  {
    name: "get and set normalise keys",
    make: (origin) =>
      new (class extends MemoryStore {
        override get(key: string): Promise<StoredValue | undefined> {
          return super.get(key.normalize("NFC"));
        }
        override set(key: string, value: unknown, expires?: number): Promise<boolean> {
          return super.set(key.normalize("NFC"), value, expires);
        }
      })(origin),
    failing: ["keys > a store keeps records under unusual keys separate"],
  },
  {
    name: "clear also deletes the records of namespaces that begin with its namespace",
    make: (origin) =>
      new (class extends MemoryStore {
        override async clear(): Promise<void> {
          const { entries } = await this.scan({ limit: 1_000_000 });
          for (const { namespace, key } of entries) {
            if (namespace.startsWith(this.namespace ?? "")) await this.namespaced(namespace).delete(key);
          }
        }
      })(origin),
    failing: [
      'namespaces > clear() removes only the records of the namespace "a"',
      "namespaces > clear() of a store without a namespace removes only the records without a namespace",
    ],
  },
  {
    name: "scan finds only its own namespace",
    make: (origin) =>
      new (class extends MemoryStore {
        override async scan(options: { readonly cursor?: string; readonly limit?: number }): Promise<ScanPage> {
          const page = await super.scan(options);
          return { ...page, entries: page.entries.filter(({ namespace }) => namespace === (this.namespace ?? "")) };
        }
      })(origin),
    failing: ["scan > a scan finds the records of all namespaces even if the store has a namespace"],
  },
  {
    name: "a cursor is a number of records to skip, so that a deletion makes the scan skip a record",
    make: (origin) =>
      new (class extends MemoryStore {
        override async scan(options: { readonly cursor?: string; readonly limit?: number }): Promise<ScanPage> {
          const { entries } = await super.scan({ limit: 1_000_000 });
          const start = Number(options.cursor ?? 0);
          const end = start + (options.limit ?? 1000);
          return { entries: entries.slice(start, end), ...(end < entries.length ? { cursor: String(end) } : {}) };
        }
      })(origin),
    failing: ["scan > a scan finds every record that is not deleted during the scan, even if other records change"],
  },
  {
    name: "the reserved space is a namespace that the application can reach",
    make: (origin) =>
      new (class extends MemoryStore {
        override reserved(): MemoryStore {
          return this.namespaced("reserved");
        }
      })(origin),
    failing: [
      "reserved space > the store lists no reserved record, and the reserved space lists only reserved records",
    ],
  },
];

/** Stores with ranges that each break one rule, and the names of tests that must then fail. */
const brokenRanges: readonly (typeof broken)[number][] = [
  {
    name: "ranges divide the records that exist at the time of the scan, so that a write can move a record to another range",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override async scan({ range, ...options }: RangeScan = {}): Promise<ScanPage> {
          const page = await super.scan(options);
          if (range === undefined) return page;
          const [index = 0, count = 1] = range.split("/").map(Number);
          const { entries } = await super.scan({ limit: 1_000_000 });
          const share = entries.slice(((index - 1) * entries.length) / count, (index * entries.length) / count);
          const own = new Set(share.map(({ namespace, key }) => JSON.stringify([namespace, key])));
          const has = ({ namespace, key }: ScannedRecord) => own.has(JSON.stringify([namespace, key]));
          return { ...page, entries: page.entries.filter(has) };
        }
      })(origin),
    failing: [
      "ranges > a record stays in its range when the record is written again",
      "ranges > each record stays in exactly one range while other records are written and deleted",
    ],
  },
  {
    name: "ranges overlap",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override rangeOf(range: string): (record: ScannedRecord) => boolean {
          const [index = 1, count = 1] = range.split("/").map(Number);
          const [has, next] = [super.rangeOf(range), super.rangeOf(`${(index % count) + 1}/${count}`)];
          return (record) => has(record) || (record.key === "key-7" && next(record));
        }
      })(origin),
    failing: [
      "ranges > ranges() puts every record of every namespace into exactly one range, for any number of ranges",
    ],
  },
  {
    name: "ranges contain only one namespace",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override rangeOf(range: string): (record: ScannedRecord) => boolean {
          const has = super.rangeOf(range);
          return (record) => record.namespace === (this.namespace ?? "") && has(record);
        }
      })(origin),
    failing: [
      "ranges > ranges() puts every record of every namespace into exactly one range, for any number of ranges",
    ],
  },
  {
    name: "one range contains nearly all records",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override partOf(record: ScannedRecord, parts: number): number {
          return record.key.startsWith("key-1") ? 0 : parts - 1;
        }
      })(origin),
    failing: ["ranges > ranges() returns ranges with about equal numbers of records"],
  },
  {
    name: "a scan with a cursor ignores the range",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override async scan({ range, ...options }: RangeScan = {}): Promise<ScanPage> {
          return super.scan(range === undefined || options.cursor !== undefined ? options : { ...options, range });
        }
      })(origin),
    failing: ["ranges > a scan of a range continues from its cursor, also in another store over the same backend"],
  },
  {
    name: "a range is known only to the store object that returned it",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        readonly #given = new Set<string>();
        override async ranges(count: number): Promise<readonly string[]> {
          const ranges = await super.ranges(count);
          for (const range of ranges) this.#given.add(range);
          return ranges;
        }
        override rangeOf(range: string): (record: ScannedRecord) => boolean {
          if (!this.#given.has(range)) throw invalid("range");
          return super.rangeOf(range);
        }
      })(origin),
    failing: ["ranges > two stores over the same backend find the same records in each range"],
  },
  {
    name: "any text is accepted as a range",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override rangeOf(range: string): (record: ScannedRecord) => boolean {
          return range.includes("/") ? super.rangeOf(range) : () => false;
        }
      })(origin),
    failing: ["ranges > an invalid range, an invalid cursor and an invalid number of ranges are rejected"],
  },
  {
    name: "any number is accepted as a count",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override ranges(count: number): Promise<readonly string[]> {
          return super.ranges(Math.max(1, Math.ceil(count) || 1));
        }
      })(origin),
    failing: ["ranges > an invalid range, an invalid cursor and an invalid number of ranges are rejected"],
  },
  {
    name: "a range contains reserved records",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override async scan(options: RangeScan = {}): Promise<ScanPage> {
          const page = await super.scan(options);
          if (options.range === undefined || page.cursor !== undefined) return page;
          const reserved = await this.reserved().scan({ limit: 1_000_000 });
          return { entries: [...page.entries, ...reserved.entries.filter(this.rangeOf(options.range))] };
        }
      })(origin),
    failing: ["ranges > a scan of a range finds no record of the reserved space"],
  },
];

// Concurrent, because the tests of a store that never expires a record wait until their time limit.
describe.concurrent("storeContract", () => {
  it("passes a store that follows the contract", async () => {
    assert.deepEqual(await failuresOfStore((origin) => new MemoryStore(origin)), []);
  });

  for (const { name, make, failing } of broken) {
    it(`fails a store whose fault is: ${name}`, async () => {
      const failures = await failuresOfStore(make);
      for (const test of failing)
        assert.ok(failures.includes(test), `"${test}" passed; failed: ${failures.join("; ")}`);
    });
  }

  it("passes a store that has ranges and follows the contract", async () => {
    const claims = { expect: { ...allCapabilities, ranged: true } };
    assert.deepEqual(await failuresOfStore((origin) => new RangedMemoryStore(origin), claims), []);
  });

  for (const { name, make, failing } of brokenRanges) {
    it(`fails a store whose fault is: ${name}`, async () => {
      const failures = await failuresOfStore(make, { expect: { ...allCapabilities, ranged: true } });
      for (const test of failing)
        assert.ok(failures.includes(test), `"${test}" passed; failed: ${failures.join("; ")}`);
      assert.deepEqual(
        failures.filter((test) => !test.startsWith("ranges > ")),
        [],
      );
    });
  }

  it("fails a store that accepts a namespace that the options require it to refuse", async () => {
    const failures = await failuresOfStore((origin) => new MemoryStore(origin), { refusesNamespacesWith: "::" });
    assert.deepEqual(
      failures,
      ["::", "a::b", "a::", "::b"].map(
        (namespace) => `namespaces > every call rejects in the namespace "${namespace}"`,
      ),
    );
  });

  it("fails a store that has a capability that is false in the option expect", async () => {
    for (const capability of ["atomic", "scannable", "bytes", "reserved", "namespaced"]) {
      const failures = await failuresOf({
        name: "memory",
        expect: { ...allCapabilities, [capability]: false },
        async open() {
          const store = new MemoryStore();
          return { store, inNamespace: (namespace) => store.namespaced(namespace), close: () => store.disconnect() };
        },
      });
      assert.deepEqual(failures, ["has exactly the expected capabilities"], capability);
    }
  });

  it("fails a store that passes the test of an exception that the options list", async () => {
    const failures = await failuresOf({
      name: "memory",
      expect: allCapabilities,
      exceptions: ["no-namespace-is-all"],
      async open() {
        const store = new MemoryStore();
        return { store, inNamespace: (namespace) => store.namespaced(namespace), close: () => store.disconnect() };
      },
    });
    assert.equal(failures.length, 2);
    for (const failure of failures) assert.match(failure, /known exception: no-namespace-is-all/);
  });
});
