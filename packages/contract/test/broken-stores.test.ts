import assert from "node:assert/strict";
import { type StoreContractOptions, storeContract } from "@keyward/contract";
import type { Replacement, ScanPage, StoredValue } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageEntry } from "keyv";
import { describe, it } from "vitest";

const allCapabilities = { atomic: true, scannable: true, bytes: true, reserved: true, namespaced: true };

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

async function failuresOfStore(make: (origin?: MemoryStore) => MemoryStore): Promise<string[]> {
  return failuresOf({
    name: "broken",
    expect: allCapabilities,
    async open() {
      const store = make();
      return {
        store,
        inNamespace(namespace) {
          const view = make(store);
          view.namespace = namespace;
          return view;
        },
        close: () => store.disconnect(),
      };
    },
  });
}

/** Each breaks one promise; the tests named must be among those that notice. */
const broken: readonly {
  readonly name: string;
  readonly make: (origin?: MemoryStore) => MemoryStore;
  readonly noticed: readonly string[];
}[] = [
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
