import { abortable, KeywardError, type KeywardErrorCode } from "@keyward/core";
import { looksLikeKey } from "./aws-resource.ts";

/** A call to AWS: its time limit, and the details that the errors of the call show. */
export interface AwsCall {
  /** The IAM action that the call needs, such as `kms:Decrypt`. */
  readonly action: string;
  /**
   * Name of the AWS resource that the call accesses, such as `The secret "app"`. Error messages begin with this name.
   */
  readonly subject: string;
  /** Ids of secrets or KMS keys that the call sends to AWS. AWS may repeat these ids in its error messages. */
  readonly ids: readonly string[];
  /** How long the call may take before it rejects, in milliseconds, retries included. */
  readonly timeoutMs: number;
  /** Signal that aborts the call. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Returns the code, problem and hint of a failure that is specific to this call. Returns `undefined` for any other
   * failure.
   */
  readonly explain?: (failure: AwsFailure) => Explanation | undefined;
}

/**
 * Name and message of an error of AWS or the SDK. Do not show the message, because it may repeat parts of the request.
 */
export interface AwsFailure {
  readonly name: string;
  readonly message: string;
}

/**
 * Code, problem and hint of the error for a failed call. The error message consists of the `subject` of the call and
 * `problem`.
 */
export interface Explanation {
  readonly code?: KeywardErrorCode;
  readonly problem: string;
  readonly hint: string;
}

// The call ends a little before core's own timeout, whose error cannot name the reason.
const timeoutShare = 0.9;

const badCredentials = new Set([
  "ExpiredToken",
  "ExpiredTokenException",
  "IncompleteSignature",
  "IncompleteSignatureException",
  "InvalidClientTokenId",
  "InvalidIdentityToken",
  "InvalidIdentityTokenException",
  "InvalidSignatureException",
  "MissingAuthenticationToken",
  "MissingAuthenticationTokenException",
  "RequestExpired",
  "SignatureDoesNotMatch",
  "UnrecognizedClientException",
]);
const noCredentials = new Set(["CredentialsProviderError", "ProviderError", "TokenProviderError"]);
// The system calls that fail if a file cannot be opened or read.
const fileCalls = new Set(["open", "read", "stat", "lstat", "scandir"]);
const throttled = new Set([
  "RequestLimitExceeded",
  "Throttling",
  "ThrottlingException",
  "ThrottledException",
  "TooManyRequestsException",
]);
const refused = new Set(["AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation"]);

/**
 * Calls AWS through the SDK. The call may take at most `call.timeoutMs`. The SDK repeats requests that AWS throttled or
 * that failed, and does not repeat requests that AWS refused.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the call fails. If the function `call.explain` returns a code for the
 * failure, the error has that code instead.
 * @throws The reason of the signal in `call.signal`, if this signal is aborted.
 */
export async function callAws<Output>(
  call: AwsCall,
  send: (options: { readonly abortSignal: AbortSignal }) => Promise<Output>,
): Promise<Output> {
  const { signal } = call;
  signal?.throwIfAborted();
  const limitMs = Math.ceil(call.timeoutMs * timeoutShare);
  const timeout = AbortSignal.timeout(limitMs);
  const abortSignal = signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
  try {
    // The SDK ignores the signal while it looks for credentials.
    return await abortable(() => send({ abortSignal }), abortSignal);
  } catch (error) {
    if (signal?.aborted === true) throw signal.reason;
    if (timeout.aborted) {
      throw failed(call, error, {
        problem: `cannot be used: AWS did not complete ${call.action} within ${limitMs} ms`,
        hint: "Check that this process can reach the AWS endpoint of the region. If the network is slow, or AWS throttles the calls, raise `timeoutMs`.",
      });
    }
    throw failed(call, error, explain(call, error));
  }
}

/**
 * Returns the name of the AWS error that made {@link callAws} throw `error`, such as `AccessDeniedException`. Returns
 * `undefined` if `error` has another cause.
 */
export function awsNameOf(error: unknown): string | undefined {
  return error instanceof KeywardError && error.cause instanceof AwsCause ? error.cause.name : undefined;
}

/** The parts of an SDK error that are safe to show. The SDK error itself holds request and response, with secrets. */
class AwsCause extends Error {
  constructor(error: unknown, { ids }: AwsCall) {
    const { name, message } = failureOf(error);
    const status = statusOf(error);
    const code = systemCode(error);
    const parts = [
      name,
      ...(status === undefined ? [] : [`HTTP ${status}`]),
      ...(code === undefined ? [] : [code]),
      // This message names the role, the action and the resource. It consists only of names, so it is shown, unless one
      // of the ids that were passed may be a key.
      ...(refused.has(name) && !ids.some(looksLikeKey) ? [message.slice(0, 500)] : []),
    ];
    super(parts.join(", "));
    this.name = name;
  }
}

