import assert from "node:assert/strict";
import { type KeyProviderContractOptions, keyProviderContract, type OpenKeyProvider } from "@keyward/contract";
import { exportKeyring, type KeyProvider, Keyring, KeywardError } from "@keyward/core";
import { describe, it } from "vitest";

/** A provider over a variable, as strict as the contract asks for. Its parts are replaced below to break it. */
class VariableProvider implements KeyProvider {
  #document = exportKeyring(Keyring.generate("first"));
  readonly #subscribers = new Set<() => void>();

  async load({ signal }: { readonly signal?: AbortSignal } = {}): Promise<Keyring> {
    signal?.throwIfAborted();
    return Keyring.parse(this.#document);
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    if (this.#document !== exportKeyring(previous)) {
      throw new KeywardError("KEYRING_CONFLICT", "The keyring was changed by somebody else", {
        hint: "Load it again.",
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

class EmptyProvider extends VariableProvider {
  override async load(): Promise<Keyring> {
    throw new KeywardError("PROVIDER_UNAVAILABLE", "There is no key", { hint: "Set one." });
  }
}

class TalkativeProvider extends VariableProvider {
  override async load(): Promise<Keyring> {
    throw new KeywardError("PROVIDER_UNAVAILABLE", `There is no ring in ${this.secrets()}`, { hint: "Set one." });
  }
}

function opening(make: () => VariableProvider): () => Promise<OpenKeyProvider> {
  return async () => {
    const provider = make();
    return { provider, secrets: () => provider.secrets(), close: async () => undefined };
  };
}

const options: KeyProviderContractOptions = {
  name: "A provider over a variable",
  expect: { save: true, subscribe: true },
  open: opening(() => new VariableProvider()),
  failing: [{ name: "there is no key", code: "PROVIDER_UNAVAILABLE", open: opening(() => new EmptyProvider()) }],
};

keyProviderContract({ describe, it }, options);

async function failuresOf(broken: KeyProviderContractOptions): Promise<string[]> {
  const tests: { readonly name: string; readonly body: () => Promise<void> }[] = [];
  keyProviderContract({ describe: (_, body) => body(), it: (name, body) => tests.push({ name, body }) }, broken);
  const outcomes = await Promise.allSettled(tests.map(({ body }) => body()));
  return tests.filter((_, index) => outcomes[index]?.status === "rejected").map(({ name }) => name);
}

describe("the key provider contract", () => {
  it("notices when save does not compare", async () => {
    class Overwriting extends VariableProvider {
      override async save(next: Keyring): Promise<void> {
        this.overwrite(next);
      }
    }
    assert.deepEqual(await failuresOf({ ...options, open: opening(() => new Overwriting()) }), [
      "refuses to save over a ring it was not told of, and leaves that ring",
      "lets exactly one of several concurrent saves win",
    ]);
  });

  it("notices when an aborted signal is ignored", async () => {
    class Unstoppable extends VariableProvider {
      override load(): Promise<Keyring> {
        return super.load();
      }
    }
    assert.deepEqual(await failuresOf({ ...options, open: opening(() => new Unstoppable()) }), [
      "does not load for a signal that is aborted already",
      "loads after an aborted load",
    ]);
  });

  it("notices when unsubscribing does nothing", async () => {
    class Clinging extends VariableProvider {
      override subscribe(changed: () => void): () => void {
        super.subscribe(changed);
        return () => undefined;
      }
    }
    assert.deepEqual(await failuresOf({ ...options, open: opening(() => new Clinging()) }), [
      "tells subscribers of a change, until they unsubscribe",
    ]);
  });

  it("notices a ring that differs from load to load", async () => {
    class Fickle extends VariableProvider {
      override async load({ signal }: { readonly signal?: AbortSignal } = {}): Promise<Keyring> {
        signal?.throwIfAborted();
        return Keyring.generate();
      }
    }
    const failures = await failuresOf({ ...options, open: opening(() => new Fickle()) });
    assert.ok(failures.includes("gives concurrent loads the same ring"));
  });

  it("notices key material in an error, and does not print it", async () => {
    const talkative = opening(() => new TalkativeProvider());
    assert.deepEqual(
      await failuresOf({ ...options, failing: [{ name: "no ring", code: "PROVIDER_UNAVAILABLE", open: talkative }] }),
      ["rejects with PROVIDER_UNAVAILABLE: no ring"],
    );
  });

  it("notices a provider that can do less or more than it claims", async () => {
    assert.deepEqual(await failuresOf({ ...options, expect: { save: false, subscribe: false } }), [
      "does what it is expected to do, no more and no less",
    ]);
  });
});
