/**
 * The code of an error of the secrets service. A code has the same meaning in every release. `docs/errors.md` has a
 * section for each code.
 */
export type SecretsErrorCode =
  | "TOKEN_REFUSED"
  | "NOT_ALLOWED"
  | "FIELD_INVALID"
  | "WORKSPACE_NOT_FOUND"
  | "SERVER_NOT_FOUND"
  | "SECRET_NOT_FOUND"
  | "TOKEN_NOT_FOUND"
  | "CALL_NOT_FOUND"
  | "WORKSPACE_EXISTS"
  | "SERVER_EXISTS"
  | "REVISION_CHANGED"
  | "ORIGIN_CHANGED"
  | "SECRET_UNUSABLE"
  | "RULE_CONFLICT"
  | "LAST_ADMIN"
  | "LIMIT_REACHED"
  | "RECORD_ROLLED_BACK"
  | "RECORD_INVALID"
  | "RECORD_MISSING"
  | "CLOCK_JUMPED"
  | "NOT_INITIALIZED"
  | "ALREADY_INITIALIZED"
  | "AUDIT_UNAVAILABLE"
  | "AUDIT_INVALID"
  | "SERVICE_BUSY";

/** The details of a {@link SecretsError}, in addition to its code and message. */
export interface SecretsErrorDetails {
  /** An instruction for the person who reads the error: what to do next. */
  readonly hint: string;
  /** The error that caused the {@link SecretsError}. */
  readonly cause?: unknown;
}

/**
 * An error of the secrets service. To tell failures apart, compare {@link SecretsError.code}. The message and the
 * properties never contain a token, a secret's value or key material. Errors of the store and of the keys are
 * `KeywardError`s.
 *
 * @example
 * const audit = openAuditLog({ path: "audit.db", keys });
 * const service = new SecretsAdmin({ store, keys, audit });
 * try {
 *   await service.authenticate("kwt_wrong");
 * } catch (error) {
 *   if (!(error instanceof SecretsError)) throw error;
 *   console.error(error.code, error.message, error.hint, error.link);
 * }
 * await audit.close();
 */
export class SecretsError extends Error {
  override readonly name = "SecretsError";
  /** The code of the error. A code has the same meaning in every release. */
  readonly code: SecretsErrorCode;
  /** An instruction for the person who reads the error: what to do next. */
  readonly hint: string;
  /** Link to the section about the code, such as `docs/errors.md#server_exists`, in the repository of Keyward. */
  readonly link: string;

  /** Creates an error. The `message` must report what failed, and must not contain a token or a secret's value. */
  constructor(code: SecretsErrorCode, message: string, { hint, cause }: SecretsErrorDetails) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.hint = hint;
    this.link = `docs/errors.md#${code.toLowerCase()}`;
  }
}
