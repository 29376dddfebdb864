// A process of an application, or of an operator, with one store and one keyring file. Tests control it by signals only.
//   application <store> <keyring> <name>: registers, then reads and writes until SIGTERM. On SIGUSR2 it stops itself with
//     SIGSTOP between two calls, until SIGCONT. It prints "ready", and when it ends the calls that failed.
//   visitor <store> <keyring> <name>: registers, writes once, and ends without `disconnect()`.
//   operator <store> <keyring> <key>: rotates to this key, and prints each step as the step begins.
import { setTimeout as sleep } from "node:timers/promises";
import { EncryptedStore, rotateKey } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { openStore } from "./open-store.ts";

const [role = "", address = "", keyringPath = "", name = ""] = process.argv.slice(2);
const keys = fileKeys(keyringPath);
// A rotation that waits for a stopped process also waits this long, because `longestCallMs` of the store is this value.
const busyTimeoutMs = 5_000;

function tell(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function beApplication(): Promise<void> {
  const replica = { name, heartbeatMs: 50, lapseMs: 400 };
  const store = new EncryptedStore(openStore(address, busyTimeoutMs), { keys, replica });
  const failures = new Set<string>();
  let ended = false;
  let halts = false;
  process.on("SIGTERM", () => {
    ended = true;
  });
  process.on("SIGUSR2", () => {
    halts = true;
  });
  for (let version = 1; !ended; version++) {
    if (halts) {
      await store.settled();
      halts = false;
      process.kill(process.pid, "SIGSTOP");
      // The write happens at once, before a timer or a file system event can report a new keyring.
      await store.set(`${name}-back`, "was halted").catch((error: unknown) => failures.add(String(error)));
    }
    try {
      await store.set(`${name}-${version % 5}`, `${name} ${version}`);
      if ((await store.get(`${name}-${version % 5}`)) !== `${name} ${version}`) failures.add("a write was lost");
      await store.getMany(["one-0", "one-1", "two-0", "two-1"]);
    } catch (error) {
      failures.add(`${String(error)} (${error instanceof Error ? String(error.cause) : ""})`);
    }
    if (version === 5) tell("ready");
    await sleep(1);
  }
  await store.disconnect();
  tell(JSON.stringify([...failures]));
}

async function visit(): Promise<void> {
  const store = new EncryptedStore(openStore(address, busyTimeoutMs), { keys, replica: { name } });
  await store.set("visitor", "was here");
  tell("ready");
}

async function operate(): Promise<void> {
  const stores = { records: new EncryptedStore(openStore(address, busyTimeoutMs), { keys }) };
  await rotateKey(keys, {
    stores,
    graceMs: 50,
    newKey: { id: name },
    onProgress: (progress) => progress.kind === "step" && tell(progress.step),
  });
  await stores.records.disconnect();
}

if (role === "application") await beApplication();
else if (role === "visitor") await visit();
else await operate();
