import assert from "node:assert/strict";
import { type KeyProviderContractOptions, keyProviderContract, type OpenKeyProvider } from "@keyward/contract";
import { exportKeyring, type KeyProvider, Keyring, KeywardError } from "@keyward/core";
import { describe, it } from "vitest";

/** A key provider with a keyring in memory, which passes the contract. Tests override its methods to break it. */
class MemoryProvider implements KeyProvider {
  #document = exportKeyring(Keyring.generate("first"));
  readonly #subscribers = new Set<() => void>();

  async load({ signal }: { readonly signal?: AbortSignal } = {}): Promise<Keyring> {
    signal?.throwIfAborted();
    return Keyring.parse(this.#document);
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    if (this.#document !== exportKeyring(previous)) {
      throw new KeywardError("KEYRING_CONFLICT", "Another process changed the keyring", {
        hint: "Load the keyring again.",
      });
    }
    this.overwrite(next);
  }

  subscribe(changed: () => void): () => void {
    const subscriber = (): void => changed();
    this.#subscribers.add(subscriber);
    return () => this.#subscribers.delete(subscriber);
  }

  overwrite(next: Keyring): void {
    this.#document = exportKeyring(next);
    for (const changed of this.#subscribers) changed();
  }

  secrets(): readonly string[] {
    return [...this.#document.matchAll(/"material": "([^"]+)"/g)].map(([, material = ""]) => material);
  }
}

class EmptyProvider extends MemoryProvider {
  override async load(): Promise<Keyring> {
    throw new KeywardError("PROVIDER_UNAVAILABLE", "There is no key", { hint: "Set a key." });
  }
}

/** A provider whose error contains key material. */
class TalkativeProvider extends MemoryProvider {
  override async load(): Promise<Keyring> {
    throw new KeywardError("PROVIDER_UNAVAILABLE", `There is no keyring in ${this.secrets()}`, {
      hint: "Set a keyring.",
    });
  }
}

function opening(make: () => MemoryProvider): () => Promise<OpenKeyProvider> {
  return async () => {
    const provider = make();
    return { provider, secrets: () => provider.secrets(), close: async () => undefined };
  };
}

const options: KeyProviderContractOptions = {
  name: "a provider in memory",
  expect: { save: true, subscribe: true },
  open: opening(() => new MemoryProvider()),
  failing: [{ name: "a missing key", code: "PROVIDER_UNAVAILABLE", open: opening(() => new EmptyProvider()) }],
};

keyProviderContract({ describe, it }, options);

async function failuresOf(broken: KeyProviderContractOptions): Promise<string[]> {
  const tests: { readonly name: string; readonly body: () => Promise<void> }[] = [];
  keyProviderContract({ describe: (_, body) => body(), it: (name, body) => tests.push({ name, body }) }, broken);
  const outcomes = await Promise.allSettled(tests.map(({ body }) => body()));
  return tests.filter((_, index) => outcomes[index]?.status === "rejected").map(({ name }) => name);
}

describe("keyProviderContract", () => {
  it("fails a provider whose save() writes without comparing the stored keyring", async () => {
    class Overwriting extends MemoryProvider {
      override async save(next: Keyring): Promise<void> {
        this.overwrite(next);
      }
    }
    assert.deepEqual(await failuresOf({ ...options, open: opening(() => new Overwriting()) }), [
      "save() does not overwrite a keyring that another save wrote after the load",
      "save() succeeds for exactly one of several concurrent calls",
    ]);
  });

  it("fails a provider that ignores an aborted signal", async () => {
    class Unstoppable extends MemoryProvider {
      override load(): Promise<Keyring> {
        return super.load();
      }
    }
    assert.deepEqual(await failuresOf({ ...options, open: opening(() => new Unstoppable()) }), [
      "rejects a load whose signal is already aborted",
      "loads a keyring after an aborted load",
    ]);
  });

  it("fails a provider that still calls a subscriber after it has unsubscribed", async () => {
    class Clinging extends MemoryProvider {
      override subscribe(changed: () => void): () => void {
        super.subscribe(changed);
        return () => undefined;
      }
    }
    assert.deepEqual(await failuresOf({ ...options, open: opening(() => new Clinging()) }), [
      "a subscriber is called after each change until the subscriber unsubscribes",
    ]);
  });

  it("fails a provider that loads a different keyring each time", async () => {
    class Fickle extends MemoryProvider {
      override async load({ signal }: { readonly signal?: AbortSignal } = {}): Promise<Keyring> {
        signal?.throwIfAborted();
        return Keyring.generate();
      }
    }
    const failures = await failuresOf({ ...options, open: opening(() => new Fickle()) });
    assert.ok(failures.includes("returns equal keyrings to concurrent loads"));
  });

  it("fails a provider whose error contains key material, and the failure does not print the key material", async () => {
    const talkative = opening(() => new TalkativeProvider());
    assert.deepEqual(
      await failuresOf({
        ...options,
        failing: [{ name: "no keyring", code: "PROVIDER_UNAVAILABLE", open: talkative }],
      }),
      ["rejects a load with PROVIDER_UNAVAILABLE: no keyring"],
    );
  });

  it("fails a provider that has a method that is false in the option expect", async () => {
    assert.deepEqual(await failuresOf({ ...options, expect: { save: false, subscribe: false } }), [
      "has exactly the expected methods",
    ]);
  });
});
