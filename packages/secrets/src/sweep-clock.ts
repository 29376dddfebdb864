import { notInitialized } from "./access/not-initialized.ts";
import { serviceKey } from "./records/record-keys.ts";
import { type ServiceRecord, serviceRecord } from "./records/service-record.ts";
import { SecretsError } from "./secrets-error.ts";
import type { Decision, ServiceStore } from "./store/service-store.ts";

const dayMs = 24 * 3_600_000;
const longestPauseMs = 7 * dayMs;

/** If the clock is right, less time than this passes between two sweeps, even if the service is off at night. */
const longestGapMs = 20 * 3_600_000;

/**
 * Returns whether a sweep may remove old records at the time `now`. If the clock is ahead, all records look old. So if
 * the clock shows more than seven days since the last sweep, no sweep removes anything for a day. This day begins again
 * if the clock jumps once more, or if the clocks of two processes differ by more than 20 hours.
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

/** Returns the error that a sweep reports if it removed nothing because of the clock. */
export function clockJumped(now: number): SecretsError {
  return new SecretsError(
    "CLOCK_JUMPED",
    `The clock shows ${new Date(now).toISOString()}, more than seven days after the last sweep, so the sweep removed nothing`,
    {
      hint: "Check the clock of this machine. If the clock is wrong, correct it. If the clock is right, the service was stopped for more than seven days. Then do nothing: from tomorrow on, the sweeps remove old records again.",
    },
  );
}
