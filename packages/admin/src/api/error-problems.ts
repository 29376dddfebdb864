import { KeywardError, type KeywardErrorCode } from "@keyward/core";
import type { RefusedName } from "@keyward/listener";
import { SecretsError, type SecretsErrorCode } from "@keyward/secrets";
import { HTTPException } from "hono/http-exception";
import { apiProblem, ProblemError, statusOfApiCode } from "./problem-error.ts";

const retryAfterSeconds = 5;

/** The status and title of each code of the secrets service. */
const statuses: Readonly<Record<SecretsErrorCode, readonly [status: number, title: string]>> = {
  TOKEN_REFUSED: [401, "No valid token"],
  NOT_ALLOWED: [403, "Not allowed"],
  FIELD_INVALID: [422, "Invalid field"],
  WORKSPACE_NOT_FOUND: [404, "Not found"],
  SERVER_NOT_FOUND: [404, "Not found"],
  SECRET_NOT_FOUND: [404, "Not found"],
  TOKEN_NOT_FOUND: [404, "Not found"],
  CALL_NOT_FOUND: [404, "Not found"],
  WORKSPACE_EXISTS: [409, "Exists already"],
  SERVER_EXISTS: [409, "Exists already"],
  REVISION_CHANGED: [412, "The revision changed"],
  ORIGIN_CHANGED: [412, "The origin changed"],
  SECRET_UNUSABLE: [409, "Conflict"],
  RULE_CONFLICT: [409, "Conflict"],
  LAST_ADMIN: [409, "Conflict"],
  LIMIT_REACHED: [409, "Limit reached"],
  RECORD_ROLLED_BACK: [500, "A record was replaced by an older version"],
  RECORD_INVALID: [500, "A record is not valid"],
  RECORD_MISSING: [500, "A record is missing"],
  CLOCK_JUMPED: [503, "The clock is ahead"],
  NOT_INITIALIZED: [503, "Not initialized"],
  ALREADY_INITIALIZED: [409, "Conflict"],
  AUDIT_UNAVAILABLE: [503, "The audit log is unavailable"],
  AUDIT_INVALID: [500, "The audit log is not valid"],
  SERVICE_BUSY: [503, "Busy"],
};

/** The codes of the store and of the key provider after which a later attempt may succeed. */
const temporary: ReadonlySet<KeywardErrorCode> = new Set([
  "STORE_UNAVAILABLE",
  "PROVIDER_UNAVAILABLE",
  "KEY_UNKNOWN",
  "REPLICA_BEHIND",
]);

/** The status of each code that an answer can have. */
export const statusOfCode: Readonly<Record<string, number>> = {
  ...Object.fromEntries(Object.entries(statuses).map(([code, [status]]) => [code, status])),
  ...Object.fromEntries([...temporary].map((code) => [code, 503])),
  ...statusOfApiCode,
};

/** Returns the error for a request without a valid token. It is the same for an unknown, an expired and a revoked token. */
export function tokenRefused(): ProblemError {
  return new ProblemError(
    {
      type: "docs/errors.md#token_refused",
      title: "No valid token",
      status: 401,
      detail: "The request has no token that is valid now",
      code: "TOKEN_REFUSED",
      hint: "Send a valid token in the header Authorization: Bearer kwt_…. An admin can issue a new token.",
    },
    { "www-authenticate": 'Bearer realm="keyward"' },
  );
}

/** Returns the error for a request with a host name that is not the service's, or from a web page of another origin. */
export function nameRefused(refused: RefusedName): ProblemError {
  if (refused === "host") {
    return apiProblem("HOST_REFUSED", {
      title: "Unknown host name",
      detail: "The host name of the request is not one of the service",
      hint: "Use localhost, or the public URL of the service. An operator sets the public URL when the service starts.",
    });
  }
  return apiProblem("ORIGIN_REFUSED", {
    title: "Another origin",
    detail: "The request comes from a page of another origin",
    hint: "Send the request from the service's own pages, or without a browser.",
  });
}

