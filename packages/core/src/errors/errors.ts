/**
 * Identifies a kind of failure, with the same text in every release. To handle one kind of failure, compare the `code`
 * of a {@link KeywardError} with its code. `docs/errors.md` has a section for each code.
 */
export type KeywardErrorCode =
  | "KEY_INVALID"
  | "KEY_UNKNOWN"
  | "KEY_DISABLED"
  | "KEY_MISMATCH"
  | "KEY_IN_USE"
  | "KEYRING_INVALID"
  | "KEYRING_CONFLICT"
  | "KEYRING_ROLLBACK"
  | "PROVIDER_UNAVAILABLE"
  | "PROVIDER_READ_ONLY"
  | "CHANGE_NEEDED"
  | "ROTATION_IN_PROGRESS"
  | "NO_ROTATION"
  | "REPLICA_BEHIND"
  | "NO_REPLICAS"
  | "RECORD_TAMPERED"
  | "RECORD_MALFORMED"
  | "RECORD_NOT_SEALED"
  | "RECORDS_UNREADABLE"
  | "ENVELOPE_UNSUPPORTED"
  | "VALUE_INVALID"
  | "NAMESPACE_CONFLICT"
  | "OVERWRITE_REFUSED"
  | "CHECKPOINT_INVALID"
  | "STORES_MISSING"
  | "STORE_KEYS_DIFFER"
  | "STORE_INVALID"
  | "STORE_NOT_ATOMIC"
  | "STORE_NOT_SCANNABLE"
  | "STORE_UNAVAILABLE";

/** The details of a {@link KeywardError}, in addition to its code and message. */
export interface KeywardErrorDetails {
  /** An instruction for the person who reads the error: what to do next. */
  readonly hint: string;
  /** Id of the encryption key that the error is about. */
  readonly keyId?: string | undefined;
  /** Namespace of the record that the error is about. "" for a record without a namespace. */
  readonly namespace?: string | undefined;
  /** Key of the record that the error is about. The key may be a secret (a session id), so no message contains it. */
  readonly key?: string | undefined;
  /**
   * If records of a batch or an iteration cannot be decrypted: one error for each of these records. If `ready()` of a
   * store rejects because neither the store nor the keys are ready: the error of the store and the error of the keys.
   */
  readonly errors?: readonly KeywardError[] | undefined;
  /**
   * A number for each store, by the name of the store: how many records are the reason for the error. With the code
   * `REPLICA_BEHIND`: how many replicas are behind.
   */
  readonly counts?: Readonly<Record<string, number>> | undefined;
  /** If `ready()` of a store rejects: whether the store, the keys or both are not ready. */
  readonly notReady?: readonly ("store" | "keys")[] | undefined;
  /** The error that caused the {@link KeywardError}. */
  readonly cause?: unknown;
}

/**
 * The only error class that Keyward throws. To tell failures apart, compare {@link KeywardError.code}. Do not parse the
 * message, which may change between releases. Message and properties never contain key material, plaintext or a whole
 * envelope.
 *
 * @example
 * ```ts
 * try {
 *   await keyv.get("session:42");
 * } catch (error) {
 *   if (error instanceof KeywardError) console.error(error.code, error.message, error.hint, error.link);
 *   throw error;
 * }
 * ```
 */
export class KeywardError extends Error {
  override readonly name = "KeywardError";
  /** The code of the kind of failure, which is the same in every release. */
  readonly code: KeywardErrorCode;
  /** An instruction for the person who reads the error: what to do next. */
  readonly hint: string;
  /** Link to the section about the code, such as `docs/errors.md#key_in_use`, in the repository of Keyward. */
  readonly link: string;
  /** Id of the encryption key that the error is about, if it is known. */
  declare readonly keyId?: string;
  /** Namespace of the record, if the error is about a record. "" for a record without a namespace. */
  declare readonly namespace?: string;
  /** Key of the record, if the error is about a record. */
  declare readonly key?: string;
  /**
   * If records of a batch or an iteration cannot be decrypted: one error for each of these records. If `ready()` of a
   * store rejects because neither the store nor the keys are ready: the error of the store and the error of the keys.
   */
  declare readonly errors?: readonly KeywardError[];
  /**
   * A number for each store, by the name of the store. With the codes `KEY_IN_USE` and `RECORD_NOT_SEALED`: the number
   * of records because of which Keyward refused the call. With `REPLICA_BEHIND`: the number of replicas that are
   * behind.
   */
  declare readonly counts?: Readonly<Record<string, number>>;
  /**
   * If `ready()` of a store rejects: whether the store, the keys or both are not ready. `"store"` means that the store
   * does not answer. `"keys"` means that the keys cannot be loaded, or do not belong to the store.
   */
  declare readonly notReady?: readonly ("store" | "keys")[];

  /** Creates an error. The `message` must report what failed, and must not contain the key of a record. */
  constructor(code: KeywardErrorCode, message: string, details: KeywardErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.hint = details.hint;
    this.link = `docs/errors.md#${code.toLowerCase()}`;
    if (details.keyId !== undefined) this.keyId = details.keyId;
    if (details.namespace !== undefined) this.namespace = details.namespace;
    if (details.key !== undefined) this.key = details.key;
    if (details.errors !== undefined) this.errors = details.errors;
    if (details.counts !== undefined) this.counts = details.counts;
    if (details.notReady !== undefined) this.notReady = details.notReady;
  }
}

/**
 * Returns `thrown` if it is a {@link KeywardError}. Otherwise returns a new KeywardError with `thrown` as its cause.
 * This function is not public.
 */
export function asKeywardError(thrown: unknown, code: KeywardErrorCode, message: string, hint: string): KeywardError {
  return thrown instanceof KeywardError ? thrown : new KeywardError(code, message, { hint, cause: thrown });
}

/**
 * Returns `thrown` if it is a {@link KeywardError}. Otherwise throws `thrown`. This function is not public.
 *
 * @throws `thrown`, if it is not a KeywardError.
 */
export function requireKeywardError(thrown: unknown): KeywardError {
  if (thrown instanceof KeywardError) return thrown;
  throw thrown;
}
