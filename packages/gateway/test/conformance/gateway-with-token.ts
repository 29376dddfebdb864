import { mkdtemp, rm } from "node:fs/promises";
import { createServer, request as send } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Keyring } from "@keyward/core";
import { parseAddressException, startGateway } from "@keyward/gateway";
import { openAuditLog, SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { listeningProxy } from "./listening-proxy.ts";
import { startNameMapping } from "./name-mapping.ts";

/** A gateway in front of one MCP server, and a proxy in front of the gateway that adds the token. */
export interface GatewayWithToken {
  /** The URL of the server at the proxy, for clients that cannot send a token. */
  readonly url: string;
  /** The URL of the server at the gateway. */
  readonly gatewayUrl: string;
  /** The URL of the endpoint of the workspace at another proxy, which uses the names of the server. */
  readonly workspaceUrl: string;
  readonly token: string;
  /** The problems that the gateway has told. */
  readonly problems: readonly unknown[];
  close(): Promise<void>;
}

/** Starts a gateway in front of a server on loopback. The caller closes the gateway. */
export async function startGatewayWithToken(serverUrl: string): Promise<GatewayWithToken> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-conformance-"));
  const [store, keys] = [new MemoryStore(), Keyring.generate()];
  const audit = openAuditLog({ path: join(folder, "audit.db"), keys });
  const admin = new SecretsAdmin({ store, keys, audit });
  const caller = await admin.authenticate((await admin.initialize()).admin.token);
  const { token } = await admin.createToken(caller, { owner: "conformance", role: "member" });
  await admin.createServer(caller, { slug: "peer", url: serverUrl, kind: "mcp" });
  const rule = { kind: "header", header: "x-api-key" } as const;
  await admin.setSecret(caller, "peer", { name: "API_KEY", value: "test-value-0123456789abcdefghij", rule });
  const problems: unknown[] = [];
  const gateway = await startGateway({
    store,
    keys,
    audit,
    ready: () => admin.ready(),
    port: 0,
    allowedAddresses: [parseAddressException(`127.0.0.1:${new URL(serverUrl).port}`)],
    limits: { callsPerSecond: 1_000, burstCalls: 1_000, redactionsPerHour: 1_000 },
    onProblem: (problem) => problems.push(problem),
  });
  const gatewayUrl = `${gateway.url}/s/peer/mcp`;
  const proxy = await startProxy(gatewayUrl, token);
  const mapping = await startNameMapping({ target: `${gateway.url}/mcp`, token, slug: "peer" });
  return {
    url: proxy.url,
    gatewayUrl,
    workspaceUrl: mapping.url,
    token,
    problems,
    close: async () => {
      await proxy.close();
      await mapping.close();
      await gateway.close();
      await admin.close();
      await audit.close();
      await rm(folder, { recursive: true });
    },
  };
}

/** Sends each request on as it came, with a token. Nothing else is changed, so the differences are those of the gateway. */
async function startProxy(target: string, token: string) {
  const server = createServer((request, response) => {
    const { method, headers } = request;
    const forwarded = send(target, { method, headers: { ...headers, authorization: `Bearer ${token}` } });
    forwarded.once("response", (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      response.flushHeaders();
      answer.pipe(response);
      answer.once("close", () => {
        if (!answer.complete) response.destroy();
      });
    });
    forwarded.once("error", () => response.destroy());
    response.once("close", () => forwarded.destroy());
    request.pipe(forwarded);
  });
  return await listeningProxy(server);
}
