import type { OpenAPIHono } from "@hono/zod-openapi";
import { type Caller, SecretsError, type ServerInfo } from "@keyward/secrets";
import { apiPath } from "../routes/admin-route.ts";
import { callRoutes } from "../routes/call-routes.ts";
import { readingRoutes } from "../routes/reading-routes.ts";
import { secretRoutes } from "../routes/secret-routes.ts";
import { serverRoutes } from "../routes/server-routes.ts";
import { tokenRoutes } from "../routes/token-routes.ts";
import { workspaceRoutes } from "../routes/workspace-routes.ts";
import type { Server } from "../schemas/server-schemas.ts";
import { conditionOf, setNextPage, setRevision } from "./answer-headers.ts";
import type { ApiContext, ApiEnvironment } from "./api-environment.ts";
import type { SecretsService } from "./secrets-service.ts";
import type { StateOfServer } from "./server-states.ts";
import {
  fromNewSecret,
  fromNewToken,
  optionalMilliseconds,
  toCall,
  toCensus,
  toChange,
  toExplanation,
  toInjection,
  toIssuedToken,
  toPage,
  toRotation,
  toSecret,
  toSecretChange,
  toServer,
  toToken,
  toWhoAmI,
  toWorkspace,
} from "./wire.ts";

type Api = OpenAPIHono<ApiEnvironment>;

function callerOf(context: Pick<ApiContext, "get">): Caller {
  const caller = context.get("caller");
  if (caller === undefined) throw new Error("A route without a checked caller was reached");
  return caller;
}

/** Returns a function that converts a server of the caller's workspace, and its state, into an answer of the API. */
function shown(context: Pick<ApiContext, "get">, stateOf: StateOfServer): (info: ServerInfo) => Server {
  const { workspace = "" } = callerOf(context);
  return (info) => toServer(info, stateOf({ workspace, id: info.id, revision: info.revision }));
}

/** Registers the handlers of workspaces. */
export function handleWorkspaces(api: Api, admin: SecretsService, callUrl: string | undefined): void {
  api.openapi(workspaceRoutes.createWorkspace, async (context) => {
    const created = await admin.createWorkspace(callerOf(context), context.req.valid("json"));
    setRevision(context, created.workspace.revision);
    context.header("location", `${apiPath}/workspaces/${created.workspace.name}`);
    return context.json(
      { workspace: toWorkspace(created.workspace), admin: toIssuedToken(created.admin, callUrl) },
      201,
    );
  });
  api.openapi(workspaceRoutes.listWorkspaces, async (context) => {
    const page = await admin.listWorkspaces(callerOf(context), context.req.valid("query"));
    setNextPage(context, page.next);
    return context.json(toPage(page, toWorkspace), 200);
  });
  api.openapi(workspaceRoutes.getWorkspace, async (context) => {
    const info = await admin.getWorkspace(callerOf(context), context.req.valid("param").name);
    setRevision(context, info.revision);
    return context.json(toWorkspace(info), 200);
  });
  api.openapi(workspaceRoutes.deleteWorkspace, async (context) => {
    const condition = conditionOf(context.req.valid("header")["if-match"]);
    await admin.deleteWorkspace(callerOf(context), context.req.valid("param").name, condition);
    return context.body(null, 204);
  });
}

/** Registers the handlers of servers. */
export function handleServers(api: Api, admin: SecretsService, stateOf: StateOfServer): void {
  api.openapi(serverRoutes.createServer, async (context) => {
    const info = await admin.createServer(callerOf(context), context.req.valid("json"));
    setRevision(context, info.revision);
    context.header("location", `${apiPath}/mcp-servers/${info.slug}`);
    return context.json(shown(context, stateOf)(info), 201);
  });
  api.openapi(serverRoutes.listServers, async (context) => {
    const page = await admin.listServers(callerOf(context), context.req.valid("query"));
    setNextPage(context, page.next);
    return context.json(toPage(page, shown(context, stateOf)), 200);
  });
  api.openapi(serverRoutes.getServer, async (context) => {
    const info = await admin.getServer(callerOf(context), context.req.valid("param").slug);
    setRevision(context, info.revision);
    return context.json(shown(context, stateOf)(info), 200);
  });
  api.openapi(serverRoutes.updateServer, async (context) => {
    const condition = conditionOf(context.req.valid("header")["if-match"]);
    const { slug } = context.req.valid("param");
    const info = await admin.updateServer(callerOf(context), slug, context.req.valid("json"), condition);
    setRevision(context, info.revision);
    return context.json(shown(context, stateOf)(info), 200);
  });
  api.openapi(serverRoutes.deleteServer, async (context) => {
    const condition = conditionOf(context.req.valid("header")["if-match"]);
    await admin.deleteServer(callerOf(context), context.req.valid("param").slug, condition);
    return context.body(null, 204);
  });
}

