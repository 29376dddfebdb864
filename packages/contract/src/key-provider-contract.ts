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

/** A provider under test, with its source. */
export interface OpenKeyProvider {
  /** What is tested. */
  readonly provider: KeyProvider;
  /** Ends what the provider and its source hold open. */
  close(): Promise<void>;
  /**
   * Every text that would give the source's key material away, in each encoding that the source uses: no error and no
   * printed ring may contain one. Empty where the source holds no key.
   */
  secrets(): readonly string[];
  /** Puts another ring into the source, behind the provider's back. Needed to test `subscribe` without `save`. */
  change?(): Promise<void>;
}

/** A source that is broken, and how `load` has to say so. */
export interface FailingKeyProvider {
  /** What is wrong with the source, as the name of a test. */
  readonly name: string;
  /** What `load` must reject with. */
  readonly code: KeywardErrorCode;
  /** Opens a provider over such a source. */
  open(): Promise<OpenKeyProvider>;
}

/** What {@link keyProviderContract} is told about a provider. */
export interface KeyProviderContractOptions {
  /** Heads the group of tests. */
  readonly name: string;
  /** Opens a provider over a fresh source that holds a usable ring. Called once for each test. */
  open(): Promise<OpenKeyProvider>;
  /** What the provider claims to do. One that lacks it, or does more, fails. */
  readonly expect: {
    readonly save: boolean;
    readonly subscribe: boolean;
  };
  /** Broken sources: a missing key, a cut key, a source that does not answer. */
  readonly failing?: readonly FailingKeyProvider[];
}

/**
 * Registers the tests that a key provider must pass: what it loads is a usable ring, `save` is a compare-and-swap,
 * an aborted load ends, a subscription ends when it is told to, and no error shows key material.
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
    test("does what it is expected to do, no more and no less", async ({ provider }) => {
      assert.equal(provider.save !== undefined, options.expect.save, "save");
      assert.equal(provider.subscribe !== undefined, options.expect.subscribe, "subscribe");
    });

    test("does the same with other settings of freshness", async ({ provider }) => {
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

    test("loads a ring whose primary is there and enabled", async ({ provider }) => {
      const ring = await provider.load();
      assert.ok(ring instanceof Keyring);
      const primary = ring.keys.find(({ id }) => id === ring.primary);
      assert.equal(primary?.status, "enabled");
      assert.equal(exportKeyring(Keyring.parse(exportKeyring(ring))), exportKeyring(ring));
    });

    test("loads the same ring again while the source does not change", async ({ provider }) => {
      assert.equal(exportKeyring(await provider.load()), exportKeyring(await provider.load()));
    });

    test("gives concurrent loads the same ring", async ({ provider }) => {
      const rings = await Promise.all(Array.from({ length: 16 }, () => provider.load()));
      assert.equal(new Set(rings.map(exportKeyring)).size, 1);
    });

    test("prints a ring without key material", async ({ provider, secrets }) => {
      const ring = await provider.load();
      assertHidden(
        `${ring} ${JSON.stringify(ring)} ${inspect(ring, { depth: Infinity, showHidden: true })}`,
        secrets(),
      );
    });

    test("prints itself without key material", async ({ provider, secrets }) => {
      await provider.load();
      assertHidden(inspect(provider, { depth: Infinity, showHidden: true }), secrets());
    });

    test("does not load for a signal that is aborted already", async ({ provider, secrets }) => {
      const reason = new Error("no longer wanted");
      const error = await rejectionOf(provider.load({ signal: AbortSignal.abort(reason) }));
      // The reason itself, as fetch does it, or an error of ours that names it.
      const named = error === reason || (error instanceof KeywardError && error.cause === reason);
      assert.ok(named, `load rejected with ${inspect(error)} instead of the signal's reason`);
      assertHidden(shown(error), secrets());
    });

    test("loads after an aborted load", async ({ provider }) => {
      await rejectionOf(provider.load({ signal: AbortSignal.abort() }));
      assert.ok((await provider.load()) instanceof Keyring);
    });

    test("does not let one caller's abort end the load of another", async ({ provider }) => {
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
        `rejects with ${failing.code}: ${failing.name}`,
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
  test("loads what it saved", async ({ provider }) => {
    const previous = await provider.load();
    const next = previous.add();
    await provider.save?.(next, previous);
    assert.equal(exportKeyring(await provider.load()), exportKeyring(next));
  });

  test("saves a chain of changes", async ({ provider }) => {
    let ring = await provider.load();
    for (const id of ["contract-1", "contract-2", "contract-3"]) {
      const next = ring.add({ id }).promote(id);
      await provider.save?.(next, ring);
      ring = await provider.load();
      assert.equal(ring.primary, id);
    }
  });

  test("refuses to save over a ring it was not told of, and leaves that ring", async ({ provider, secrets }) => {
    const stale = await provider.load();
    const winner = stale.add({ id: "winner" });
    await provider.save?.(winner, stale);
    const error = await rejectionOf(Promise.resolve(provider.save?.(stale.add({ id: "loser" }), stale)));
    assertKeywardError(error, "KEYRING_CONFLICT");
    assertHidden(shown(error), secrets());
    assert.equal(exportKeyring(await provider.load()), exportKeyring(winner));
  });

  test("lets exactly one of several concurrent saves win", async ({ provider }) => {
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
  test("tells subscribers of a change, until they unsubscribe", async (opened) => {
    const { provider } = opened;
    await provider.load();
    const heard = { leaving: 0, staying: 0 };
    const leave = provider.subscribe?.(() => heard.leaving++);
    const stay = provider.subscribe?.(() => heard.staying++);
    try {
      await changeSource(opened);
      await eventually("both subscribers hear of a change", () => heard.leaving > 0 && heard.staying > 0);

      leave?.();
      const before = { ...heard };
      await changeSource(opened);
      await eventually("the remaining subscriber hears of a change", () => heard.staying > before.staying);
      assert.equal(heard.leaving, before.leaving, "a subscriber heard of a change after it had unsubscribed");
    } finally {
      leave?.();
      stay?.();
    }
  });

  test("can be unsubscribed from twice", async ({ provider }) => {
    const leave = provider.subscribe?.(() => undefined);
    leave?.();
    leave?.();
  });
}

async function changeSource({ provider, change }: OpenKeyProvider): Promise<void> {
  if (change !== undefined) return change();
  assert.ok(provider.save, "to test subscribe, the contract needs open() to return change()");
  const ring = await provider.load();
  await provider.save(ring.add(), ring);
}

async function rejectionOf(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  assert.fail("expected a rejection");
}

function assertKeywardError(error: unknown, code: KeywardErrorCode): void {
  assert.ok(error instanceof KeywardError, `expected a KeywardError, got ${inspect(error)}`);
  assert.equal(error.code, code);
  assert.notEqual(error.hint, "", "an error says what to do next");
}

/** Everything that a log could show of an error: message, stack, properties and causes. */
function shown(error: unknown): string {
  return `${inspect(error, { depth: Infinity, showHidden: true })} ${JSON.stringify(error)}`;
}

function assertHidden(text: string, secrets: readonly string[]): void {
  for (const secret of secrets) {
    // The text is not quoted: a failure must not print what it found.
    assert.equal(text.includes(secret), false, "key material is shown");
  }
}
