import keyvTestSuite, { keyvIteratorTests } from "@keyv/test-suite";
import { createKeyv, EncryptedStore, Keyring } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import type { KeyvStorageAdapter } from "keyv";
import { Keyv as Keyv5 } from "keyv-5";
import * as vitest from "vitest";

// The published test suite of Keyv is for Keyv 5. It runs unchanged over every kind of store. For Keyv 6 no suite has been
// published. The contract suite and keyv-behaviour.test.ts test what such a suite would test.

/** Tests of the suite whose expectation is wrong for Keyward. Each of these tests must fail. */
const deviations = {
  "Keyv 5": {
    // Keyv 5 returns the answer of the store, which is a list as in Keyv 6.
    lists: ".deleteMany([keys]) with nonexistent keys resolves to false",
  },
  createKeyv: {
    lists: ".deleteMany([keys]) with nonexistent keys resolves to false",
    // Keyv 6 calls the options serialization.stringify and serialization.parse.
    serializers: "value can be BigInt using other serializer/deserializer",
  },
} as const;

/** Returns vitest's functions for the suite. The tests of known deviations are marked, so that they must fail. */
function expecting(known: Readonly<Record<string, string>>): typeof vitest {
  const names = new Set(Object.values(known));
  const choose = (...given: Parameters<typeof vitest.it>) =>
    Reflect.apply(names.has(given[0].toString()) ? vitest.it.fails : vitest.it, undefined, given);
  return { ...vitest, it: Object.assign(choose, vitest.it) };
}

/** Adds `opts`, which adapters of Keyv 5 have, and to which the suite writes. */
function withOptions<Store extends object>(store: Store): Store {
  return Object.assign(store, { opts: { url: "" } });
}

/** Runs the suite, whose types depend on the installed Keyv. */
function run(suite: typeof keyvTestSuite, ...given: readonly unknown[]): void {
  Reflect.apply(suite, undefined, given);
}

const backends = {
  MemoryStore: () => {
    const store = new MemoryStore();
    return (namespace: string) => store.namespaced(namespace);
  },
  SqliteStore: () => {
    const store = new SqliteStore(":memory:");
    vitest.afterAll(() => store.disconnect());
    return (namespace: string) => store.namespaced(namespace);
  },
} as const;

for (const [name, open] of Object.entries(backends)) {
  const keys = Keyring.generate();

  vitest.describe(`Keyv's suite for Keyv 5, over ${name} itself`, () => {
    const view = open();
    run(keyvTestSuite, expecting(deviations["Keyv 5"]), Keyv5, () => withOptions(view("")));
  });

  vitest.describe(`Keyv's suite for Keyv 5, over an EncryptedStore on ${name}`, () => {
    const view = open();
    run(keyvTestSuite, expecting(deviations["Keyv 5"]), Keyv5, () =>
      withOptions(new EncryptedStore(view(""), { keys })),
    );
  });

  vitest.describe(`Keyv's suite for Keyv 5, over createKeyv on ${name}`, () => {
    const view = open();
    run(keyvTestSuite, expecting(deviations["Keyv 5"]), Keyv5, () =>
      withOptions(createKeyv({ store: view(""), keys })),
    );
  });

  vitest.describe(`Keyv's suite for Keyv 5, against createKeyv over ${name}`, () => {
    const view = open();
    /** A class with which the suite can create a Keyv, with options or without. */
    function Sealed(options: { readonly store?: KeyvStorageAdapter; readonly namespace?: string } = {}) {
      const { store = new MemoryStore(), namespace } = options;
      return createKeyv({ store, keys, ...(namespace === undefined ? {} : { namespace }) });
    }
    const runner = expecting(deviations.createKeyv);
    run(keyvTestSuite, runner, Sealed, () => view(""));
    run(keyvIteratorTests, runner, Sealed, () => view(""));
  });
}
