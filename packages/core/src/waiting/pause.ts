import { setTimeout as sleep } from "node:timers/promises";

// A timer of Node.js fires at once if it is longer than 2^31 - 1 milliseconds.
const longestTimerMs = 2 ** 30;

/**
 * Waits for `waitMs` milliseconds, even if that is longer than the longest timer of Node.js. Rejects with the reason of
 * the signal as soon as the signal is aborted.
 */
export async function pause(waitMs: number, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const untilMs = performance.now() + waitMs;
  try {
    for (let leftMs = waitMs; leftMs > 0; leftMs = untilMs - performance.now()) {
      await sleep(Math.min(leftMs, longestTimerMs), undefined, signal === undefined ? {} : { signal });
    }
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}
