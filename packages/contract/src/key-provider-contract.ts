import assert from "node:assert/strict";
import { inspect } from "node:util";
import {
  exportKeyring,
  type KeyProvider,
  Keyring,
  KeywardError,
  type KeywardErrorCode,
  withFreshness,
} from "@keyward/core";
import type { TestRunner } from "./runner.ts";
import { eventually } from "./waiting.ts";

/** A key provider under test, and access to its source. */
export interface OpenKeyProvider {
  /** The key provider to be tested. */
  readonly provider: KeyProvider;
  /** Closes the provider and its source, with all connections, files and timers. */
  close(): Promise<void>;
  /**
   * Returns the key material of the source as texts, in each encoding that the source uses. No error, no printed
   * keyring and no printed provider may contain any of these texts. The list is empty if the source has no key.
   */
  secrets(): readonly string[];
  /**
   * Changes the keyring in the source, without the provider. Required if the provider has `subscribe` but no `save`.
   */
  change?(): Promise<void>;
}

/** A key provider with a broken source, and the error code with which `load` must reject. */
export interface FailingKeyProvider {
  /** The fault of the source, such as "a truncated key". The name of the test ends with this text. */
  readonly name: string;
  /** The error code with which `load` must reject. */
  readonly code: KeywardErrorCode;
  /** Opens a provider over the broken source. */
  open(): Promise<OpenKeyProvider>;
}

/** Options of {@link keyProviderContract}: how to open the provider under test, and which methods it must have. */
export interface KeyProviderContractOptions {
  /** The name of the provider. The group of tests is named `<name>: key provider contract`. */
  readonly name: string;
  /** Opens a provider over a new source that has a valid keyring. The contract calls `open` once for each test. */
  open(): Promise<OpenKeyProvider>;
  /**
   * The optional methods of the provider. The contract fails if the provider lacks a method that is `true` here, or has
   * a method that is `false` here.
   */
  readonly expect: {
    readonly save: boolean;
    readonly subscribe: boolean;
  };
  /** Providers with broken sources, such as a missing key, a truncated key or a server that hangs. Default: none. */
  readonly failing?: readonly FailingKeyProvider[];
}

/**
 * Registers the tests that a key provider must pass:
 *
 * - `load` returns a valid keyring, and rejects if its signal is aborted.
 * - `save` writes only if the source still has the keyring that the change is based on (compare-and-swap).
 * - A subscriber is called after each change, until it unsubscribes.
 * - No error, keyring or provider shows key material when it is printed.
 *
 * @param runner The functions of a test runner that register tests.
 * @example
 * async function open() {
 *   const key = randomBytes(32).toString("base64");
 *   const provider: KeyProvider = { load: envKeys("APP_KEY", { env: { APP_KEY: key } }).load };
 *   return { provider, secrets: () => [key], close: async () => undefined };
 * }
 * keyProviderContract({ describe, it }, { name: "envKeys", expect: { save: false, subscribe: false }, open });
 */
export function keyProviderContract(runner: TestRunner, options: KeyProviderContractOptions): void {
  const { describe, it } = runner;

  function test(name: string, body: (opened: OpenKeyProvider) => Promise<void>, open = options.open): void {
    it(name, async () => {
      const opened = await open();
      try {
        await body(opened);
      } finally {
        await opened.close();
      }
    });
  }

  describe(`${options.name}: key provider contract`, () => {
    test("has exactly the expected methods", async ({ provider }) => {
      assert.equal(provider.save !== undefined, options.expect.save, "save");
      assert.equal(provider.subscribe !== undefined, options.expect.subscribe, "subscribe");
    });

    test("keeps its methods and its keyring if withFreshness() changes its refresh time", async ({ provider }) => {
      const changed = withFreshness(provider, { refreshMs: 54_321 });
      assert.deepEqual(changed.freshness, { timeoutMs: 15_000, ...provider.freshness, refreshMs: 54_321 });
      for (const method of ["load", "save", "create", "subscribe"] as const) {
        assert.equal(typeof changed[method], typeof provider[method], method);
      }
      const ring = await changed.load();
      assert.equal(exportKeyring(ring), exportKeyring(await provider.load()));
      if (!options.expect.save) return;
      const next = ring.add();
      await changed.save?.(next, ring);
      assert.equal(exportKeyring(await provider.load()), exportKeyring(next));
    });

    test("loads a keyring whose primary is enabled", async ({ provider }) => {
      const ring = await provider.load();
      assert.ok(ring instanceof Keyring);
      const primary = ring.keys.find(({ id }) => id === ring.primary);
      assert.equal(primary?.status, "enabled");
      assert.equal(exportKeyring(Keyring.parse(exportKeyring(ring))), exportKeyring(ring));
    });

    test("loads an equal keyring each time if the source does not change", async ({ provider }) => {
      assert.equal(exportKeyring(await provider.load()), exportKeyring(await provider.load()));
    });

    test("returns equal keyrings to concurrent loads", async ({ provider }) => {
      const rings = await Promise.all(Array.from({ length: 16 }, () => provider.load()));
      assert.equal(new Set(rings.map(exportKeyring)).size, 1);
    });

    test("loads a keyring that shows no key material when it is printed", async ({ provider, secrets }) => {
      const ring = await provider.load();
      assertHidden(
        `${ring} ${JSON.stringify(ring)} ${inspect(ring, { depth: Infinity, showHidden: true })}`,
        secrets(),
      );
    });

    test("the provider shows no key material when it is printed", async ({ provider, secrets }) => {
      await provider.load();
      assertHidden(inspect(provider, { depth: Infinity, showHidden: true }), secrets());
    });

    test("rejects a load whose signal is already aborted", async ({ provider, secrets }) => {
      const reason = new Error("no longer wanted");
      const error = await rejectionOf(provider.load({ signal: AbortSignal.abort(reason) }));
      // `load` may reject with the reason itself, as fetch does, or with a KeywardError whose cause is the reason.
      const hasReason = error === reason || (error instanceof KeywardError && error.cause === reason);
      assert.ok(hasReason, `load rejected with ${inspect(error)} instead of the signal's reason`);
      assertHidden(shown(error), secrets());
    });

    test("loads a keyring after an aborted load", async ({ provider }) => {
      await rejectionOf(provider.load({ signal: AbortSignal.abort() }));
      assert.ok((await provider.load()) instanceof Keyring);
    });

    test("finishes the load of one caller if another caller aborts another load", async ({ provider }) => {
      const controller = new AbortController();
      const aborted = provider.load({ signal: controller.signal });
      const other = provider.load();
      controller.abort();
      await aborted.catch(() => undefined);
      assert.ok((await other) instanceof Keyring);
    });

    if (options.expect.save) describeSave(test);
    if (options.expect.subscribe) describeSubscribe(test);

    for (const failing of options.failing ?? []) {
      test(
        `rejects a load with ${failing.code}: ${failing.name}`,
        async ({ provider, secrets }) => {
          const error = await rejectionOf(provider.load());
          assertKeywardError(error, failing.code);
          assertHidden(shown(error), secrets());
        },
        failing.open,
      );
    }
  });
}

