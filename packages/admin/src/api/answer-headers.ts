import type { MiddlewareHandler } from "hono";
import type { ApiContext, ApiEnvironment } from "./api-environment.ts";

/** Sets the ETag of an answer: the revision, in quotes. */
export function setRevision(context: ApiContext, revision: number): void {
  context.header("etag", `"${revision}"`);
}

/** Sets the header `Link` of a page to the next page. */
export function setNextPage(context: ApiContext, next: string | undefined): void {
  if (next === undefined) return;
  const parameters = new URL(context.req.url).searchParams;
  parameters.set("cursor", next);
  context.header("link", `<${context.req.path}?${parameters}>; rel="next"`);
}

/** Returns the condition of a change that the header If-Match names. `*` means any revision. */
export function conditionOf(ifMatch: string | undefined): { readonly ifRevision?: number } {
  return ifMatch === undefined || ifMatch === "*" ? {} : { ifRevision: Number(ifMatch.slice(1, -1)) };
}

/** Answers a read with 304 if its ETag is one of If-None-Match. */
export const conditionalReads: MiddlewareHandler<ApiEnvironment> = async (context, next) => {
  await next();
  const etag = context.res.headers.get("etag");
  const known = context.req.header("if-none-match");
  if (context.req.method !== "GET" && context.req.method !== "HEAD") return;
  if (etag === null || known === undefined || context.res.status !== 200) return;
  const matches = known.split(",").some((tag) => tag.trim() === "*" || tag.trim().replace(/^W\//, "") === etag);
  if (matches) context.res = new Response(null, { status: 304, headers: { etag } });
};
