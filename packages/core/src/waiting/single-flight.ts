import { abortable } from "./abortable.ts";

/** The options of one call to a function that {@link singleFlight} returned. */
interface LoadOptions {
  /**
   * If this signal is aborted, this call rejects. The run of `work` is aborted only when no other call waits for it.
   */
  readonly signal?: AbortSignal | undefined;
}

interface Flight<Result> {
  readonly result: Promise<Result>;
  readonly controller: AbortController;
  waiting: number;
}

/**
 * Returns a function that calls `work`, but never twice at the same time. While one run of `work` is in progress, all
 * new calls wait for it, and then share one next run. For authors of a key provider.
 *
 * - A call never shares a run of `work` that began before the call. So the result of a call is never older than the
 *   call.
 * - If a caller aborts its signal, only its own call rejects. A run of `work` is aborted when no caller waits for it.
 *
 * @example
 * const load = singleFlight(async () => Keyring.generate());
 * const [one, other] = await Promise.all([load(), load()]);
 * console.log(one === other); // true
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
      // This waits a turn of the event loop even if there is no earlier run, so that all calls of this turn share one
      // run.
      await before?.catch(() => undefined);
      if (boarding === flight) boarding = undefined;
      return await abortable(() => work({ signal: controller.signal }), controller.signal);
    };
    const flight: Flight<Result> = { result: run(), controller, waiting: 0 };
    // The run may fail after all of its callers have aborted. Its rejection must not end the process.
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