/** Returns the error for a caller whose role does not have the right that a route needs. */
export function notAllowed(): ProblemError {
  return new ProblemError({
    type: "docs/errors.md#not_allowed",
    title: "Not allowed",
    status: 403,
    detail: "The role of this token may not use this route",
    code: "NOT_ALLOWED",
    hint: "Use a token whose role has the right of the route. GET /api/v1/admin/whoami shows the role of a token.",
  });
}

/** Converts anything that a route threw into an error with problem details. */
export function problemOf(thrown: unknown): ProblemError {
  if (thrown instanceof ProblemError) return thrown;
  if (thrown instanceof SecretsError) return ofSecretsError(thrown);
  if (thrown instanceof KeywardError && temporary.has(thrown.code)) return serviceAway(thrown);
  if (thrown instanceof HTTPException) return ofHttpException(thrown);
  return internalError();
}

/** Returns the error for a fault of the service itself. It contains no details: only the log has them. */
export function internalError(): ProblemError {
  return apiProblem("INTERNAL_ERROR", {
    title: "Internal error",
    detail: "The service failed because of an unexpected error",
    hint: "Search the log of the service for the id of this request. If the request was a change, read whether it was made.",
  });
}

function ofSecretsError(error: SecretsError): ProblemError {
  if (error.code === "TOKEN_REFUSED") return tokenRefused();
  const [status, title] = statuses[error.code];
  const { code, hint, link, message } = error;
  const headers: Record<string, string> = status === 503 ? { "retry-after": String(retryAfterSeconds) } : {};
  return new ProblemError({ type: link, title, status, detail: message, code, hint }, headers);
}

/** The message of a store's error can name hosts and paths, so the answer contains only the code of the error. */
function serviceAway({ code, link }: KeywardError): ProblemError {
  return new ProblemError(
    {
      type: link,
      title: "Temporarily unavailable",
      status: 503,
      detail: "The store or the keys of the service cannot be reached, so the request was refused",
      code,
      hint: "Send the request again later. If it was a change, first read whether it was made.",
    },
    { "retry-after": String(retryAfterSeconds) },
  );
}

function ofHttpException({ status }: HTTPException): ProblemError {
  switch (status) {
    case 400:
      return apiProblem("BODY_MALFORMED", {
        title: "Malformed body",
        detail: "The body of the request is not JSON",
        hint: "Send one JSON object as the body.",
      });
    case 413:
      return bodyTooLarge();
    case 415:
      return apiProblem("CONTENT_TYPE_UNSUPPORTED", {
        title: "Unsupported content type",
        detail: "The body of the request does not have the content type application/json",
        hint: "Send JSON, with the header Content-Type: application/json.",
      });
    default:
      return internalError();
  }
}

/** Returns the error for a body that is larger than the limit. */
export function bodyTooLarge(): ProblemError {
  return apiProblem("BODY_TOO_LARGE", {
    title: "Body too large",
    detail: "The body of the request is larger than the service accepts",
    hint: "Send a smaller body. The largest value of a secret has 8 KiB.",
  });
}

/** Returns the error for a caller who must wait `waitSeconds` before the next request. */
export function rateLimited(waitSeconds: number, detail: string): ProblemError {
  return apiProblem(
    "RATE_LIMITED",
    { title: "Too many requests", detail, hint: `Send the request again after ${waitSeconds} seconds.` },
    { "retry-after": String(waitSeconds) },
  );
}

/** Returns the error for a token or a workspace that already has the largest allowed number of requests in progress. */
export function tooManyAtOnce(whose: "token" | "workspace"): ProblemError {
  return rateLimited(1, `This ${whose} already has as many requests in progress as it may`);
}

/** Returns the error for a request that would exceed the limit of requests in progress in the whole service. */
export function serviceBusy(): ProblemError {
  return new ProblemError(
    {
      type: "docs/errors.md#service_busy",
      title: "Busy",
      status: 503,
      detail: "The service already has as many requests in progress as it allows",
      code: "SERVICE_BUSY",
      hint: "Send the request again after a second.",
    },
    { "retry-after": "1" },
  );
}
