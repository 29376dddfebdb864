import type { EncryptedStore } from "@keyward/core";
import { z } from "zod";
import { SecretsError } from "../secrets-error.ts";
import { parseJson } from "./audit-entry.ts";
import { clockKey } from "./record-key.ts";

/** How much faster than the time of a running process the clock of retention goes at most: a day an hour. */
const mostPace = 24;

const clockFields = z.strictObject({ time: z.int().min(0), advancedMs: z.int().min(0) });

/** The record of the clock of retention. */
interface ClockRecord {
  /** The time of the clock, in milliseconds since the epoch. */
  readonly time: number;
  /** When the clock was last advanced, by the monotonic clock of the machine. */
  readonly advancedMs: number;
}

/**
 * The clock of retention, which the audit file keeps encrypted. It follows the clock of the machine, but goes at most 24
 * times as fast as the time for which the service runs. So a clock of the machine that is ahead for a short time removes
 * little. The record has the time of the last advance, so that several processes advance the clock no faster than one.
 */
export class AuditClock {
  readonly #encrypted: EncryptedStore;
  /** When this process last advanced the clock, or has started. A start of the machine sets its monotonic clock back. */
  #advancedMs = monotonicMs();

  constructor(encrypted: EncryptedStore) {
    this.#encrypted = encrypted;
  }

  /**
   * Advances the clock towards the clock of the machine, and returns its time, which is never after `now`.
   *
   * @param now the time of the clock of the machine, in milliseconds since the epoch.
   * @param begin returns the time at which the clock begins if the file has none.
   * @throws SecretsError `AUDIT_INVALID` if the record of the clock contains something else.
   */
  async advance(now: number, begin: () => Promise<number>): Promise<number> {
    const encrypted = this.#encrypted;
    const advancedMs = monotonicMs();
    const stored = await encrypted.get(clockKey);
    if (stored === undefined) {
      const time = Math.min(now, await begin());
      await encrypted.replace?.(clockKey, undefined, formatClock({ time, advancedMs }));
      return time;
    }
    const shown = parseClock(stored);
    if (shown === undefined || typeof stored !== "string") {
      throw new SecretsError("AUDIT_INVALID", "The audit file has no readable record of the clock of its retention", {
        hint: "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`.",
      });
    }
    const ranMs = Math.max(0, advancedMs - Math.max(this.#advancedMs, shown.advancedMs));
    const time = Math.min(now, shown.time + mostPace * ranMs);
    const isAdvanced = await encrypted.replace?.(clockKey, stored, formatClock({ time, advancedMs }));
    // Another process may have advanced the clock first.
    if (isAdvanced !== true) return Math.min(now, shown.time);
    this.#advancedMs = advancedMs;
    return time;
  }
}

/** Returns what a decrypted record of the clock contains; `undefined` if it contains something else. */
export function parseClock(text: unknown): ClockRecord | undefined {
  const parsed = clockFields.safeParse(typeof text === "string" ? parseJson(text) : undefined);
  return parsed.success ? parsed.data : undefined;
}

function formatClock(clock: ClockRecord): string {
  return JSON.stringify(clock);
}

/** Returns the monotonic clock of the machine, which all processes on the machine share. */
function monotonicMs(): number {
  return Number(process.hrtime.bigint() / 1_000_000n);
}
