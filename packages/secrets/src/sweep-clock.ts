import { notInitialized } from "./access/not-initialized.ts";
import { serviceKey } from "./records/record-keys.ts";
import { type ServiceRecord, serviceRecord } from "./records/service-record.ts";
import { SecretsError } from "./secrets-error.ts";
import type { Decision, ServiceStore } from "./store/service-store.ts";

const dayMs = 24 * 3_600_000;
const longestPauseMs = 7 * dayMs;

/** Between two sweeps by a clock that is right, also if the service is off at night, passes less time than this. */
const longestGapMs = 20 * 3_600_000;

/**
 * Returns whether a sweep may remove what is old at the time `now`. A clock that is ahead makes everything old: if more than
 * seven days have passed since the last sweep, by the clock, the sweeps of the next day remove nothing. The day begins again
 * if the clock jumps once more, or if processes have clocks that differ by more than 20 hours.
 *
 * @throws SecretsError `NOT_INITIALIZED`; the errors of `ServiceStore.change`.
 */
export async function mayRemove(store: ServiceStore, now: number): Promise<boolean> {
  return await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, boolean> => {
    if (current === undefined) throw notInitialized();
    const { last, jumped } = current.sweeps ?? { last: current.created };
    // A clock that was set back meanwhile was wrong when the jump was noticed.
    const isSteady = jumped !== undefined && jumped.noticed <= now && now - jumped.lookedAt <= longestGapMs;
    const noticed = isSteady ? jumped.noticed : now;
    if (now - last <= longestPauseMs || now - noticed >= dayMs) {
      return { next: { ...current, sweeps: { last: now } }, result: true };
    }
    return { next: { ...current, sweeps: { last, jumped: { noticed, lookedAt: now } } }, result: false };
  });
}

/** Returns the report of a sweep that removed nothing because of the clock. */
export function clockJumped(now: number): SecretsError {
  return new SecretsError(
    "CLOCK_JUMPED",
    `The clock shows ${new Date(now).toISOString()}, more than seven days after the last sweep, so the sweep removed nothing`,
    {
      hint: "Check the clock of this machine. If the clock is right, because the service was stopped for a while, do nothing: the sweeps remove what is old again from tomorrow on.",
    },
  );
}
