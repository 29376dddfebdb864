/** The details of an {@link AdminApiError}, in addition to its code and message. */
export interface AdminApiErrorDetails {
  /** The HTTP status of the answer. `undefined` if there was no answer. */
  readonly status: number | undefined;
  /** An instruction for the person who reads the error: what to do next. */
  readonly hint: string;
  /** The id of the request, as the log of the service names it. `undefined` if the answer has none. */
  readonly requestId?: string | undefined;
  /** After how many seconds the request may be sent again. `undefined` if the answer does not say this. */
  readonly retryAfterSeconds?: number | undefined;
  /** The error that caused the {@link AdminApiError}. */
  readonly cause?: unknown;
}

/**
 * An error of {@link AdminClient}. To tell failures apart, compare {@link AdminApiError.code}: the code of the service's
 * problem details, such as `SERVER_NOT_FOUND`, or one of the client's own codes:
 *
 * - `OPTION_INVALID`: an option of the client is not valid.
 * - `FIELD_INVALID` without a status: a name is empty, `.` or `..`. No request was sent.
 * - `SERVICE_UNREACHABLE`: no answer arrived. A change may have been made or not.
 * - `ANSWER_INVALID`: the answer does not follow the OpenAPI document of the admin API. A change may have been made or not.
 *
 * The message and the properties never contain a token or a secret's value.
 */
export class AdminApiError extends Error {
  override readonly name = "AdminApiError";
  /** The HTTP status of the answer. `undefined` if there was no answer. */
  readonly status: number | undefined;
  /** The code of the kind of failure. It is the same in every release. */
  readonly code: string;
  /** An instruction for the person who reads the error: what to do next. */
  readonly hint: string;
  /** The id of the request, as the log of the service names it. `undefined` if the answer has none. */
  readonly requestId: string | undefined;
  /** After how many seconds the request may be sent again. `undefined` if the answer does not say this. */
  readonly retryAfterSeconds: number | undefined;

  /** Creates an error. The `message` must not contain a token or a secret's value. */
  constructor(
    code: string,
    message: string,
    { status, hint, requestId, retryAfterSeconds, cause }: AdminApiErrorDetails,
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.status = status;
    this.hint = hint;
    this.requestId = requestId;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}
