import { randomFillSync } from "node:crypto";

// Small, so that a cloned machine shares few unused bytes with its twin; young, for the same reason.
const poolBytes = 1536;
const poolAgeMs = 1_000;

const pool = Buffer.alloc(poolBytes);
let drawn = poolBytes;
let filledAtMs = 0;
let generation = 0;

/**
 * Forgets every random byte and nonce prefix drawn in advance. Call it after a machine, container or process was
 * cloned or restored from a snapshot: the twins would otherwise share what was drawn before.
 */
export function reseed(): void {
  drawn = poolBytes;
  generation++;
}

/** Grows with every {@link reseed}; what was drawn under another generation must not be used. */
export function seedGeneration(): number {
  return generation;
}

/** Writes `length` random bytes into `target` at `at`. */
export function drawRandom(target: Buffer, at: number, length: number, nowMs: number): void {
  // The age is checked here and not by a timer: a timer does not fire while a machine is being copied.
  if (drawn + length > poolBytes || nowMs - filledAtMs > poolAgeMs || nowMs < filledAtMs) {
    randomFillSync(pool);
    filledAtMs = nowMs;
    drawn = 0;
  }
  // For so few bytes a call costs more than a loop.
  for (let i = 0; i < length; i++) target[at + i] = pool[drawn + i] ?? 0;
  drawn += length;
}
