import type { Problem } from "../schemas/problem-schemas.ts";

/** The codes of the errors that the admin API itself finds. `docs/admin-api.md` describes each code. */
export type ApiProblemCode =
  | "BODY_MALFORMED"
  | "BODY_TOO_LARGE"
  | "CONTENT_TYPE_UNSUPPORTED"
  | "HOST_REFUSED"
  | "INTERNAL_ERROR"
  | "METHOD_NOT_ALLOWED"
  | "NOT_READY"
  | "ORIGIN_REFUSED"
  | "RATE_LIMITED"
  | "REQUEST_MALFORMED"
  | "ROUTE_NOT_FOUND"
  | "SERVICE_CLOSING";

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
  { status, title, detail, hint }: Pick<ProblemFields, "status" | "title" | "detail" | "hint">,
  headers: Readonly<Record<string, string>> = {},
): ProblemError {
  const type = `docs/admin-api.md#${code.toLowerCase()}`;
  return new ProblemError({ type, title, status, detail, code, hint }, headers);
}
