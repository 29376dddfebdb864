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

/** The right of one process to initialize the service, until another process takes over. */
export interface InitializationClaim {
  readonly id: string;
  /** Larger than the numbers of all former claims. */
  readonly number: number;
}

/**
 * Claims the initialization for this process. If another process has begun to initialize the service, waits until that
 * process gives up, or makes no progress for five seconds. Then this process takes over. It measures the time itself,
 * because the clocks of two machines may differ.
 *
 * @throws SecretsError `ALREADY_INITIALIZED` if another process has finished the initialization.
 */
export async function claimInitialization(store: ServiceStore): Promise<InitializationClaim> {
  const id = newId();
  let seen: number | undefined;
  let seenAt = performance.now();
  for (;;) {
    const isOverdue = performance.now() - seenAt >= longestInitializationMs;
    const { isClaimed, number } = await store.change(
      serviceRecord,
      serviceKey,
      (current): Decision<ServiceRecord, Claimed> => {
        const initializing = { id, hasGivenUp: false };
        if (current === undefined) {
          const sessionKey = randomBytes(32).toString("base64");
          const next = { v: 1, revision: 0, created: Date.now(), sessionKey, operators: [], initializing } as const;
          return { next: { ...next, operators: [] }, result: { isClaimed: true, number: 0 } };
        }
        const { initializing: other, revision } = current;
        if (other === undefined) throw alreadyInitialized();
        const mayTakeOver = other.hasGivenUp || (isOverdue && revision === seen);
        if (!mayTakeOver) return { result: { isClaimed: false, number: revision } };
        return {
          next: { ...current, revision: revision + 1, initializing },
          result: { isClaimed: true, number: revision + 1 },
        };
      },
    );
    if (isClaimed) return { id, number };
    if (number !== seen) [seen, seenAt] = [number, performance.now()];
    await sleep(askedEveryMs);
  }
}

/** Whether this process has the claim, and the number of the claim that the record has. */
interface Claimed {
  readonly isClaimed: boolean;
  readonly number: number;
}

/**
 * Checks that no other process has taken over the initialization.
 *
 * @throws SecretsError `ALREADY_INITIALIZED`.
 */
export async function requireClaim(store: ServiceStore, claim: InitializationClaim): Promise<void> {
  const record = (await store.read(serviceRecord, serviceKey))?.value;
  if (record?.initializing?.id !== claim.id) throw takenOver();
}

/**
 * Ends the initialization: from here on, the service can be used.
 *
 * @param operator the first operator.
 * @throws SecretsError `ALREADY_INITIALIZED` if another process has taken over the initialization.
 */
export async function finishInitialization(
  store: ServiceStore,
  claim: InitializationClaim,
  operator: Keeper,
): Promise<void> {
  await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, undefined> => {
    if (current?.initializing?.id !== claim.id) throw takenOver();
    const { initializing: _, ...rest } = current;
    return { next: { ...rest, operators: [operator], revision: current.revision + 1 }, result: undefined };
  });
}

/**
 * Gives up the initialization after a failure, so that the next process need not wait.
 *
 * @throws SecretsError `ALREADY_INITIALIZED` if another process has taken over the initialization.
 */
export async function giveUpInitialization(store: ServiceStore, claim: InitializationClaim): Promise<void> {
  await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, undefined> => {
    if (current?.initializing?.id !== claim.id) throw takenOver();
    const initializing = { id: claim.id, hasGivenUp: true };
    return { next: { ...current, revision: current.revision + 1, initializing }, result: undefined };
  });
}

/** How many revocations the record of the installation remembers. */
const keptRevocations = 50;

/**
 * Refuses every token that was created before `time`. Changes nothing if an earlier call had the same or a later time.
 *
 * @param options.clockWasAhead true if the time of the last revocation is still in the future, because a clock was
 * ahead. Then `time` replaces it.
 * @throws SecretsError `CLOCK_JUMPED` if the time of the last revocation is still in the future, and `clockWasAhead` is
 * false.
 */
export async function refuseTokensBefore(
  store: ServiceStore,
  time: number,
  { clockWasAhead }: { readonly clockWasAhead: boolean },
): Promise<void> {
  await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, undefined> => {
    if (current === undefined) throw notInitialized();
    const now = Date.now();
    const { refusedBefore: former = 0, revocations = [] } = current;
    const latest = Math.max(former, ...revocations);
    if (latest > now && !clockWasAhead) throw notYet(latest);
    if (latest <= now && former >= time) return { result: undefined };
    const kept = [...revocations.filter((at) => at <= now), now].slice(-keptRevocations);
    return {
      next: { ...current, refusedBefore: time, revocations: kept, revision: current.revision + 1 },
      result: undefined,
    };
  });
}

/**
 * Checks that a token with the creation time `created` would be valid. Returns the time of the last revocation, for the
 * record of the token.
 *
 * @throws SecretsError `CLOCK_JUMPED` if the service refuses every token that was created before a later time.
 */
export async function requireTokensAccepted(store: ServiceStore, created: number): Promise<number | undefined> {
  const service = (await store.read(serviceRecord, serviceKey))?.value;
  const before = service?.refusedBefore ?? 0;
  if (before > created) throw notYet(before);
  return service?.revocations?.at(-1);
}

function notYet(time: number): SecretsError {
  return new SecretsError(
    "CLOCK_JUMPED",
    `Tokens were revoked with the time ${new Date(time).toISOString()}, which is in the future by the clock of this machine`,
    {
      hint:
        "Compare the clock of this machine with another clock, and correct it if it is behind. If it is right, another clock was " +
        "ahead when tokens were revoked. Then start the gateway once with `keyward gateway start --revoke-tokens-before <time> --clock-was-ahead`, with the present time as `<time>`.",
    },
  );
}

/** Returns the error for a store whose service can be used already. */
export function alreadyInitialized(): SecretsError {
  return new SecretsError("ALREADY_INITIALIZED", "The store has a secrets service already", {
    hint: "Start it with `keyward gateway start`. If no operator has a token, run `keyward tokens recover` on the machine that has the keyring.",
  });
}

function takenOver(): SecretsError {
  return new SecretsError("ALREADY_INITIALIZED", "Another process has taken over the initialization of the service", {
    hint: "Use the tokens that the other process has made. Tokens that this process may have printed are refused. If no process has made tokens, run the command again.",
  });
}
