import { createAdminApi } from "@keyward/admin";
import { AdminClient } from "@keyward/admin/client";
import { expect, it } from "vitest";
import { install } from "./installation.ts";

it("serves the document", async () => {
  const { admin } = await install();
  const app = createAdminApi({ admin });
  const response = await app.request("/api/v1/admin/openapi.json");
  expect(response.status).toBe(200);
  (await import("node:fs")).writeFileSync("/tmp/openapi.json", JSON.stringify(await response.json(), null, 1));
});
it("does the whole life of a secret through the client", async () => {
  const { admin, operator, workspaceAdmin } = await install();
  const app = createAdminApi({ admin });
  const clientOf = (token: string) =>
    new AdminClient({
      url: "http://localhost:1",
      token,
      fetch: async (input, init) => app.request(String(input), init),
    });
  const client = clientOf(workspaceAdmin.token);
  console.log(await client.whoAmI());
  console.log(await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" }));
  console.log(
    await client.setSecret("github", { name: "API_TOKEN", value: "a-value-of-a-test", injection: { kind: "bearer" } }),
  );
  console.log(await client.listSecrets("github"));
  console.log(await client.listChanges());
  console.log(await clientOf(operator.token).census());
  console.log(await clientOf(operator.token).rotation());
  console.log(await client.listTokens({ limit: 1 }));
});
