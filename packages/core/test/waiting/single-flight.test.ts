import { singleFlight } from "@keyward/core";
import { expect, it } from "vitest";

/** Returns a function made by singleFlight. The test decides when each run ends. */
function controlled() {
  const runs: { readonly end: () => void; readonly signal: AbortSignal }[] = [];
  const load = singleFlight(async ({ signal }) => {
    const run = runs.length + 1;
    await new Promise<void>((resolve) => runs.push({ end: resolve, signal }));
    return run;
  });
  return { runs, load };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

it("singleFlight makes calls in the same turn of the event loop share one run", async () => {
  const { runs, load } = controlled();
  const results = [load(), load(), load()];
  await turn();
  expect(runs).toHaveLength(1);
  runs[0]?.end();
  expect(await Promise.all(results)).toEqual([1, 1, 1]);
});

it("singleFlight makes all calls that arrive during a run share the next run", async () => {
  const { runs, load } = controlled();
  const early = load();
  await turn();
  const late = [load(), load()];
  await turn();
  expect(runs).toHaveLength(1);
  runs[0]?.end();
  expect(await early).toBe(1);
  await turn();
  expect(runs).toHaveLength(2);
  runs[1]?.end();
  expect(await Promise.all(late)).toEqual([2, 2]);
});

it("singleFlight rejects only the call that is aborted, and aborts the run when its last call is aborted", async () => {
  const { runs, load } = controlled();
  const [one, other] = [new AbortController(), new AbortController()];
  const results = [load({ signal: one.signal }), load({ signal: other.signal })];
  await turn();
  one.abort(new Error("one"));
  await expect(results[0]).rejects.toThrow("one");
  expect(runs[0]?.signal.aborted).toBe(false);
  other.abort(new Error("other"));
  await expect(results[1]).rejects.toThrow("other");
  expect(runs[0]?.signal.aborted).toBe(true);
  // Work that ignores its signal does not delay the next run.
  const next = load();
  await turn();
  runs[1]?.end();
  expect(await next).toBe(2);
});

it("singleFlight starts a new run for the next call if a run has failed", async () => {
  let runs = 0;
  const load = singleFlight(async () => {
    runs++;
    if (runs === 1) throw new Error("first");
    return runs;
  });
  await expect(load()).rejects.toThrow("first");
  expect(await load()).toBe(2);
});