function failed(call: AwsCall, error: unknown, { code, problem, hint }: Explanation): KeywardError {
  return new KeywardError(code ?? "PROVIDER_UNAVAILABLE", `${call.subject} ${problem}`, {
    hint,
    cause: new AwsCause(error, call),
  });
}

function explain(call: AwsCall, error: unknown): Explanation {
  const { action } = call;
  const failure = failureOf(error);
  const { name, message } = failure;
  const status = statusOf(error) ?? 0;
  const specific = call.explain?.(failure);
  if (specific !== undefined) return specific;
  const assumed = /sts:AssumeRole[A-Za-z]*/.exec(message)?.[0];
  if (refused.has(name) && assumed !== undefined) {
    return {
      problem: `was not requested: this process may not assume its role (${assumed})`,
      hint: "Check that AWS_ROLE_ARN or the AWS profile names the right role. Check that the trust policy of this role allows this process to assume it.",
    };
  }
  if (refused.has(name)) {
    return {
      problem: `cannot be used: this process may not call ${action}`,
      hint: `Allow ${action} in the policy of this process's role, but no other actions. If the role allows ${action} already, check the policies of the resource and of its KMS key.`,
    };
  }
  if (badCredentials.has(name) || status === 403) {
    return {
      problem: "cannot be used: AWS rejected the credentials of this process",
      hint: "Give the process new credentials: the current credentials may have expired, been revoked, or belong to another partition of AWS. Also check the clock of the machine, because AWS rejects requests with a wrong time.",
    };
  }
  if (noCredentials.has(name) || message.startsWith("Could not load credentials")) {
    return {
      problem: "was not requested: the AWS SDK found no credentials",
      hint: "Give the process a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Or pass an SDK client in the option `client`.",
    };
  }
  if (message === "Region is missing") {
    return {
      problem: "was not requested: no AWS region is set",
      hint: "Set the environment variable AWS_REGION, or the option `region`.",
    };
  }
  if (throttled.has(name) || status === 429) {
    return {
      problem: `cannot be used: AWS throttled every attempt at ${action}`,
      hint: "Raise `refreshMs` to call AWS less often, or request a higher quota for the account.",
    };
  }
  if (status >= 500) {
    return {
      problem: `cannot be used: every attempt at ${action} failed with a server error of AWS`,
      hint: "Do not restart processes that have loaded the keyring, because they keep using it. Check the AWS health page for this region, and wait until AWS works again.",
    };
  }
  const code = systemCode(error);
  if (isOfFile(error)) {
    return {
      problem: `was not requested: a file with AWS credentials cannot be read (${code ?? name})`,
      hint: "Check the files in AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE. In Kubernetes, check that the pod mounts the token of its service account.",
    };
  }
  if (code !== undefined || name === "TimeoutError") {
    return {
      problem: `cannot be used: AWS cannot be reached (${code ?? name})`,
      hint: "Check the options `region` and `endpoint`, and that this process can reach the endpoint.",
    };
  }
  return {
    problem: `cannot be used: AWS answered ${action} with the error ${name}`,
    hint: "Look up the name of the error in the API reference of the service.",
  };
}

function failureOf(error: unknown): AwsFailure {
  if (!(error instanceof Error)) return { name: typeof error, message: "" };
  // The server chooses the name, which may be any text. Names of AWS errors have no digits, and key material has some.
  const name = /^[A-Za-z]{1,64}$/.test(error.name) ? error.name : "Error";
  return { name, message: error.message };
}

function statusOf(error: unknown): number | undefined {
  const metadata: unknown = error instanceof Error && "$metadata" in error ? error.$metadata : undefined;
  if (typeof metadata !== "object" || metadata === null || !("httpStatusCode" in metadata)) return undefined;
  return typeof metadata.httpStatusCode === "number" ? metadata.httpStatusCode : undefined;
}

function isOfFile(error: unknown): boolean {
  const call: unknown = error instanceof Error && "syscall" in error ? error.syscall : undefined;
  return typeof call === "string" && fileCalls.has(call);
}

function systemCode(error: unknown): string | undefined {
  const code: unknown = error instanceof Error && "code" in error ? error.code : undefined;
  return typeof code === "string" && /^[A-Z][A-Z0-9_]{1,40}$/.test(code) ? code : undefined;
}
