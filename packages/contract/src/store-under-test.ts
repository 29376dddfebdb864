import assert from "node:assert/strict";
import type { StoredValue } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import type { TestRunner } from "./runner.ts";

/** A store under test, over an empty backend that no other test uses. */
export interface OpenStore {
  /** The store under test, which has no namespace. */
  readonly store: KeyvStorageAdapter;
  /** Returns another store over the same backend, in a namespace. If `namespace` is "", the store has no namespace. */
  inNamespace(namespace: string): KeyvStorageAdapter;
  /**
   * Opens another store over the same backend, without a namespace and with its own connection, like a store in another
   * process. Absent if the backend allows only one connection.
   */
  again?(): Promise<KeyvStorageAdapter>;
  /** Closes all stores over the backend, and removes the backend. */
  close(): Promise<void>;
}

/**
 * The capabilities that a store has. The contract tests each capability that is `true` here, and fails a store that has
 * a capability which is `false` here.
 */
export interface StoreExpectations {
  /** `true` if the store must have `replace`, which replaces only an unchanged record. `false` if it must lack it. */
  readonly atomic: boolean;
  /** `true` if the store must have `scan`, which lists all records. `false` if it must lack it. */
  readonly scannable: boolean;
  /** `true` if the store must have `ranges`, which divides all records into ranges. `false` if it must lack it. */
  readonly ranged: boolean;
  /** `true` if the store must declare `values: "bytes"` (it keeps bytes). `false` if it must not declare this. */
  readonly bytes: boolean;
  /** `true` if the store must have `reserved()`, the space for Keyward's own records. `false` if it must lack it. */
  readonly reserved: boolean;
  /** `true` if the store must have `namespaced()`, which returns a view in a namespace. `false` if it must lack it. */
  readonly namespaced: boolean;
}

/**
 * The name of a part of the contract that a store is known to break. The tests of a part that {@link
 * StoreContractOptions.exceptions} lists must fail. If such a test passes, the contract fails, so that you remove the
 * exception.
 *
 * - `alive-when-expiring`: a record still exists in the very millisecond in which it expires.
 * - `delete-finds-expired`: `delete` returns `true` for an expired record.
 * - `no-namespace-is-all`: `clear` and `iterator` of a store without a namespace reach the records of all namespaces.
 * - `namespaces-collide`: the store joins namespace and key by `::`, so that two different addresses can mean the same
 *   record. Key `a::b` without a namespace is the same record as key `b` in namespace `a`. Also, key `c` in namespace
 *   `a::b` is the same record as key `b::c` in namespace `a`. A store with `::` in
 *   {@link StoreContractOptions.refusesNamespacesWith} refuses the namespace `a::b`.
 */
export type StoreException =
  | "alive-when-expiring"
  | "delete-finds-expired"
  | "no-namespace-is-all"
  | "namespaces-collide";

/** Options of {@link storeContract}: how to open the store under test, and which capabilities it must have. */
export interface StoreContractOptions {
  /** The name of the store. The group of tests is named `<name>: store contract`. */
  readonly name: string;
  /** Opens the store over a new, empty backend. The contract calls `open` once for each test. */
  open(): Promise<OpenStore>;
  /**
   * The capabilities that the store has. The contract fails a store that lacks one of these capabilities, or has a
   * capability that is `false` here.
   */
  readonly expect: StoreExpectations;
  /** `true` if the contract must test that the store returns bytes as bytes. Default: `expect.bytes`. */
  readonly roundTripsBytes?: boolean;
  /**
   * `true` if the contract must also test that the store supports Keyv 5, which passes durations in milliseconds: as
   * the third argument of `set`, and as `ttl` of an entry of `setMany`. Default: false.
   */
  readonly takesDurations?: boolean;
  /**
   * The separator that the store puts between namespace and key without escaping it. Every call in a namespace that
   * contains the separator must then reject with `VALUE_INVALID`. Default: the store must accept every namespace.
   */
  readonly refusesNamespacesWith?: string;
  /** Parts of the contract that the store is known to break. Default: none. */
  readonly exceptions?: readonly StoreException[];
}

/** Registers a test. The test opens a new store, and passes the store to `body`. */
export type StoreTest = (
  name: string,
  body: (opened: OpenStore) => Promise<void>,
  /** If the options of the store list this exception, the test must fail. */
  exception?: StoreException,
) => void;

/**
 * Returns a function that registers a test. The test opens a store, runs its body, and closes the store even if the
 * body fails.
 */
export function storeTests(runner: TestRunner, { open, exceptions = [] }: StoreContractOptions): StoreTest {
  return (name, body, exception) => {
    const excepted = exception !== undefined && exceptions.includes(exception);
    runner.it(excepted ? `${name} (known exception: ${exception})` : name, async () => {
      const opened = await open();
      try {
        if (excepted) {
          await assert.rejects(
            body(opened),
            assert.AssertionError,
            `the store passes this test: remove the exception ${exception}`,
          );
        } else {
          await body(opened);
        }
      } finally {
        await opened.close();
      }
    });
  };
}

/** Returns whether a store must refuse a namespace, according to the options of the store. */
export function isRefused(namespace: string, { refusesNamespacesWith: separator }: StoreContractOptions): boolean {
  return separator !== undefined && namespace.includes(separator);
}

/**
 * Returns a second store over the same backend, with its own connection. If `again` is absent, returns the first store.
 */
export async function secondWriter({ store, again }: OpenStore): Promise<KeyvStorageAdapter> {
  return again === undefined ? store : again();
}

/** Checks that a returned value has the same type as the stored value, and the same text or bytes. */
export function assertValue(actual: unknown, expected: StoredValue | undefined, what = "value"): void {
  if (expected instanceof Uint8Array) {
    assert.ok(actual instanceof Uint8Array, `${what}: bytes were returned as ${typeof actual}`);
    assert.ok(Buffer.compare(actual, expected) === 0, `${what}: other bytes were returned`);
  } else {
    assert.equal(actual, expected, what);
  }
}

/** Checks each returned value with {@link assertValue}. The values must have the same order as the stored values. */
export function assertValues(actual: readonly unknown[], expected: readonly (StoredValue | undefined)[]): void {
  assert.equal(actual.length, expected.length, "number of results");
  for (const [index, value] of expected.entries()) assertValue(actual[index], value, `value ${index}`);
}

/** Iterates over a store, and returns a map from each key to its value. Fails if the iterator yields a key twice. */
export async function iterated(store: KeyvStorageAdapter): Promise<Map<unknown, unknown>> {
  assert.ok(store.iterator, "the store has no iterator");
  const found = new Map<unknown, unknown>();
  for await (const [key, value] of store.iterator()) {
    assert.ok(!found.has(key), "the iterator yields a key twice");
    found.set(key, value);
  }
  return found;
}

/** Returns `count` texts: the prefix followed by 0, by 1 and so on. */
export function numbered(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix}${index}`);
}
