import { nodeTooOld } from "../errors/node-version.ts";

/**
 * Runs `work`; rejects with the reason of the signal as soon as it is aborted, whatever `work` still does. For those who
 * write a key provider.
 */
export async function abortable<Result>(work: () => Promise<Result>, signal: AbortSignal | undefined): Promise<Result> {
  if (signal === undefined) return await work();
  // The one thing that loads of keys need of Node.js 22. A TypeError would not say so.
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
