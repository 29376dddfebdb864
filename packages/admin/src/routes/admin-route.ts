import { createRoute, type RouteConfig } from "@hono/zod-openapi";
import { z } from "zod";
import { problem } from "../schemas/problem-schemas.ts";
import { type OperationId, routeRights } from "./route-rights.ts";

/** The path with which the path of each route of the admin API begins. */
export const apiPath = "/api/v1/admin";

/** The content of every error. */
export const problemContent = { "application/problem+json": { schema: problem } };

/** The errors that every route can answer with. */
const everyError = {
  401: {
    description: "The request has no valid token.",
    headers: z.object({ "WWW-Authenticate": z.string().meta({ examples: ['Bearer realm="keyward"'] }) }),
    content: problemContent,
  },
  403: { description: "The role of the token lacks the right of this route.", content: problemContent },
  421: { description: "The host name of the request is not one of the service.", content: problemContent },
  422: { description: "A field of the request does not follow its rule.", content: problemContent },
  429: {
    description: "Too many requests with one token or of one workspace, or a token that was refused too often.",
    headers: z.object({ "Retry-After": z.string().meta({ examples: ["1"] }) }),
    content: problemContent,
  },
  500: { description: "The service failed. Its log contains the id of the request.", content: problemContent },
  503: {
    description: "The store, the keys or the audit log cannot be reached, or the service is busy.",
    headers: z.object({ "Retry-After": z.string().meta({ examples: ["5"] }) }),
    content: problemContent,
  },
};

const bodyErrors = {
  400: { description: "The body is not JSON.", content: problemContent },
  413: { description: "The body is too large.", content: problemContent },
  415: { description: "The content type of the body is not application/json.", content: problemContent },
};

/** The errors that only some routes can answer with. */
export const routeErrors = {
  notFound: { 404: { description: "The path names something that does not exist.", content: problemContent } },
  conflict: { 409: { description: "The change conflicts with the current state.", content: problemContent } },
  changed: {
    412: {
      description: "The revision differs from If-Match, or the server has another origin than expected.",
      content: problemContent,
    },
  },
} as const;

/** The header of a conditional change. */
export const ifMatchHeader = z.object({
  "if-match": z
    .string()
    .regex(/^(?:\*|"[0-9]{1,15}")$/, 'a revision in double quotes, such as "3"')
    .optional()
    .meta({
      description:
        "The ETag of an earlier read. The change is refused with 412 if the revision has changed since then.",
      examples: ['"3"'],
    }),
});

/** The header of a conditional read. */
export const ifNoneMatchHeader = z.object({
  "if-none-match": z
    .string()
    .max(512)
    .optional()
    .meta({
      description: "The ETag of an earlier read. The answer is 304 without a body if the revision is still the same.",
      examples: ['"3"'],
    }),
});

/** The query of a route without query parameters. */
export const noQuery = z.strictObject({});

const headers = {
  etag: { ETag: z.string().meta({ description: "The revision, in quotes.", examples: ['"3"'] }) },
  location: { Location: z.string().meta({ description: "The path of the created resource." }) },
  link: {
    Link: z.string().optional().meta({ description: 'The next page, with rel="next". Absent on the last page.' }),
  },
};

/** A header that an answer of a route can have. */
export type AnswerHeader = keyof typeof headers;

/** Describes a JSON answer of a route. */
export function jsonAnswer<Schema extends z.ZodType>(
  description: string,
  schema: Schema,
  names: readonly AnswerHeader[] = [],
) {
  const shape: Record<string, z.ZodType> = Object.assign({}, ...names.map((name) => headers[name]));
  return { description, headers: z.object(shape), content: { "application/json": { schema } } };
}

/** Describes a JSON body of a request. */
export function jsonBody<Schema extends z.ZodType>(schema: Schema) {
  return { required: true, content: { "application/json": { schema } } };
}

/** Describes a route of the admin API. `path` is the part of the path after {@link apiPath}. */
export function adminRoute<
  Path extends string,
  Config extends Omit<RouteConfig, "path" | "operationId" | "security" | "middleware"> & { path: Path },
>(operationId: OperationId, config: Config) {
  const withBody = config.request?.body === undefined ? {} : bodyErrors;
  return createRoute({
    ...config,
    operationId,
    security: [{ token: [] }],
    "x-keyward-right": routeRights[operationId],
    responses: { ...everyError, ...withBody, ...config.responses },
  });
}
