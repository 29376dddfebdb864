import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { type StoreContractOptions, storeContract } from "@keyward/contract";
import { KeywardError, type Replacement, type ScannedRecord, type ScanPage, type StoredValue } from "@keyward/core";
import { type MemorySpace, MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageEntry } from "keyv";
import { describe, it } from "vitest";

const allCapabilities = { atomic: true, scannable: true, ranged: false, bytes: true, reserved: true, namespaced: true };

/** Runs the contract and gives the names of the tests that failed. */
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

/** A MemoryStore that can be divided: by a digest of the place. */
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

  /** Whether a record is in a range. */
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
  return new KeywardError("VALUE_INVALID", `This is no ${what}`, { hint: "Pass another one." });
}

/** A MemoryStore on something that can be closed, which its views share. */
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
    throw new KeywardError("STORE_UNAVAILABLE", "The store is disconnected", { hint: "Make a new one." });
  }
}

/** Each breaks one promise; the tests named must be among those that notice. */
const broken: readonly {
  readonly name: string;
  readonly make: (origin?: MemoryStore) => MemoryStore;
  readonly noticed: readonly string[];
}[] = [
  {
    name: "a view closes the connection of all",
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
    noticed: [
      "namespaces > goes on in the other namespaces when a store in one of them is disconnected",
      "views > goes on when a view is disconnected, and hands out others",
      "reserved space > goes on when its reserved space is disconnected, which a view shares",
    ],
  },
  {
    name: "the reserved space closes the connection of all",
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
    noticed: ["reserved space > goes on when its reserved space is disconnected, which a view shares"],
  },
  {
    name: "replace ignores what is expected",
    make: (origin) =>
      new (class extends MemoryStore {
        override async replace(key: string, _: StoredValue | undefined, next: StoredValue): Promise<boolean> {
          return this.set(key, next);
        }
      })(origin),
    noticed: [
      "atomic replacement > lets a newer write win",
      "atomic replacement > lets a deletion win",
      "atomic replacement > lets exactly one of two racers win, every time",
    ],
  },
  {
    name: "replace reads, and writes a moment later",
    make: (origin) =>
      new (class extends MemoryStore {
        override async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
          return (await this.get(key)) === expected && (await this.set(key, next));
        }
      })(origin),
    noticed: [
      "atomic replacement > lets exactly one of two racers win, every time",
      "atomic replacement > loses no step of a counter that many increment",
      "atomic replacement > keeps the time that a record has left",
    ],
  },
  {
    name: "replace compares the first characters",
    make: (origin) =>
      new (class extends MemoryStore {
        override async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
          const stored = await this.get(key);
          const alike = typeof stored === "string" && typeof expected === "string" && stored.startsWith(expected);
          return super.replace(key, alike ? stored : expected, next);
        }
      })(origin),
    noticed: ["atomic replacement > refuses where another value lies, however alike"],
  },
  {
    name: "replaceMany stops at the first refusal",
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
    noticed: ["atomic replacement > replaces many, one after the other, each for itself"],
  },
  {
    name: "setMany is forgotten",
    make: (origin) =>
      new (class extends MemoryStore {
        override async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
          return entries.map(() => true);
        }
      })(origin),
    noticed: [
      "values > answers a batch in the order of its keys, with duplicates and misses",
      "values > works under Keyv",
    ],
  },
  {
    name: "getMany leaves out what is missing",
    make: (origin) =>
      new (class extends MemoryStore {
        override async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
          return (await super.getMany(keys)).filter((value) => value !== undefined);
        }
      })(origin),
    noticed: ["values > answers a batch in the order of its keys, with duplicates and misses"],
  },
  {
    name: "expiries are dropped",
    make: (origin) =>
      new (class extends MemoryStore {
        override set(key: string, value: unknown): Promise<boolean> {
          return super.set(key, value);
        }
      })(origin),
    noticed: ["expiry > has nothing where the expiry has passed already"],
  },
  {
    name: "keys are normalised",
    make: (origin) =>
      new (class extends MemoryStore {
        override get(key: string): Promise<StoredValue | undefined> {
          return super.get(key.normalize("NFC"));
        }
        override set(key: string, value: unknown, expires?: number): Promise<boolean> {
          return super.set(key.normalize("NFC"), value, expires);
        }
      })(origin),
    noticed: ["keys > keeps odd keys apart"],
  },
  {
    name: "clear takes the namespace for a prefix",
    make: (origin) =>
      new (class extends MemoryStore {
        override async clear(): Promise<void> {
          const { entries } = await this.scan({ limit: 1_000_000 });
          for (const { namespace, key } of entries) {
            if (namespace.startsWith(this.namespace ?? "")) await this.namespaced(namespace).delete(key);
          }
        }
      })(origin),
    noticed: [
      'namespaces > clears "a" and nothing else',
      "namespaces > clears the records without a namespace and nothing else",
    ],
  },
  {
    name: "scan sees its own namespace only",
    make: (origin) =>
      new (class extends MemoryStore {
        override async scan(options: { readonly cursor?: string; readonly limit?: number }): Promise<ScanPage> {
          const page = await super.scan(options);
          return { ...page, entries: page.entries.filter(({ namespace }) => namespace === (this.namespace ?? "")) };
        }
      })(origin),
    noticed: ["scan > finds the same through a store that has a namespace"],
  },
  {
    name: "a cursor counts records, so that deletions shift it",
    make: (origin) =>
      new (class extends MemoryStore {
        override async scan(options: { readonly cursor?: string; readonly limit?: number }): Promise<ScanPage> {
          const { entries } = await super.scan({ limit: 1_000_000 });
          const start = Number(options.cursor ?? 0);
          const end = start + (options.limit ?? 1000);
          return { entries: entries.slice(start, end), ...(end < entries.length ? { cursor: String(end) } : {}) };
        }
      })(origin),
    noticed: ["scan > finds what is there throughout, while records come, go and change"],
  },
  {
    name: "the reserved space is a namespace",
    make: (origin) =>
      new (class extends MemoryStore {
        override reserved(): MemoryStore {
          return this.namespaced("reserved");
        }
      })(origin),
    noticed: [
      "reserved space > shows nothing reserved to scans and iterators, and nothing else to those of the reserved space",
    ],
  },
];

