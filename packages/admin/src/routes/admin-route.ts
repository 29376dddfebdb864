import { createRoute, type RouteConfig } from "@hono/zod-openapi";
import { z } from "zod";
import { problem } from "../schemas/problem-schemas.ts";
import { type OperationId, routeRights } from "./route-rights.ts";

/** The path below which all routes of the admin API are. */
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
  500: { description: "The service failed. Its log names the request.", content: problemContent },
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
  notFound: { 404: { description: "What the path names does not exist.", content: problemContent } },
  conflict: { 409: { description: "The change conflicts with what exists.", content: problemContent } },
  changed: {
    412: {
      description: "The revision is not the one of If-Match, or the server has another origin than expected.",
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
      description: "The ETag that was read: the change is refused with 412 if the revision is another one now.",
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
      description: "The ETag that was read: the answer is 304 without a body if the revision is still the same.",
      examples: ['"3"'],
    }),
});

/** The query of a route without query parameters. */
export const noQuery = z.strictObject({});

const headers = {
  etag: { ETag: z.string().meta({ description: "The revision, in quotes.", examples: ['"3"'] }) },
  location: { Location: z.string().meta({ description: "The path of what was created." }) },
  link: {
    Link: z.string().optional().meta({ description: 'The next page, with rel="next". Absent on the last page.' }),
  },
};

/** The header that an answer has. */
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

/** Describes a route of the admin API. The path is below {@link apiPath}. */
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
