import { abortable } from "./abortable.ts";

/** What a load may be given: a signal that ends it. */
interface LoadOptions {
  readonly signal?: AbortSignal | undefined;
}

interface Flight<Result> {
  readonly result: Promise<Result>;
  readonly controller: AbortController;
  waiting: number;
}

/**
 * `work`, of which one runs at a time, for those who write a key provider. Whoever asks shares a run that begins after
 * he asked, so he sees what was there when he did. A run is aborted when nobody waits for it any more; one caller's
 * abort ends his own wait alone.
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
      // Also when there is nothing to wait for: calls made at once share a run.
      await before?.catch(() => undefined);
      if (boarding === flight) boarding = undefined;
      return await abortable(() => work({ signal: controller.signal }), controller.signal);
    };
    const flight: Flight<Result> = { result: run(), controller, waiting: 0 };
    // Everybody who waits may have left before it fails.
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
