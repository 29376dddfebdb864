import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { notInitialized } from "./access/not-initialized.ts";
import { newId } from "./records/ids.ts";
import type { Keeper } from "./records/keeper.ts";
import { serviceKey } from "./records/record-keys.ts";
import { type ServiceRecord, serviceRecord } from "./records/service-record.ts";
import { SecretsError } from "./secrets-error.ts";
import type { Decision, ServiceStore } from "./store/service-store.ts";

// A process that initializes the service takes less than a second. One that takes longer was stopped, or is refused at
// its last step.
const longestInitializationMs = 5_000;
const askedEveryMs = 200;

/** Whether a store has no service, one whose initialization was not finished, or one that can be used. */
export type ServiceState = "new" | "initializing" | "initialized";

/** Returns the state of the service in a store. */
export async function serviceState(store: ServiceStore): Promise<ServiceState> {
  const record = await store.read(serviceRecord, serviceKey);
  if (record === undefined) return "new";
  return record.value.initializing === undefined ? "initialized" : "initializing";
}

/**
 * Checks that the service was not initialized yet.
 *
 * @throws SecretsError `ALREADY_INITIALIZED`.
 */
export async function requireUninitialized(store: ServiceStore): Promise<void> {
  if ((await serviceState(store)) === "initialized") throw alreadyInitialized();
}

/**
 * Begins the initialization for one process at a time. Waits for a process that has begun before, until that process has
 * had its time. Returns what {@link finishInitialization} needs.
 *
 * @throws SecretsError `ALREADY_INITIALIZED`.
 */
export async function claimInitialization(store: ServiceStore): Promise<string> {
  const id = newId();
  for (;;) {
    const isClaimed = await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, boolean> => {
      const now = Date.now();
      if (current === undefined) {
        const sessionKey = randomBytes(32).toString("base64");
        const initializing = { id, since: now };
        return { next: { v: 1, revision: 0, created: now, sessionKey, operators: [], initializing }, result: true };
      }
      if (current.initializing === undefined) throw alreadyInitialized();
      if (Math.abs(now - current.initializing.since) < longestInitializationMs) return { result: false };
      const revision = current.revision + 1;
      return { next: { ...current, revision, initializing: { id, since: now } }, result: true };
    });
    if (isClaimed) return id;
    await sleep(askedEveryMs);
  }
}

/**
 * Ends the initialization: from here on, the service can be used.
 *
 * @param operator the first operator.
 * @throws SecretsError `ALREADY_INITIALIZED` if another process has taken over the initialization.
 */
export async function finishInitialization(store: ServiceStore, claim: string, operator: Keeper): Promise<void> {
  await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, undefined> => {
    if (current?.initializing?.id !== claim) throw alreadyInitialized();
    const { initializing: _, ...rest } = current;
    return { next: { ...rest, operators: [operator], revision: current.revision + 1 }, result: undefined };
  });
}

/** Gives up the initialization after a failure, so that the next process need not wait. */
export async function giveUpInitialization(store: ServiceStore, claim: string): Promise<void> {
  await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, undefined> => {
    if (current?.initializing?.id !== claim) return { result: undefined };
    const revision = current.revision + 1;
    return { next: { ...current, revision, initializing: { id: claim, since: 0 } }, result: undefined };
  });
}

/** Refuses every token that was created before a time. A later call with an earlier time changes nothing. */
export async function refuseTokensBefore(store: ServiceStore, time: number): Promise<void> {
  await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, undefined> => {
    if (current === undefined) throw notInitialized();
    if ((current.refusedBefore ?? 0) >= time) return { result: undefined };
    return { next: { ...current, refusedBefore: time, revision: current.revision + 1 }, result: undefined };
  });
}

function alreadyInitialized(): SecretsError {
  return new SecretsError("ALREADY_INITIALIZED", "The store has a secrets service already", {
    hint: "Start it with `keyward gateway start`. If no operator has a token, run `keyward tokens recover` on the machine that has the keyring.",
  });
}
