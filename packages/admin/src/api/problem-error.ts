import type { Problem } from "../schemas/problem-schemas.ts";

/** The usual HTTP status of each code that only the admin API uses. `docs/admin-api.md` describes each code. */
export const statusOfApiCode = {
  BODY_MALFORMED: 400,
  BODY_TOO_LARGE: 413,
  CONTENT_TYPE_UNSUPPORTED: 415,
  HOST_REFUSED: 421,
  INTERNAL_ERROR: 500,
  METHOD_NOT_ALLOWED: 405,
  ORIGIN_REFUSED: 403,
  RATE_LIMITED: 429,
  REQUEST_MALFORMED: 400,
  ROUTE_NOT_FOUND: 404,
  SERVICE_CLOSING: 503,
} as const;

/** A code of an error that only the admin API uses. */
export type ApiProblemCode = keyof typeof statusOfApiCode;

/** The members of problem details, except `instance`, which is the id of the request. */
export type ProblemFields = Omit<Problem, "instance">;

/** An error that the API answers with problem details. Its texts never contain anything that the caller sent. */
export class ProblemError extends Error {
  override readonly name = "ProblemError";
  readonly problem: ProblemFields;
  /** Headers of this answer, in addition to the headers of every answer. */
  readonly headers: Readonly<Record<string, string>>;

  constructor(problem: ProblemFields, headers: Readonly<Record<string, string>> = {}) {
    super(problem.detail);
    this.problem = problem;
    this.headers = headers;
  }
}

/** Returns an error with a code that only the admin API uses, and with the usual status of the code. */
export function apiProblem(
  code: ApiProblemCode,
  {
    status = statusOfApiCode[code],
    title,
    detail,
    hint,
  }: Pick<ProblemFields, "title" | "detail" | "hint"> & { readonly status?: number },
  headers: Readonly<Record<string, string>> = {},
): ProblemError {
  const type = `docs/admin-api.md#${code.toLowerCase()}`;
  return new ProblemError({ type, title, status, detail, code, hint }, headers);
}
