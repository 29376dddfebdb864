import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

const patienceMs = 10_000;
const intervalMs = 10;

/** Waits until `isTrue` returns true. If that takes more than 10 seconds, fails with a message that contains `what`. */
export async function eventually(what: string, isTrue: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + patienceMs;
  while (!(await isTrue())) {
    assert.ok(Date.now() < deadline, `did not happen within ${patienceMs} ms: ${what}`);
    await sleep(intervalMs);
  }
}
