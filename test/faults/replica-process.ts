// A process of an application that rotates its keys: it is registered in the store, and reads and writes without a pause.
// It takes its keys from where it is told, as any application does, and tells what went wrong when it is asked to end.
import { setTimeout as sleep } from "node:timers/promises";
import { EncryptedStore } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { openStore } from "./open-store.ts";
import { below, pick, randomFrom } from "./random.ts";
import { Versions } from "./versions.ts";

/** What the process tells: that it is under way, that it may be halted, and at its end what it did. */
export type ReplicaMessage =
  | { readonly kind: "working" | "idle" }
  | { readonly kind: "end"; readonly calls: number; readonly failures: readonly string[] };

const keysEach = 12;
const mostFailures = 20;
const idleMs = 500;

const [address = "", source = "", own = "", names = "", pauseMs = "", seed = ""] = process.argv.slice(2);
const random = randomFrom(Number(seed));
const keys = await keysFrom(source);
const inner = openStore(address);
// The last one follows late: whoever does not wait for it finds it sealing under a key that is gone.
const heartbeatMs = names.endsWith(own) ? 800 : 100;
const store = new EncryptedStore(inner.namespaced("sessions"), {
  keys,
  replica: { name: own, heartbeatMs, lapseMs: Math.max(1_500, 5 * heartbeatMs) },
});
const failures: string[] = [];
const ownKeys = keysOf(own);
const allKeys = names.split(",").flatMap(keysOf);
const versions = new Versions(store, ownKeys, failures);
let calls = 0;
let ended = false;

store.on("reencrypt:error", ({ error }) => failures.push(`sealing again: ${String(error)}`));

function keysOf(name: string): string[] {
  return Array.from({ length: keysEach }, (_, index) => `${name}/${index}`);
}

function tell(message: ReplicaMessage): void {
  process.send?.(message);
}

let idle = false;
process.on("message", (message) => {
  if (message === "idle") idle = true;
  else ended = true;
});

await versions.begin();
tell({ kind: "working" });
while (!ended) {
  try {
    const chance = random();
    if (chance < 0.3) await versions.write(pick(random, ownKeys));
    else if (chance < 0.8) await versions.read([pick(random, allKeys)]);
    else await versions.read(allKeys.slice(below(random, allKeys.length)).slice(0, 20));
  } catch (error) {
    failures.push(`${String(error)} (${error instanceof Error ? String(error.cause) : ""})`);
  }
  calls++;
  if (idle) {
    // What is halted in the middle of a write, and for longer than the grace, is beyond what a rotation can wait for.
    await store.settled();
    idle = false;
    tell({ kind: "idle" });
    await sleep(idleMs);
  }
  await sleep(Number(pauseMs));
}
await store.disconnect();
await inner.disconnect();
tell({ kind: "end", calls, failures: failures.slice(0, mostFailures) });
process.disconnect();
