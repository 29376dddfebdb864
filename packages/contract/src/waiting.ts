import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";

const patienceMs = 10_000;
const intervalMs = 10;

/** Asks until the answer is yes, and fails with `what` when it stays no for ten seconds. */
export async function eventually(what: string, isSo: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + patienceMs;
  while (!(await isSo())) {
    assert.ok(Date.now() < deadline, `not within ${patienceMs} ms: ${what}`);
    await sleep(intervalMs);
  }
}
