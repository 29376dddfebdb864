import { nodeTooOld } from "../errors/node-version.ts";

/**
 * Runs `work` and resolves to its result. Rejects with the reason of the signal as soon as the signal is aborted, even
 * while `work` still runs. For authors of a key provider.
 *
 * @example
 * const text = await abortable(async () => "the answer of a server", AbortSignal.timeout(5_000));
 */
export async function abortable<Result>(work: () => Promise<Result>, signal: AbortSignal | undefined): Promise<Result> {
  if (signal === undefined) return await work();
  // An older Node.js has no `Promise.withResolvers`. Without this check, it would throw a TypeError that does not name
  // the cause.
  if (typeof Promise.withResolvers !== "function") throw nodeTooOld("No keys can be loaded");
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", abort, { once: true });
  try {
    return await Promise.race([work(), aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
