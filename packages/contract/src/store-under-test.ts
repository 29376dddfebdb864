import assert from "node:assert/strict";
import type { StoredValue } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import type { TestRunner } from "./runner.ts";

/** A store under test, over a backend of its own that is empty. */
export interface OpenStore {
  /** The store, without a namespace. */
  readonly store: KeyvStorageAdapter;
  /** Another store on the same records, in a namespace; "" is none. */
  inNamespace(namespace: string): KeyvStorageAdapter;
  /**
   * Another store on the same records, without a namespace, over a connection of its own, as another process would have
   * it. Absent where the records cannot be reached twice.
   */
  again?(): Promise<KeyvStorageAdapter>;
  /** Ends everything that was opened, and removes the backend. */
  close(): Promise<void>;
}

/** What a store claims to be able to do, and whether {@link StoreContractOptions} should hold it to that. */
export interface StoreExpectations {
  /** Has `replace`. */
  readonly atomic: boolean;
  /** Has `scan`. */
  readonly scannable: boolean;
  /** Has `ranges`. */
  readonly ranged: boolean;
  /** Has `values: "bytes"`. */
  readonly bytes: boolean;
  /** Has `reserved()`. */
  readonly reserved: boolean;
  /** Has `namespaced()`. */
  readonly namespaced: boolean;
}

/**
 * A part of the contract that a store is known to break. The test then demands that it does, so that an exception that
 * is no longer needed fails.
 *
 * - `alive-when-expiring`: a record is still there in the very millisecond in which it expires.
 * - `delete-finds-expired`: `delete` says `true` for a record that had expired.
 * - `no-namespace-is-all`: `clear` and `iterator` of a store without a namespace reach the records of all namespaces.
 * - `namespaces-collide`: namespace and key are joined by `::`, so that no namespace + `a::b` is the place `a` + `b`; and
 *   `a::b` + `c` is `a` + `b::c`, unless {@link StoreContractOptions.refusesNamespacesWith} says otherwise.
 */
export type StoreException =
  | "alive-when-expiring"
  | "delete-finds-expired"
  | "no-namespace-is-all"
  | "namespaces-collide";

/** What {@link storeContract} is told about a store. */
export interface StoreContractOptions {
  /** Heads the group of tests. */
  readonly name: string;
  /** Opens the store over a fresh backend. Called once for each test. */
  open(): Promise<OpenStore>;
  /** The capabilities that the store has. One that lacks one of them, or has another, fails. */
  readonly expect: StoreExpectations;
  /** Whether bytes come back as bytes; `expect.bytes` unless given. */
  readonly roundTripsBytes?: boolean;
  /**
   * Whether the store also serves Keyv 5, which passes durations: as the third argument of `set`, and as `ttl` of an
   * entry of `setMany`. Default: not.
   */
  readonly takesDurations?: boolean;
  /**
   * What the store puts between namespace and key and does not escape. The store is then held to refusing every namespace
   * that has it, with `VALUE_INVALID`, instead of keeping records there.
   */
  readonly refusesNamespacesWith?: string;
  /** Parts of the contract that the store is known to break. */
  readonly exceptions?: readonly StoreException[];
}

/** Registers a test that gets a store of its own. */
export type StoreTest = (
  name: string,
  body: (opened: OpenStore) => Promise<void>,
  /** The exception under which the test must fail. */
  exception?: StoreException,
) => void;

/** Registers tests on the runner, each of which opens a store, and closes it whatever happens. */
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
            `the exception ${exception} is not needed any more`,
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

/** Whether the store claims to refuse a namespace. */
export function isRefused(namespace: string, { refusesNamespacesWith: separator }: StoreContractOptions): boolean {
  return separator !== undefined && namespace.includes(separator);
}

/** A second way to the records: over another connection where there is one. */
export async function secondWriter({ store, again }: OpenStore): Promise<KeyvStorageAdapter> {
  return again === undefined ? store : again();
}

/** That a value came back as it was stored: the same type, the same text or bytes. */
export function assertValue(actual: unknown, expected: StoredValue | undefined, what = "value"): void {
  if (expected instanceof Uint8Array) {
    assert.ok(actual instanceof Uint8Array, `${what}: bytes came back as ${typeof actual}`);
    assert.ok(Buffer.compare(actual, expected) === 0, `${what}: other bytes came back`);
  } else {
    assert.equal(actual, expected, what);
  }
}

/** As {@link assertValue} for each. */
export function assertValues(actual: readonly unknown[], expected: readonly (StoredValue | undefined)[]): void {
  assert.equal(actual.length, expected.length, "one answer for each key");
  for (const [index, value] of expected.entries()) assertValue(actual[index], value, `value ${index}`);
}

/** What an iterator yields, by key. A key that comes twice fails. */
export async function iterated(store: KeyvStorageAdapter): Promise<Map<unknown, unknown>> {
  assert.ok(store.iterator, "the store has an iterator");
  const found = new Map<unknown, unknown>();
  for await (const [key, value] of store.iterator()) {
    assert.ok(!found.has(key), "the iterator yields a key once");
    found.set(key, value);
  }
  return found;
}

/** `count` numbered texts. */
export function numbered(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix}${index}`);
}
