import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { WrappedStore } from "../store-interface/wrapped-store.ts";
import { abortable } from "../waiting/abortable.ts";
import type { KeyringCheck } from "./keyring-check.ts";
import type { RecordCodec } from "./record-codec.ts";

/** The options of `ready()`. */
export interface ReadyOptions {
  /**
   * The time within which the store must answer, in milliseconds. For loading the keyring, the option `timeoutMs` of
   * the key provider sets the limit instead. Default: 15,000.
   */
  readonly timeoutMs?: number;
}

/** The parts of a store that {@link requireReady} uses. */
export interface ReadyParts {
  readonly inner: WrappedStore;
  readonly codec: RecordCodec;
  readonly check: KeyringCheck;
}

interface Failure {
  readonly part: "store" | "keys";
  readonly problem: string;
  readonly error: KeywardError;
}

const optionNames: OptionNames<ReadyOptions> = { timeoutMs: true };

/**
 * Checks that the store answers, that the keyring is loaded, and that the keyring belongs to the store. Writes nothing.
 *
 * @throws KeywardError the error of the first check that failed, with {@link KeywardError.notReady}.
 */
export async function requireReady({ inner, codec, check }: ReadyParts, options: ReadyOptions): Promise<void> {
  const { timeoutMs = 15_000 } = requireOptions("ready", options, optionNames);
  requireAmount("timeoutMs", timeoutMs, "milliseconds");
  const loading = Promise.resolve().then(() => codec.ring());
  const [store, keys] = await Promise.allSettled([
    inTime(inner.description, timeoutMs, () => inner.requireAnswer()),
    loading,
  ]);
  if (store.status === "fulfilled" && keys.status === "fulfilled") {
    const { value: keyring } = keys;
    const checking = inTime(inner.description, timeoutMs, () => check.verifyWithoutWriting(keyring));
    return await checking.catch((error: unknown) => {
      throw notReady([checkFailed(error)]);
    });
  }
  const ofKeys = keys.status === "rejected" ? [keysFailed("The keys cannot be loaded:", keys.reason)] : [];
  // The store comes first, because the keyring may be loaded from the store.
  const [first, ...others] = store.status === "rejected" ? [storeFailed(store.reason), ...ofKeys] : ofKeys;
  if (first !== undefined) throw notReady([first, ...others]);
}

async function inTime(store: string, timeoutMs: number, call: () => Promise<void>): Promise<void> {
  const signal = AbortSignal.timeout(timeoutMs);
  await abortable(call, signal).catch((error: unknown) => {
    if (!signal.aborted || error !== signal.reason) throw error;
    throw new KeywardError("STORE_UNAVAILABLE", `${store} did not answer within ${timeoutMs} ms`, {
      hint: "Check that this process can reach the backend of the store. If the backend only takes long, raise the option `timeoutMs` of `ready()`.",
    });
  });
}

function storeFailed(reason: unknown): Failure {
  return { part: "store", problem: "The store does not answer:", error: requireKeywardError(reason) };
}

function keysFailed(problem: string, reason: unknown): Failure {
  return { part: "keys", problem, error: requireKeywardError(reason) };
}

function checkFailed(reason: unknown): Failure {
  const isOfStore = requireKeywardError(reason).code === "STORE_UNAVAILABLE";
  return isOfStore ? storeFailed(reason) : keysFailed("The keys do not belong to the store.", reason);
}

function notReady(failures: readonly [Failure, ...Failure[]]): KeywardError {
  const [{ error: first }] = failures;
  return new KeywardError(first.code, failures.map(({ problem, error }) => `${problem} ${error.message}`).join(". "), {
    hint: failures.map(({ error }) => error.hint).join(" "),
    keyId: first.keyId,
    namespace: first.namespace,
    cause: first.cause,
    errors: failures.length === 1 ? undefined : failures.map(({ error }) => error),
    notReady: failures.map(({ part }) => part),
  });
}