type ProviderTest = (name: string, body: (opened: OpenKeyProvider) => Promise<void>) => void;

function describeSave(test: ProviderTest): void {
  test("load() returns the keyring that was saved", async ({ provider }) => {
    const previous = await provider.load();
    const next = previous.add();
    await provider.save?.(next, previous);
    assert.equal(exportKeyring(await provider.load()), exportKeyring(next));
  });

  test("save() saves several changes one after the other", async ({ provider }) => {
    let ring = await provider.load();
    for (const id of ["contract-1", "contract-2", "contract-3"]) {
      const next = ring.add({ id }).promote(id);
      await provider.save?.(next, ring);
      ring = await provider.load();
      assert.equal(ring.primary, id);
    }
  });

  test("save() does not overwrite a keyring that another save wrote after the load", async ({ provider, secrets }) => {
    const stale = await provider.load();
    const winner = stale.add({ id: "winner" });
    await provider.save?.(winner, stale);
    const error = await rejectionOf(Promise.resolve(provider.save?.(stale.add({ id: "loser" }), stale)));
    assertKeywardError(error, "KEYRING_CONFLICT");
    assertHidden(shown(error), secrets());
    assert.equal(exportKeyring(await provider.load()), exportKeyring(winner));
  });

  test("save() succeeds for exactly one of several concurrent calls", async ({ provider }) => {
    const previous = await provider.load();
    const rings = Array.from({ length: 6 }, (_, index) => previous.add({ id: `racer-${index}` }));
    const outcomes = await Promise.allSettled(rings.map(async (ring) => provider.save?.(ring, previous)));
    const winners = rings.filter((_, index) => outcomes[index]?.status === "fulfilled");
    assert.equal(winners.length, 1, `${winners.length} of ${rings.length} saves won`);
    for (const outcome of outcomes) {
      if (outcome.status === "rejected") assertKeywardError(outcome.reason, "KEYRING_CONFLICT");
    }
    assert.equal(exportKeyring(await provider.load()), exportKeyring(winners[0] ?? previous));
  });
}

function describeSubscribe(test: ProviderTest): void {
  test("a subscriber is called after each change until the subscriber unsubscribes", async (opened) => {
    const { provider } = opened;
    await provider.load();
    const calls = { leaving: 0, staying: 0 };
    const leave = provider.subscribe?.(() => calls.leaving++);
    const stay = provider.subscribe?.(() => calls.staying++);
    try {
      await changeSource(opened);
      await eventually("both subscribers are called", () => calls.leaving > 0 && calls.staying > 0);

      leave?.();
      const before = { ...calls };
      await changeSource(opened);
      await eventually("the remaining subscriber is called", () => calls.staying > before.staying);
      assert.equal(calls.leaving, before.leaving, "a subscriber was called after it had unsubscribed");
    } finally {
      leave?.();
      stay?.();
    }
  });

  test("allows a subscriber to unsubscribe twice", async ({ provider }) => {
    const leave = provider.subscribe?.(() => undefined);
    leave?.();
    leave?.();
  });
}

async function changeSource({ provider, change }: OpenKeyProvider): Promise<void> {
  if (change !== undefined) return change();
  assert.ok(provider.save, "to test subscribe without save, open() must return a change()");
  const ring = await provider.load();
  await provider.save(ring.add(), ring);
}

async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail("the call did not reject");
}

function assertKeywardError(error: unknown, code: KeywardErrorCode): void {
  assert.ok(error instanceof KeywardError, `expected a KeywardError, got ${inspect(error)}`);
  assert.equal(error.code, code);
  assert.notEqual(error.hint, "", "the error has no hint");
}

/** Returns everything that a log could show of an error: message, stack, properties and causes. */
function shown(error: unknown): string {
  return `${inspect(error, { depth: Infinity, showHidden: true })} ${JSON.stringify(error)}`;
}

function assertHidden(text: string, secrets: readonly string[]): void {
  for (const secret of secrets) {
    // The message does not quote the text: a failing test must not print key material.
    assert.equal(text.includes(secret), false, "key material is shown");
  }
}
