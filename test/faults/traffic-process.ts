// A process with its own keyring that writes its own records and reads those of all processes.
// It receives "ring …" with a keyring to use, "calls …" with the number of calls after which it answers, and "end".
import { setImmediate as nextTurn } from "node:timers/promises";
import { EncryptedStore, type KeyProvider, Keyring, type ReencryptEvent } from "@keyward/core";
import { openStore } from "./open-store.ts";
import { below, pick, randomFrom } from "./random.ts";
import { Versions } from "./versions.ts";

/** A message of the process that reads and writes, to the test. */
export type TrafficMessage =
  | { readonly kind: "ready" }
  /** `reencrypted` lists the key ids between which lazy re-encryption has moved records so far, such as "old>new". */
  | { readonly kind: "done"; readonly reencrypted: readonly string[] }
  | { readonly kind: "end"; readonly calls: number; readonly failures: readonly string[] };

const [address = "", ownName = "", names = "", seed = ""] = process.argv.slice(2);
const keysPerProcess = 20;
const random = randomFrom(Number(seed));

function tell(message: TrafficMessage): void {
  process.send?.(message);
}

class SentKeys implements KeyProvider {
  #ring: Keyring | undefined;
  #changed: () => void = () => undefined;

  take(ring: Keyring): void {
    this.#ring = ring;
    this.#changed();
  }

  async load(): Promise<Keyring> {
    if (this.#ring === undefined) throw new Error("No keyring was sent yet");
    return this.#ring;
  }

  subscribe(changed: () => void): () => void {
    this.#changed = changed;
    return () => undefined;
  }
}

const keys = new SentKeys();
const store = new EncryptedStore(openStore(address), { keys });
const failures: string[] = [];
const reencrypted = new Set<string>();
store.on("reencrypted", ({ from, to }: ReencryptEvent) => reencrypted.add(`${from}>${to}`));
store.on("reencrypt:error", ({ error }: ReencryptEvent) => failures.push(`Re-encryption failed: ${String(error)}`));

const ownKeys = keysOf(ownName);
const allKeys = names.split(",").flatMap(keysOf);
const versions = new Versions(store, ownKeys, failures);
let calls = 0;
let wanted: { readonly calls: number; readonly resolve: () => void } | undefined;
let ended = false;

function keysOf(name: string): string[] {
  return Array.from({ length: keysPerProcess }, (_, index) => `${name}-${index}`);
}

async function work(): Promise<void> {
  while (!ended) {
    try {
      const chance = random();
      if (chance < 0.3) await versions.write(pick(random, ownKeys));
      else if (chance < 0.7) await versions.read([pick(random, allKeys)]);
      else await versions.read(allKeys.slice(below(random, allKeys.length)));
    } catch (error) {
      failures.push(`${String(error)} (${error instanceof Error ? String(error.cause) : ""})`);
    }
    calls++;
    // SQLite answers within one turn of the event loop, and messages arrive between turns.
    await nextTurn();
    if (wanted !== undefined && calls >= wanted.calls) wanted.resolve();
  }
  await store.disconnect();
  tell({ kind: "end", calls, failures: failures.slice(0, 20) });
  process.disconnect();
}

let working: Promise<void> | undefined;

async function takeRing(document: string): Promise<void> {
  const changed = new Promise<void>((resolve) => store.once("keyring:changed", () => resolve()));
  keys.take(Keyring.parse(document));
  if (working !== undefined) return await changed;
  await versions.begin();
  working = work();
}

async function makeCalls(count: number): Promise<void> {
  await new Promise<void>((resolve) => {
    wanted = { calls: calls + count, resolve };
  });
  wanted = undefined;
}

process.on("message", async (message) => {
  const [verb, ...given] = String(message).split(" ");
  const text = given.join(" ");
  if (verb === "end") {
    ended = true;
    return;
  }
  if (verb === "ring") await takeRing(text);
  else await makeCalls(Number(text));
  tell({ kind: "done", reencrypted: [...reencrypted] });
});
tell({ kind: "ready" });
