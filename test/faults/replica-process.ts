// A process of an application whose keys rotate. It is a replica, and reads and writes without a pause. The test passes it
// the source of its keys. When the test asks it to end, it sends the calls that failed.
import { setTimeout as sleep } from "node:timers/promises";
import { EncryptedStore } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { openStore } from "./open-store.ts";
import { below, pick, randomFrom } from "./random.ts";
import { Versions } from "./versions.ts";

/** A message of the replica process to the test: it is running, it may be stopped now, or its result at its end. */
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
// The last process loads a keyring late. A rotation that did not wait for this process would remove a key under which the
// process still encrypts.
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

store.on("reencrypt:error", ({ error }) => failures.push(`re-encryption: ${String(error)}`));

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
    // A rotation cannot wait for a process that is stopped in the middle of a write for longer than the grace.
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