/** Registers the handlers of secrets. */
export function handleSecrets(api: Api, admin: SecretsService, stateOf: StateOfServer): void {
  api.openapi(secretRoutes.setSecret, async (context) => {
    const condition = conditionOf(context.req.valid("header")["if-match"]);
    const { slug } = context.req.valid("param");
    const secret = fromNewSecret(context.req.valid("json"));
    const change = await admin.setSecret(callerOf(context), slug, secret, condition);
    setRevision(context, change.revision);
    if (!change.created) return context.json(toSecretChange(change), 200);
    context.header("location", `${apiPath}/mcp-servers/${slug}/secrets/${change.secret.name}/injection`);
    return context.json(toSecretChange(change), 201);
  });
  api.openapi(secretRoutes.listSecrets, async (context) => {
    const { server, secrets } = await admin.listSecrets(callerOf(context), context.req.valid("param").slug);
    setRevision(context, server.revision);
    return context.json({ server: shown(context, stateOf)(server), secrets: secrets.map(toSecret) }, 200);
  });
  api.openapi(secretRoutes.deleteAllSecrets, async (context) => {
    const condition = conditionOf(context.req.valid("header")["if-match"]);
    const { slug } = context.req.valid("param");
    const { server, names } = await admin.deleteAllSecrets(callerOf(context), slug, condition);
    setRevision(context, server.revision);
    return context.json({ server: shown(context, stateOf)(server), names: [...names] }, 200);
  });
  api.openapi(secretRoutes.deleteSecret, async (context) => {
    const condition = conditionOf(context.req.valid("header")["if-match"]);
    const { slug, name } = context.req.valid("param");
    const info = await admin.deleteSecret(callerOf(context), slug, name, condition);
    setRevision(context, info.revision);
    return context.json(shown(context, stateOf)(info), 200);
  });
  api.openapi(secretRoutes.setInjection, async (context) => {
    const condition = conditionOf(context.req.valid("header")["if-match"]);
    const { slug, name } = context.req.valid("param");
    const change = await admin.setInjection(callerOf(context), slug, name, context.req.valid("json"), condition);
    setRevision(context, change.revision);
    return context.json(toSecretChange(change), 200);
  });
  api.openapi(secretRoutes.getInjection, async (context) => {
    const { slug, name } = context.req.valid("param");
    const { server, secrets } = await admin.listSecrets(callerOf(context), slug);
    const found = secrets.find((secret) => secret.name === name);
    if (found === undefined) {
      throw new SecretsError("SECRET_NOT_FOUND", "The server has no secret with this name", {
        hint: "List the secrets of the server to see their names.",
      });
    }
    setRevision(context, server.revision);
    return context.json(toInjection(found.rule), 200);
  });
}

/** Registers the handlers of tokens. */
export function handleTokens(api: Api, admin: SecretsService, callUrl: string | undefined): void {
  api.openapi(tokenRoutes.createToken, async (context) => {
    const issued = await admin.createToken(callerOf(context), fromNewToken(context.req.valid("json")));
    return context.json(toIssuedToken(issued, callUrl), 201);
  });
  api.openapi(tokenRoutes.listTokens, async (context) => {
    const page = await admin.listTokens(callerOf(context), context.req.valid("query"));
    setNextPage(context, page.next);
    return context.json(toPage(page, toToken), 200);
  });
  api.openapi(tokenRoutes.revokeTokensOf, async (context) => {
    const revoked = await admin.revokeTokensOf(callerOf(context), context.req.valid("query").owner);
    return context.json({ revoked: [...revoked] }, 200);
  });
  api.openapi(tokenRoutes.revokeToken, async (context) => {
    const info = await admin.revokeToken(callerOf(context), context.req.valid("param").id);
    return context.json(toToken(info), 200);
  });
  api.openapi(tokenRoutes.rotateToken, async (context) => {
    const { id } = context.req.valid("param");
    const issued = await admin.rotateToken(callerOf(context), id, context.req.valid("json"));
    return context.json(toIssuedToken(issued, callUrl), 201);
  });
}

/** Registers the handlers of calls. */
export function handleCalls(api: Api, admin: SecretsService): void {
  api.openapi(callRoutes.listCalls, async (context) => {
    const { cursor, limit, from, until, ...filter } = context.req.valid("query");
    const times = { from: optionalMilliseconds(from), until: optionalMilliseconds(until) };
    const page = await admin.listCalls(callerOf(context), { ...filter, ...times }, { cursor, limit });
    setNextPage(context, page.next);
    return context.json(toPage(page, toCall), 200);
  });
  api.openapi(callRoutes.getCall, async (context) => {
    const call = await admin.findCall(callerOf(context), context.req.valid("param").id);
    return context.json(toCall(call), 200);
  });
  api.openapi(callRoutes.explainCall, async (context) => {
    const { token: tokenId, tool, method } = context.req.valid("query");
    const { slug: server } = context.req.valid("param");
    const explained = await admin.explainCall(callerOf(context), { server, tokenId, tool, method });
    return context.json(toExplanation(explained), 200);
  });
}

/** Registers the handlers of {@link readingRoutes}: who the caller is, the changes, and the state of the keys. */
export function handleReads(api: Api, admin: SecretsService, callUrl: string | undefined): void {
  api.openapi(readingRoutes.whoAmI, (context) => context.json(toWhoAmI(admin.whoAmI(callerOf(context)), callUrl), 200));
  api.openapi(readingRoutes.listChanges, async (context) => {
    const { cursor, limit, from, until, ...filter } = context.req.valid("query");
    const times = { from: optionalMilliseconds(from), until: optionalMilliseconds(until) };
    const page = await admin.listChanges(callerOf(context), { ...filter, ...times }, { cursor, limit });
    setNextPage(context, page.next);
    return context.json(toPage(page, toChange), 200);
  });
  api.openapi(readingRoutes.census, async (context) =>
    context.json(toCensus(await admin.census(callerOf(context))), 200),
  );
  api.openapi(readingRoutes.rotation, async (context) => {
    const status = await admin.rotationStatus(callerOf(context));
    return context.json({ rotation: status === undefined ? null : toRotation(status) }, 200);
  });
}
