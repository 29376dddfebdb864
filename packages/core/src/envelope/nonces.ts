import { randomFillSync } from "node:crypto";

// Two clones of a machine share the unused bytes of the pool, so the pool is small and is refilled often.
const poolBytes = 1536;
const poolAgeMs = 1_000;

const pool = Buffer.alloc(poolBytes);
let drawn = poolBytes;
let filledAtMs = 0;
let generation = 0;

/**
 * Discards all random bytes and nonce prefixes that were drawn in advance. Call this function after a machine,
 * container or process was cloned or restored from a snapshot. Otherwise two clones could use the same nonce.
 *
 * @example
 * // In the program that continues after the snapshot, before it encrypts anything:
 * reseed();
 */
export function reseed(): void {
  drawn = poolBytes;
  generation++;
}

/** Returns how often {@link reseed} was called. Do not use random bytes that were drawn before the latest call. */
export function seedGeneration(): number {
  return generation;
}

/**
 * Writes `length` random bytes into `target`, beginning at the index `at`. Takes these bytes from a pool that was
 * filled at most one second before `nowMs`.
 */
export function drawRandom(target: Buffer, at: number, length: number, nowMs: number): void {
  // Check the age here instead of in a timer: a timer does not fire while the machine is being copied.
  if (drawn + length > poolBytes || nowMs - filledAtMs > poolAgeMs || nowMs < filledAtMs) {
    randomFillSync(pool);
    filledAtMs = nowMs;
    drawn = 0;
  }
  // For so few bytes a loop is faster than a call.
  for (let i = 0; i < length; i++) target[at + i] = pool[drawn + i] ?? 0;
  drawn += length;
}