/** As above, of stores that can be divided. */
const brokenRanges: readonly (typeof broken)[number][] = [
  {
    name: "a range is a share of what is there now",
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
    noticed: [
      "ranges > have a record in the same one whenever it is written",
      "ranges > have what stays in exactly one, while others are written and deleted",
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
    noticed: ["ranges > have every record of every namespace in exactly one, however many they are"],
  },
  {
    name: "ranges have their own namespace only",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override rangeOf(range: string): (record: ScannedRecord) => boolean {
          const has = super.rangeOf(range);
          return (record) => record.namespace === (this.namespace ?? "") && has(record);
        }
      })(origin),
    noticed: ["ranges > have every record of every namespace in exactly one, however many they are"],
  },
  {
    name: "nearly all is in one range",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override partOf(record: ScannedRecord, parts: number): number {
          return record.key.startsWith("key-1") ? 0 : parts - 1;
        }
      })(origin),
    noticed: ["ranges > are of about equal size"],
  },
  {
    name: "a cursor forgets its range",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override async scan({ range, ...options }: RangeScan = {}): Promise<ScanPage> {
          return super.scan(range === undefined || options.cursor !== undefined ? options : { ...options, range });
        }
      })(origin),
    noticed: ["ranges > hold for the cursors that come from them, in another store on the same records too"],
  },
  {
    name: "a range is known to the store that gave it alone",
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
    noticed: ["ranges > mean the same in another store on the same records"],
  },
  {
    name: "any text is a range",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override rangeOf(range: string): (record: ScannedRecord) => boolean {
          return range.includes("/") ? super.rangeOf(range) : () => false;
        }
      })(origin),
    noticed: ["ranges > are refused where they are none, and so are cursors and counts"],
  },
  {
    name: "any number is a count",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override ranges(count: number): Promise<readonly string[]> {
          return super.ranges(Math.max(1, Math.ceil(count) || 1));
        }
      })(origin),
    noticed: ["ranges > are refused where they are none, and so are cursors and counts"],
  },
  {
    name: "a range has what is reserved",
    make: (origin) =>
      new (class extends RangedMemoryStore {
        override async scan(options: RangeScan = {}): Promise<ScanPage> {
          const page = await super.scan(options);
          if (options.range === undefined || page.cursor !== undefined) return page;
          const reserved = await this.reserved().scan({ limit: 1_000_000 });
          return { entries: [...page.entries, ...reserved.entries.filter(this.rangeOf(options.range))] };
        }
      })(origin),
    noticed: ["ranges > have nothing that is reserved"],
  },
];

// Concurrent, since a store that expires nothing makes its tests wait until they lose patience.
describe.concurrent("the store contract", () => {
  it("finds no fault with a store that keeps it", async () => {
    assert.deepEqual(await failuresOfStore((origin) => new MemoryStore(origin)), []);
  });

  for (const { name, make, noticed } of broken) {
    it(`notices when ${name}`, async () => {
      const failures = await failuresOfStore(make);
      for (const test of noticed)
        assert.ok(failures.includes(test), `"${test}" passed; failed: ${failures.join("; ")}`);
    });
  }

  it("finds no fault with a store that can be divided as it should", async () => {
    const claims = { expect: { ...allCapabilities, ranged: true } };
    assert.deepEqual(await failuresOfStore((origin) => new RangedMemoryStore(origin), claims), []);
  });

  for (const { name, make, noticed } of brokenRanges) {
    it(`notices when ${name}`, async () => {
      const failures = await failuresOfStore(make, { expect: { ...allCapabilities, ranged: true } });
      for (const test of noticed)
        assert.ok(failures.includes(test), `"${test}" passed; failed: ${failures.join("; ")}`);
      assert.deepEqual(
        failures.filter((test) => !test.startsWith("ranges > ")),
        [],
      );
    });
  }

  it("fails a store that keeps records in namespaces which it should refuse", async () => {
    const failures = await failuresOfStore((origin) => new MemoryStore(origin), { refusesNamespacesWith: "::" });
    assert.deepEqual(
      failures,
      ["::", "a::b", "a::", "::b"].map((namespace) => `namespaces > refuses the namespace "${namespace}"`),
    );
  });

  it("fails a store that lost a capability, or has one that is not expected", async () => {
    for (const capability of ["atomic", "scannable", "bytes", "reserved", "namespaced"]) {
      const failures = await failuresOf({
        name: "memory",
        expect: { ...allCapabilities, [capability]: false },
        async open() {
          const store = new MemoryStore();
          return { store, inNamespace: (namespace) => store.namespaced(namespace), close: () => store.disconnect() };
        },
      });
      assert.deepEqual(failures, ["has the capabilities that are expected, no more and no less"], capability);
    }
  });

  it("fails an exception that the store does not need", async () => {
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
