import type { MiddlewareHandler } from "hono";
import type { ApiContext, ApiEnvironment } from "./api-environment.ts";

/** Sets the header `ETag` of an answer to the revision, in quotes. */
export function setRevision(context: ApiContext, revision: number): void {
  context.header("etag", `"${revision}"`);
}

/** Sets the header `Link` of an answer to the URL of the next page. Does nothing on the last page. */
export function setNextPage(context: ApiContext, next: string | undefined): void {
  if (next === undefined) return;
  const parameters = new URL(context.req.url).searchParams;
  parameters.set("cursor", next);
  context.header("link", `<${context.req.path}?${parameters}>; rel="next"`);
}

/** Returns the revision that the header If-Match demands. Returns no condition if the header is absent or `*`. */
export function conditionOf(ifMatch: string | undefined): { readonly ifRevision?: number } {
  return ifMatch === undefined || ifMatch === "*" ? {} : { ifRevision: Number(ifMatch.slice(1, -1)) };
}

/** Replaces the answer to a read with 304 if the header If-None-Match of the request contains the answer's ETag. */
export const conditionalReads: MiddlewareHandler<ApiEnvironment> = async (context, next) => {
  await next();
  const etag = context.res.headers.get("etag");
  const known = context.req.header("if-none-match");
  if (context.req.method !== "GET" && context.req.method !== "HEAD") return;
  if (etag === null || known === undefined || context.res.status !== 200) return;
  const matches = known.split(",").some((tag) => tag.trim() === "*" || tag.trim().replace(/^W\//, "") === etag);
  if (matches) context.res = new Response(null, { status: 304, headers: { etag } });
};
