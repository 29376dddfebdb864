import { keysOfToken } from "../access/authentication.ts";
import { hasRight } from "../access/rights.ts";
import { endOfToken } from "../access/token-end.ts";
import { tokenNotFound } from "../access/tokens.ts";
import type { CallExplanation, CallRefusal, ExplainedCall, SecretInfo } from "../model.ts";
import { serverKey, tokenKey } from "../records/record-keys.ts";
import { serverRecord } from "../records/server-record.ts";
import { tokenRecord } from "../records/token-record.ts";
import { headerOf } from "../servers/injection-rule.ts";
import { requireServer } from "../servers/server-changes.ts";
import { secretInfo } from "../servers/server-secrets.ts";
import { originOf } from "../servers/server-url.ts";
import type { ServiceStore } from "../store/service-store.ts";
import { scopesWithout } from "./token-scope.ts";

/**
 * Returns where a call would go, with which secrets, and why it would be refused. Reads no value.
 *
 * @throws SecretsError `SERVER_NOT_FOUND`, `TOKEN_NOT_FOUND`.
 */
export async function explainCall(
  store: ServiceStore,
  workspace: string,
  { server: slug, tokenId, tool, method }: ExplainedCall,
): Promise<CallExplanation> {
  const keys = keysOfToken({ workspace, id: tokenId });
  const batch = await store.readBatch([...keys, serverKey(workspace, slug)]);
  const token = batch.record(tokenRecord, tokenKey(workspace, tokenId))?.value;
  if (token === undefined) throw tokenNotFound("does not exist");
  const server = requireServer(batch.record(serverRecord, serverKey(workspace, slug))?.value);
  const secrets = server.secrets
    .map((secret) => secretInfo(server, secret, undefined))
    .sort((one, other) => (one.name < other.name ? -1 : 1));
  const end = endOfToken(token, workspace, batch);
  // The gateway knows the tools of MCP servers only. Each message to an MCP server is a POST.
  const asked = server.kind === "mcp" ? { tool, method: "POST" } : { method };
  const outside = scopesWithout(token, { server: slug, kind: server.kind, ...asked });
  const isUnusable = (why: SecretInfo["unusable"]) => secrets.some(({ unusable }) => unusable === why);
  const refusals: readonly (CallRefusal | false | undefined)[] = [
    end,
    !hasRight(token.role, "servers.call") && "ROLE_NOT_ALLOWED",
    outside.includes("server") && "SERVER_OUT_OF_SCOPE",
    outside.includes("tool") && "TOOL_OUT_OF_SCOPE",
    outside.includes("method") && "METHOD_OUT_OF_SCOPE",
    server.disabled && "SERVER_DISABLED",
    isUnusable("expired") && "SECRET_EXPIRED",
    isUnusable("origin-changed") && "SECRET_ORIGIN_CHANGED",
  ];
  const { kind, url, revision } = server;
  return {
    token: { id: token.id, owner: token.owner, role: token.role },
    server: { slug, kind, url, origin: originOf(url), host: new URL(url).host, revision },
    secrets: secrets.map(({ name, revision, rule, redacted, unusable }) => ({
      name,
      revision,
      rule,
      header: headerOf(rule),
      redacted,
      unusable,
    })),
    refusals: refusals.filter((refusal) => refusal !== undefined && refusal !== false),
  };
}
