import type { ProblemError } from "./problem-error.ts";

/** The headers that the admin API sets in every answer. */
export const answerHeaders = {
  "cache-control": "no-store",
  "content-security-policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
} as const;

/** Returns the answer for an error: problem details (RFC 9457) with the id of the request. */
export function problemResponse({ problem, headers }: ProblemError, requestId: string): Response {
  return new Response(JSON.stringify({ ...problem, instance: requestId }), {
    status: problem.status,
    headers: {
      ...answerHeaders,
      "content-type": "application/problem+json",
      "x-request-id": requestId,
      ...headers,
    },
  });
}
