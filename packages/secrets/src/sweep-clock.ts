import { notInitialized } from "./access/not-initialized.ts";
import { serviceKey } from "./records/record-keys.ts";
import { type ServiceRecord, serviceRecord } from "./records/service-record.ts";
import { SecretsError } from "./secrets-error.ts";
import type { Decision, ServiceStore } from "./store/service-store.ts";

const dayMs = 24 * 3_600_000;
const longestPauseMs = 7 * dayMs;

/**
 * Returns whether a sweep may remove what is old at the time `now`. A clock that is ahead makes everything old: if more than
 * seven days have passed since the last sweep, by the clock, the sweeps of the next day remove nothing.
 *
 * @throws SecretsError `NOT_INITIALIZED`; the errors of `ServiceStore.change`.
 */
export async function mayRemove(store: ServiceStore, now: number): Promise<boolean> {
  return await store.change(serviceRecord, serviceKey, (current): Decision<ServiceRecord, boolean> => {
    if (current === undefined) throw notInitialized();
    const { last, jumped } = current.sweeps ?? { last: current.created };
    const isPaused = now - last > longestPauseMs;
    if (!isPaused || (jumped !== undefined && now - jumped >= dayMs)) {
      return { next: { ...current, sweeps: { last: now } }, result: true };
    }
    // A clock that was set back meanwhile was wrong when the jump was noticed.
    if (jumped !== undefined && jumped <= now) return { result: false };
    return { next: { ...current, sweeps: { last, jumped: now } }, result: false };
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
