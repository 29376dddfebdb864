import type { EncryptedStore } from "@keyward/core";
import { z } from "zod";
import { SecretsError } from "../secrets-error.ts";
import { parseJson } from "./audit-entry.ts";
import { clockKey } from "./record-key.ts";

/** The clock of retention advances at most this many times as fast as the time of a running process: a day an hour. */
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
 * The clock of retention, which the audit file stores encrypted. It follows the clock of the machine, but advances at
 * most 24 hours for each hour that the service runs. So if the clock of the machine is ahead for a short time,
 * retention removes few entries too early. The record contains the time of the last advance, so that several processes
 * advance the clock no faster than one.
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
   * @param begin returns the first time of the clock, if the file has no record of the clock.
   * @throws SecretsError `AUDIT_INVALID` if the record of the clock cannot be parsed.
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
      throw new SecretsError(
        "AUDIT_INVALID",
        "In the audit file, the record of the clock of retention cannot be read",
        {
          hint: "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`.",
        },
      );
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
