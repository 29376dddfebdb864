import type { OpenAPIHono } from "@hono/zod-openapi";
import { createRoute } from "@hono/zod-openapi";
import { z } from "zod";
import { problemContent } from "../routes/admin-route.ts";
import type { ApiEnvironment } from "./api-environment.ts";

type Api = OpenAPIHono<ApiEnvironment>;

/** The route of the OpenAPI document. It is the only route that needs no token. */
export const documentRoute = createRoute({
  method: "get",
  path: "/openapi.json",
  operationId: "openApiDocument",
  tags: ["Description"],
  summary: "Read this document",
  security: [],
  "x-keyward-right": "none",
  responses: {
    200: {
      description: "The OpenAPI document of the admin API.",
      content: { "application/json": { schema: z.looseObject({ openapi: z.string().meta({ examples: ["3.1.0"] }) }) } },
    },
    403: { description: "The request comes from a page of another origin.", content: problemContent },
    421: { description: "The host name of the request is not one of the service.", content: problemContent },
    503: { description: "The service is busy or shutting down.", content: problemContent },
  },
});

/** Returns the OpenAPI 3.1 document of an API, as JSON. */
export function openApiText(api: Api): string {
  api.openAPIRegistry.registerPath(documentRoute);
  api.openAPIRegistry.registerComponent("securitySchemes", "token", {
    type: "http",
    scheme: "bearer",
    description: "A token, which begins with kwt_.",
  });
  const document = api.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Keyward admin API",
      version: "1",
      description:
        "Manages workspaces, servers, secrets and tokens. No route returns the value of a secret. The extension `x-keyward-right` of each route names the right that the route needs.",
      license: { name: "MIT", url: "https://spdx.org/licenses/MIT.html" },
    },
    servers: [{ url: "/" }],
    tags: [
      { name: "Description", description: "This document." },
      { name: "Caller", description: "Who you are." },
      { name: "Workspaces", description: "For operators." },
      { name: "Servers", description: "The servers of your workspace, for admins." },
      { name: "Secrets", description: "The secrets of a server, for admins. No route returns a value." },
      {
        name: "Tokens",
        description: "For admins: the tokens of their workspace. For operators: the operators' tokens.",
      },
      { name: "Changes", description: "Who changed what, for auditors, admins and operators." },
      { name: "Calls", description: "Who called what, for auditors and admins, and what a call would do, for admins." },
      { name: "Keys", description: "The state of the encryption keys, for operators. No route returns key material." },
    ],
  });
  // The generator writes the flag of a regular expression into the pattern.
  return JSON.stringify(document).replaceAll('$/u"', '$"');
}
