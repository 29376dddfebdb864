import { performance } from "node:perf_hooks";
import type { EncryptedStore } from "@keyward/core";
import { z } from "zod";
import { SecretsError } from "../secrets-error.ts";
import { parseJson } from "./audit-entry.ts";
import { clockKey } from "./record-key.ts";

/** How much faster than the time of a running process the clock of retention goes at most: a day an hour. */
const mostPace = 24;

const clockFields = z.int().min(0);

/**
 * The clock of retention, which the audit file keeps encrypted. It follows the clock of the machine, but goes at most 24
 * times as fast as the time for which the service runs. So a clock of the machine that is ahead for a short time removes
 * little.
 */
export class AuditClock {
  readonly #encrypted: EncryptedStore;
  /** When the clock was last advanced, by the monotonic clock of the process. */
  #advancedMs = performance.now();

  constructor(encrypted: EncryptedStore) {
    this.#encrypted = encrypted;
  }

  /**
   * Advances the clock towards the clock of the machine, and returns its time, which is never after `now`. Returns
   * `undefined` if the file had no such clock, which then begins at `now`.
   *
   * @param now the time of the clock of the machine, in milliseconds since the epoch.
   * @throws SecretsError `AUDIT_INVALID` if the record of the clock contains something else.
   */
  async advance(now: number): Promise<number | undefined> {
    const encrypted = this.#encrypted;
    const ranMs = performance.now() - this.#advancedMs;
    const stored = await encrypted.get(clockKey);
    if (stored === undefined) {
      await encrypted.replace?.(clockKey, undefined, String(now));
      return undefined;
    }
    const shown = parseClock(stored);
    if (shown === undefined || typeof stored !== "string") {
      throw new SecretsError("AUDIT_INVALID", "The audit file has no readable record of the clock of its retention", {
        hint: "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`.",
      });
    }
    const next = Math.min(now, Math.floor(shown + mostPace * ranMs));
    const isAdvanced = await encrypted.replace?.(clockKey, stored, String(next));
    // Another process may have advanced the clock first.
    if (isAdvanced !== true) return Math.min(now, shown);
    this.#advancedMs = performance.now();
    return next;
  }
}

/** Returns the time that a decrypted record of the clock contains; `undefined` if it contains something else. */
export function parseClock(text: unknown): number | undefined {
  const parsed = clockFields.safeParse(typeof text === "string" ? parseJson(text) : undefined);
  return parsed.success ? parsed.data : undefined;
}
