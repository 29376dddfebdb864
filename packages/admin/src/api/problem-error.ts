import type { Problem } from "../schemas/problem-schemas.ts";

/** The usual status of each code that only the admin API has. `docs/admin-api.md` describes each code. */
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

/** A code that only the admin API has. */
export type ApiProblemCode = keyof typeof statusOfApiCode;

/** What a problem has besides its request id. */
export type ProblemFields = Omit<Problem, "instance">;

/** An error that is answered with problem details. Its texts never contain what the caller sent. */
export class ProblemError extends Error {
  override readonly name = "ProblemError";
  readonly problem: ProblemFields;
  /** Headers of the answer, in addition to those of every answer. */
  readonly headers: Readonly<Record<string, string>>;

  constructor(problem: ProblemFields, headers: Readonly<Record<string, string>> = {}) {
    super(problem.detail);
    this.problem = problem;
    this.headers = headers;
  }
}

/** Returns an error that the admin API itself found. */
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
