import { randomUUID } from "node:crypto";
import { OpenAPIHono } from "@hono/zod-openapi";
import { type OptionNames, requireOptions } from "@keyward/core";
import { ClientAddresses, OwnNames } from "@keyward/listener";
import type { Hono } from "hono";
import { apiPath } from "../routes/admin-route.ts";
import { allRoutes } from "../routes/all-routes.ts";
import { type OperationId, routeRights } from "../routes/route-rights.ts";
import { Admission } from "./admission.ts";
import { conditionalReads } from "./answer-headers.ts";
import type { ApiContext, ApiEnvironment } from "./api-environment.ts";
import { type ApiLimits, checkedLimits } from "./api-limits.ts";
import { nameRefused, problemOf } from "./error-problems.ts";
import { refusedFields } from "./field-rules.ts";
import { handleCalls, handleReads, handleSecrets, handleServers, handleTokens, handleWorkspaces } from "./handlers.ts";
import { documentRoute, openApiText } from "./openapi-document.ts";
import { answerHeaders, problemResponse } from "./problem-response.ts";
import type { SecretsService } from "./secrets-service.ts";
import { type StateOfServer, unknownStates } from "./server-states.ts";
import { unknownRoute } from "./unknown-route.ts";

/** The options of {@link createAdminApi}. */
export interface AdminApiOptions {
  /** The secrets service. */
  readonly admin: SecretsService;
  /**
   * The URL at which clients reach the service, such as `https://keyward.example.com`. Default: none, so the API answers
   * only to `localhost`, `127.0.0.1` and `[::1]`.
   */
  readonly publicUrl?: string | undefined;
  /** The addresses or CIDR blocks of trusted proxies. Only their header `X-Forwarded-For` is read. Default: none. */
  readonly trustProxies?: readonly string[] | undefined;
  /** The URL at which callers reach the gateway. Answers with a new token, and of `GET /whoami`, contain it. Default: none. */
  readonly callUrl?: string | undefined;
  /** Returns the state of a server, as the gateway of this process last saw it. Default: `unknown` for each server. */
  readonly stateOf?: StateOfServer | undefined;
  /** Limits on requests. "lifted", for load tests, switches off all limits except the one on the size of a body. */
  readonly limits?: ApiLimits | "lifted" | undefined;
  /** Called with each error that the API answers with a status of 500 or more, and the id of the request. Default: none. */
  readonly onError?: ((error: unknown, request: { readonly requestId: string }) => void) | undefined;
}

/** The names of the options of {@link createAdminApi}. */
export const adminApiOptionNames = {
  admin: true,
  publicUrl: true,
  trustProxies: true,
  callUrl: true,
  stateOf: true,
  limits: true,
  onError: true,
} satisfies OptionNames<AdminApiOptions>;

/**
 * Creates the admin API as an app of Hono: a handler of fetch requests. On Node.js, `startAdminServer` serves it.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown option, a `publicUrl` that is not a URL, one of `trustProxies`
 * that is not a CIDR block, or a limit that is not a positive integer.
 * @example
 * const audit = openAuditLog({ path: "audit.db", keys });
 * const app = createAdminApi({ admin: new SecretsAdmin({ store, keys, audit }) });
 * console.log((await app.request("/api/v1/admin/whoami")).status); // 401
 * await audit.close();
 */
export function createAdminApi(options: AdminApiOptions): Hono<ApiEnvironment> {
  const given = requireOptions("createAdminApi", options, adminApiOptionNames);
  const { admin, publicUrl, trustProxies = [], callUrl, stateOf = unknownStates, onError } = given;
  const limits = checkedLimits(given.limits);
  const names = new OwnNames(publicUrl);
  const addresses = new ClientAddresses(trustProxies);
  const admission = new Admission(admin, limits);
  const addressOf = ({ env, req }: ApiContext) =>
    addresses.of(env?.incoming?.socket.remoteAddress, req.header("x-forwarded-for"));

  const app = new OpenAPIHono<ApiEnvironment>({
    defaultHook: (result) => {
      if (!result.success) throw refusedFields(placeOf(result.target), result.error.issues);
    },
  });

  app.onError((error, context) => {
    const problem = problemOf(error);
    const requestId = context.get("requestId");
    if (problem.problem.status >= 500) report(onError, error, requestId);
    return problemResponse(problem, requestId);
  });
  app.notFound((context) => {
    throw unknownRoute(context.req.path);
  });

  app.use(async (context, next) => {
    context.set("requestId", randomUUID());
    await next();
    for (const [name, value] of Object.entries(answerHeaders)) context.res.headers.set(name, value);
    context.res.headers.set("x-request-id", context.get("requestId"));
  });
  app.use(async ({ req }, next) => {
    const refused = names.refusal(req.header("host") ?? new URL(req.url).host, req.header("origin"));
    if (refused !== undefined) throw nameRefused(refused);
    await next();
  });
  app.use(conditionalReads);

  const api = app.basePath(apiPath);
  let document: string | undefined;
  api.get(documentRoute.path, (context) => {
    document ??= openApiText(api);
    return context.body(document, 200, { "content-type": "application/json" });
  });
  for (const id of operationIds()) {
    const { method, request, getRoutingPath } = allRoutes[id];
    const on = [method.toUpperCase(), getRoutingPath()] as const;
    api.on(...on, admission.requires(routeRights[id], { hasBody: request?.body !== undefined, addressOf }));
  }
  handleReads(api, admin, callUrl);
  handleWorkspaces(api, admin, callUrl);
  handleServers(api, admin, stateOf);
  handleSecrets(api, admin, stateOf);
  handleTokens(api, admin, callUrl);
  handleCalls(api, admin);
  return app;
}

function operationIds(): readonly OperationId[] {
  const isOperation = (name: string): name is OperationId => Object.hasOwn(routeRights, name);
  return Object.keys(routeRights).filter(isOperation);
}

function placeOf(target: string): "body" | "query" | "path" | "header" {
  switch (target) {
    case "query":
      return "query";
    case "param":
      return "path";
    case "header":
      return "header";
    default:
      return "body";
  }
}

function report(onError: AdminApiOptions["onError"], error: unknown, requestId: string): void {
  try {
    onError?.(error, { requestId });
  } catch {
    // A log that fails must not change the answer.
  }
}
