import type { OpenAPIHono } from "@hono/zod-openapi";
import type { ApiEnvironment } from "./api-environment.ts";

/** Returns the OpenAPI 3.1 document of an API. */
export function openApiDocument(api: OpenAPIHono<ApiEnvironment>): ReturnType<typeof api.getOpenAPI31Document> {
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
      { name: "Caller", description: "Who you are." },
      { name: "Workspaces", description: "For operators." },
      { name: "Servers", description: "The servers of your workspace, for admins." },
      { name: "Secrets", description: "The secrets of a server, for admins. No route returns a value." },
      { name: "Tokens", description: "For admins: the tokens of their workspace. For operators: those of operators." },
      { name: "Changes", description: "Who changed what, for auditors, admins and operators." },
      { name: "Keys", description: "The state of the encryption keys, for operators. Never a key." },
    ],
  });
  return {
    ...document,
    components: {
      ...document.components,
      securitySchemes: {
        token: { type: "http", scheme: "bearer", description: "A token, which begins with kwt_." },
      },
    },
  };
}
