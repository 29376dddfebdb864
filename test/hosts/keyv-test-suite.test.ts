import keyvTestSuite, { keyvIteratorTests } from "@keyv/test-suite";
import { createKeyv, EncryptedStore, Keyring } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import type { KeyvStorageAdapter } from "keyv";
import { Keyv as Keyv5 } from "keyv-5";
import * as vitest from "vitest";

// The suite that the registry has is that of Keyv 5. It runs as it is, over every kind of store and front. Keyv 6 has
// released none: the contract suite and the tests of behaviours beside this one are our equal of it.

/** What the suite expects that cannot hold here. Each of these tests has to fail. */
const deviations = {
  "Keyv 5": {
    // Keyv 5 hands on what the store answers: a list, as Keyv 6 has it.
    lists: ".deleteMany([keys]) with nonexistent keys resolves to false",
  },
  createKeyv: {
    lists: ".deleteMany([keys]) with nonexistent keys resolves to false",
    // Keyv 6 calls the options serialization.stringify and serialization.parse.
    serializers: "value can be BigInt using other serializer/deserializer",
  },
} as const;

/** vitest for the suite, but tests that are known to deviate have to fail. */
function expecting(known: Readonly<Record<string, string>>): typeof vitest {
  const names = new Set(Object.values(known));
  const choose = (...given: Parameters<typeof vitest.it>) =>
    Reflect.apply(names.has(given[0].toString()) ? vitest.it.fails : vitest.it, undefined, given);
  return { ...vitest, it: Object.assign(choose, vitest.it) };
}

/** The suite writes to `opts`, which adapters of Keyv 5 have. */
function withOptions<Store extends object>(store: Store): Store {
  return Object.assign(store, { opts: { url: "" } });
}

/** The suite is typed for whichever Keyv it finds. */
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
    /** The suite makes a Keyv with `new`, of options or none. */
    function Sealed(options: { readonly store?: KeyvStorageAdapter; readonly namespace?: string } = {}) {
      const { store = new MemoryStore(), namespace } = options;
      return createKeyv({ store, keys, ...(namespace === undefined ? {} : { namespace }) });
    }
    const runner = expecting(deviations.createKeyv);
    run(keyvTestSuite, runner, Sealed, () => view(""));
    run(keyvIteratorTests, runner, Sealed, () => view(""));
  });
}
