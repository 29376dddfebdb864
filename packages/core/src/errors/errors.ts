/**
 * What went wrong, as a stable word that code may compare with. `docs/errors.md` says for each what to do.
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

/** What a {@link KeywardError} carries besides its code and message. */
export interface KeywardErrorDetails {
  /** What the reader should do next. */
  readonly hint: string;
  /** The id of the encryption key concerned. */
  readonly keyId?: string | undefined;
  /** The namespace of the record concerned; "" where there is none. */
  readonly namespace?: string | undefined;
  /** The key under which the record lies. It may itself be a secret (a session id), so no message contains it. */
  readonly key?: string | undefined;
  /** One error for each broken record of a batch. */
  readonly errors?: readonly KeywardError[] | undefined;
  /** Records that stand in the way of what was asked, by the name of the store that holds them. */
  readonly counts?: Readonly<Record<string, number>> | undefined;
  /** The error underneath. */
  readonly cause?: unknown;
}

/**
 * The one error that Keyward throws. Compare {@link KeywardError.code}; never parse the message.
 * Neither message nor properties ever hold key material, plaintext or a whole envelope.
 */
export class KeywardError extends Error {
  override readonly name = "KeywardError";
  /** What went wrong, stable across releases. */
  readonly code: KeywardErrorCode;
  /** What to do next. */
  readonly hint: string;
  /** The id of the encryption key concerned, where known. */
  declare readonly keyId?: string;
  /** The namespace of the record concerned, where there is one. */
  declare readonly namespace?: string;
  /** The key under which the record lies, where there is one. */
  declare readonly key?: string;
  /** In a batch, one error for each broken record. */
  declare readonly errors?: readonly KeywardError[];
  /** With `KEY_IN_USE` and `RECORD_NOT_SEALED`, the records that stand in the way, by the name of their store. */
  declare readonly counts?: Readonly<Record<string, number>>;

  /** `message` says what happened, without the key of a record. */
  constructor(code: KeywardErrorCode, message: string, details: KeywardErrorDetails) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.hint = details.hint;
    if (details.keyId !== undefined) this.keyId = details.keyId;
    if (details.namespace !== undefined) this.namespace = details.namespace;
    if (details.key !== undefined) this.key = details.key;
    if (details.errors !== undefined) this.errors = details.errors;
    if (details.counts !== undefined) this.counts = details.counts;
  }
}

/**
 * What was thrown, as an error of Keyward's: itself where it is one, otherwise the cause of a new one. Not part of the
 * public surface.
 */
export function asKeywardError(thrown: unknown, code: KeywardErrorCode, message: string, hint: string): KeywardError {
  return thrown instanceof KeywardError ? thrown : new KeywardError(code, message, { hint, cause: thrown });
}

/**
 * What was thrown, if it is an error of Keyward's. Not part of the public surface.
 *
 * @throws what was thrown, if it is not.
 */
export function requireKeywardError(thrown: unknown): KeywardError {
  if (thrown instanceof KeywardError) return thrown;
  throw thrown;
}
