import { setTimeout as sleep } from "node:timers/promises";

// A longer timer of Node.js fires at once.
const longestTimerMs = 2 ** 30;

/**
 * Resolves after so many milliseconds, which may be more than a timer takes; rejects with the reason of the signal as soon
 * as it is aborted.
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
