import assert from "node:assert/strict";
import type { StoredValue } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import type { TestRunner } from "./runner.ts";

/** A store under test, over an empty backend that no other test uses. */
export interface OpenStore {
  /** The store, without a namespace. */
  readonly store: KeyvStorageAdapter;
  /** Returns another store over the same backend, in a namespace; "" for no namespace. */
  inNamespace(namespace: string): KeyvStorageAdapter;
  /**
   * Opens another store over the same backend, without a namespace and with its own connection, like another process.
   * Absent if the backend allows only one connection.
   */
  again?(): Promise<KeyvStorageAdapter>;
  /** Closes everything that was opened, and removes the backend. */
  close(): Promise<void>;
}

/**
 * The capabilities that a store has. The contract tests each of these capabilities, and fails a store that has a
 * capability which is `false` here.
 */
export interface StoreExpectations {
  /** Whether the store has `replace`. */
  readonly atomic: boolean;
  /** Whether the store has `scan`. */
  readonly scannable: boolean;
  /** Whether the store has `ranges`. */
  readonly ranged: boolean;
  /** Whether the store declares `values: "bytes"`. */
  readonly bytes: boolean;
  /** Whether the store has `reserved()`. */
  readonly reserved: boolean;
  /** Whether the store has `namespaced()`. */
  readonly namespaced: boolean;
}

/**
 * A part of the contract that a store is known to break. The test of that part must then fail, so that you notice an
 * exception that is no longer needed.
 *
 * - `alive-when-expiring`: a record still exists in the very millisecond in which it expires.
 * - `delete-finds-expired`: `delete` returns `true` for an expired record.
 * - `no-namespace-is-all`: `clear` and `iterator` of a store without a namespace reach the records of all namespaces.
 * - `namespaces-collide`: the store joins namespace and key by `::`, so that different addresses are one record: key
 *   `a::b` without a namespace is key `b` in namespace `a`. Also, key `c` in namespace `a::b` is key `b::c` in
 *   namespace `a`, unless {@link StoreContractOptions.refusesNamespacesWith} is `::`.
 */
export type StoreException =
  | "alive-when-expiring"
  | "delete-finds-expired"
  | "no-namespace-is-all"
  | "namespaces-collide";

/** Options of {@link storeContract}: the store under test, and what to expect of it. */
export interface StoreContractOptions {
  /** The name of the store, which begins the name of the group of tests. */
  readonly name: string;
  /** Opens the store over a new, empty backend. Called once for each test. */
  open(): Promise<OpenStore>;
  /** The capabilities that the store has. The contract fails a store that lacks one of these, or has another one. */
  readonly expect: StoreExpectations;
  /** Whether the store returns bytes as bytes. Default: `expect.bytes`. */
  readonly roundTripsBytes?: boolean;
  /**
   * Whether the store also supports Keyv 5, which passes durations in milliseconds: as the third argument of `set`, and
   * as `ttl` of an entry of `setMany`. Default: false.
   */
  readonly takesDurations?: boolean;
  /**
   * The separator that the store puts between namespace and key without escaping it. The store must then refuse every
   * namespace that contains the separator, with `VALUE_INVALID` at each call. Default: the store accepts every
   * namespace.
   */
  readonly refusesNamespacesWith?: string;
  /** Parts of the contract that the store is known to break. Default: none. */
  readonly exceptions?: readonly StoreException[];
}

/** Registers a test. Its body receives a newly opened store. */
export type StoreTest = (
  name: string,
  body: (opened: OpenStore) => Promise<void>,
  /** If the store lists this exception, the test must fail. */
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

/** Returns whether a store must refuse a namespace, according to its options. */
export function isRefused(namespace: string, { refusesNamespacesWith: separator }: StoreContractOptions): boolean {
  return separator !== undefined && namespace.includes(separator);
}

/**
 * Returns a second store over the same backend, with its own connection. Returns the store itself if there is no
 * `again`.
 */
export async function secondWriter({ store, again }: OpenStore): Promise<KeyvStorageAdapter> {
  return again === undefined ? store : again();
}

/** Checks that a value was returned as it was stored: the same type, and the same text or bytes. */
export function assertValue(actual: unknown, expected: StoredValue | undefined, what = "value"): void {
  if (expected instanceof Uint8Array) {
    assert.ok(actual instanceof Uint8Array, `${what}: bytes were returned as ${typeof actual}`);
    assert.ok(Buffer.compare(actual, expected) === 0, `${what}: other bytes were returned`);
  } else {
    assert.equal(actual, expected, what);
  }
}

/** Checks each value with {@link assertValue}. */
export function assertValues(actual: readonly unknown[], expected: readonly (StoredValue | undefined)[]): void {
  assert.equal(actual.length, expected.length, "number of results");
  for (const [index, value] of expected.entries()) assertValue(actual[index], value, `value ${index}`);
}

/** Returns everything that the iterator of a store yields, by key. Fails if a key is yielded twice. */
export async function iterated(store: KeyvStorageAdapter): Promise<Map<unknown, unknown>> {
  assert.ok(store.iterator, "the store has no iterator");
  const found = new Map<unknown, unknown>();
  for await (const [key, value] of store.iterator()) {
    assert.ok(!found.has(key), "the iterator yields a key twice");
    found.set(key, value);
  }
  return found;
}

/** Returns `count` texts: the prefix with 0, with 1, and so on. */
export function numbered(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix}${index}`);
}
