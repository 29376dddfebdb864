import { abortable, KeywardError, type KeywardErrorCode } from "@keyward/core";
import { looksLikeKey } from "./aws-resource.ts";

/** What a call to AWS is about, for its errors. */
export interface AwsCall {
  /** The IAM action that it needs. */
  readonly action: string;
  /** What it is about, at the beginning of a sentence. */
  readonly subject: string;
  /** The ids that AWS is told, and may repeat. */
  readonly ids: readonly string[];
  /** For how many milliseconds AWS may be asked, retries included. */
  readonly timeoutMs: number;
  /** Ends the call early. */
  readonly signal?: AbortSignal | undefined;
  /** What a failure means that only this call has. */
  readonly explain?: (failure: AwsFailure) => Explanation | undefined;
}

/** What AWS or the SDK said. The message may repeat what was sent, and goes no further. */
export interface AwsFailure {
  readonly name: string;
  readonly message: string;
}

/** A failure in Keyward's words; `problem` goes on where the subject ends. */
export interface Explanation {
  readonly code?: KeywardErrorCode;
  readonly problem: string;
  readonly hint: string;
}

// A little before the core gives up, who could not say what was wrong.
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
// What becomes of a file that cannot be opened or read.
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
 * Asks AWS through the SDK, which repeats what was throttled or failed and nothing that was refused, in bounded time.
 *
 * @throws KeywardError that says what happened and what to do; `PROVIDER_UNAVAILABLE` unless the call explains it
 * otherwise. Or the reason of the signal.
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
    // While it looks for credentials, the SDK does not look at the signal.
    return await abortable(() => send({ abortSignal }), abortSignal);
  } catch (error) {
    if (signal?.aborted === true) throw signal.reason;
    if (timeout.aborted) {
      throw failed(call, error, {
        problem: `could not be used: AWS gave no good answer to ${call.action} within ${limitMs} ms`,
        hint: "Check that this process can reach the endpoint of AWS in its region. Raise timeoutMs where the way is long, or AWS throttles.",
      });
    }
    throw failed(call, error, explain(call, error));
  }
}

/** What AWS called the failure that an error of {@link callAws} came from. */
export function awsNameOf(error: unknown): string | undefined {
  return error instanceof KeywardError && error.cause instanceof AwsCause ? error.cause.name : undefined;
}

/** What is safe to show of an error of the SDK, which holds the request and the response, secrets included. */
class AwsCause extends Error {
  constructor(error: unknown, { ids }: AwsCall) {
    const { name, message } = failureOf(error);
    const status = statusOf(error);
    const code = systemCode(error);
    const parts = [
      name,
      ...(status === undefined ? [] : [`HTTP ${status}`]),
      ...(code === undefined ? [] : [code]),
      // Who may not do what to which resource: the one message that is worth its risk, as it is made of names alone. So
      // it is not where what was given for a name may be a key.
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
  const own = call.explain?.(failure);
  if (own !== undefined) return own;
  const assumed = /sts:AssumeRole[A-Za-z]*/.exec(message)?.[0];
  if (refused.has(name) && assumed !== undefined) {
    return {
      problem: `was not asked for, since this process may not take its role (${assumed})`,
      hint: "Check AWS_ROLE_ARN or the profile, and that the trust policy of the role names this process.",
    };
  }
  if (refused.has(name)) {
    return {
      problem: `was refused: this process may not call ${action}`,
      hint: `Allow ${action} to its role, and nothing more; see to the policies of the resource and of its KMS key as well.`,
    };
  }
  if (badCredentials.has(name) || status === 403) {
    return {
      problem: "was refused: AWS does not take the credentials of this process",
      hint: "Give it new ones: these may have expired, been revoked, or be of another partition. Check the clock as well.",
    };
  }
  if (noCredentials.has(name) || message.startsWith("Could not load credentials")) {
    return {
      problem: "was not asked for, since there are no AWS credentials",
      hint: "Give the process a role, a profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; or pass a client.",
    };
  }
  if (message === "Region is missing") {
    return { problem: "was not asked for, since no AWS region is set", hint: "Set AWS_REGION, or pass region." };
  }
  if (throttled.has(name) || status === 429) {
    return {
      problem: `could not be used: AWS throttles ${action}, after several attempts`,
      hint: "Ask less often (refreshMs), or have the quota of the account raised.",
    };
  }
  if (status >= 500) {
    return {
      problem: `could not be used: AWS itself failed at ${action}, after several attempts`,
      hint: "Wait, and look at the health page of AWS for this region.",
    };
  }
  const code = systemCode(error);
  if (isOfFile(error)) {
    return {
      problem: `was not asked for, since a file with AWS credentials cannot be read (${code ?? name})`,
      hint: "Check the files that AWS_WEB_IDENTITY_TOKEN_FILE, AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name. In Kubernetes, check that the pod mounts the token of its service account.",
    };
  }
  if (code !== undefined || name === "TimeoutError") {
    return {
      problem: `could not be used: AWS cannot be reached (${code ?? name})`,
      hint: "Check region and endpoint, and that they can be reached from here.",
    };
  }
  return {
    problem: `could not be used: AWS answered ${action} with ${name}`,
    hint: "Look this name up in the API reference of the service.",
  };
}

function failureOf(error: unknown): AwsFailure {
  if (!(error instanceof Error)) return { name: typeof error, message: "" };
  // The name comes from the other end, and may be anything; those of AWS have no digits, and key material has.
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
