import { abortable } from "./abortable.ts";

/** The options of one call. */
interface LoadOptions {
  /** Ends the wait of this call. */
  readonly signal?: AbortSignal | undefined;
}

interface Flight<Result> {
  readonly result: Promise<Result>;
  readonly controller: AbortController;
  waiting: number;
}

/**
 * Wraps `work` so that one run of it is in progress at a time, for authors of a key provider.
 *
 * - A call shares a run that begins after the call, so its result is at least as new as the call.
 * - A caller that aborts ends only its own wait. A run is aborted when no caller waits for it any longer.
 */
export function singleFlight<Result>(
  work: (options: { readonly signal: AbortSignal }) => Promise<Result>,
): (options?: LoadOptions) => Promise<Result> {
  let last: Promise<unknown> | undefined;
  let boarding: Flight<Result> | undefined;

  function board(): Flight<Result> {
    if (boarding !== undefined) return boarding;
    const controller = new AbortController();
    const before = last;
    const run = async () => {
      // Without a run before it, this still gives up its turn, so that calls of the same turn share one run.
      await before?.catch(() => undefined);
      if (boarding === flight) boarding = undefined;
      return await abortable(() => work({ signal: controller.signal }), controller.signal);
    };
    const flight: Flight<Result> = { result: run(), controller, waiting: 0 };
    // All callers may have left before the run fails.
    flight.result.catch(() => undefined);
    last = flight.result;
    boarding = flight;
    return flight;
  }

  return async ({ signal } = {}) => {
    signal?.throwIfAborted();
    const flight = board();
    flight.waiting++;
    try {
      return await abortable(() => flight.result, signal);
    } finally {
      flight.waiting--;
      if (flight.waiting === 0) {
        if (boarding === flight) boarding = undefined;
        flight.controller.abort();
      }
    }
  };
}
