import { describe, expect, it } from "vitest";
import { startService } from "./service.ts";

const url = "https://mcp.example.com/mcp";

async function startWithServers() {
  const service = await startService();
  const { admin, as } = service;
  for (const slug of ["linear", "github"]) await admin.createServer(as.admin, { slug, url });
  await admin.createServer(as.admin, { slug: "plain", url: "https://api.example.com", kind: "http" });
  const slugsOf = async (servers?: readonly string[]) => {
    const { token } = await admin.createToken(as.admin, { owner: "mia", role: "member", servers });
    const grant = await service.reader.forWorkspace(token);
    return (await service.reader.serversOf(grant, 100)).map(({ slug }) => slug);
  };
  return { service, slugsOf };
}

describe("a grant for a whole workspace", () => {
  it("lists the MCP servers in the scope of the token, sorted by slug", async () => {
    const { slugsOf } = await startWithServers();
    expect(await slugsOf()).toEqual(["github", "linear"]);
    expect(await slugsOf(["linear", "plain"])).toEqual(["linear"]);
  });

  it("lists no server that is disabled or deleted", async () => {
    const { service, slugsOf } = await startWithServers();
    await service.admin.updateServer(service.as.admin, "github", { disabled: true });
    expect(await slugsOf()).toEqual(["linear"]);
    await service.admin.deleteServer(service.as.admin, "linear");
    expect(await slugsOf()).toEqual([]);
  });

  it("lists at most as many servers as were requested", async () => {
    const { service } = await startWithServers();
    const { token } = await service.admin.createToken(service.as.admin, { owner: "mia", role: "member" });
    const servers = await service.reader.serversOf(await service.reader.forWorkspace(token), 1);
    expect(servers).toMatchObject([{ slug: "github", revision: 0 }]);
  });

  it("is refused for a token that was revoked, and for a role that cannot call servers", async () => {
    const { service } = await startWithServers();
    const { token, info } = await service.admin.createToken(service.as.admin, { owner: "mia", role: "member" });
    await service.admin.revokeToken(service.as.admin, info.id);
    await expect(service.reader.forWorkspace(token)).rejects.toMatchObject({ code: "TOKEN_REFUSED" });
    const auditor = await service.admin.createToken(service.as.admin, { owner: "ann", role: "auditor" });
    await expect(service.reader.forWorkspace(auditor.token)).rejects.toMatchObject({ code: "NOT_ALLOWED" });
  });
});
