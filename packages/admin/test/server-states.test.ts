import type { SeenState, StatedServer } from "@keyward/admin";
import { expect, it } from "vitest";
import { install } from "./installation.ts";

const at = Date.parse("2026-11-28T09:30:00Z");
const failed: SeenState = {
  status: "failed",
  since: at,
  lastSeen: at + 1_000,
  lastError: { at: at + 1_000, reason: "The server did not answer in time" },
};
const shown = {
  status: "failed",
  since: "2026-11-28T09:30:00.000Z",
  lastSeen: "2026-11-28T09:30:01.000Z",
  lastError: { at: "2026-11-28T09:30:01.000Z", reason: "The server did not answer in time" },
};
const unknown = { status: "unknown", since: null, lastSeen: null, lastError: null };

it("each answer with a server contains the state that stateOf() returns for its workspace, id and revision", async () => {
  const asked: StatedServer[] = [];
  const stateOf = (server: StatedServer) => {
    asked.push(server);
    return failed;
  };
  const { admin, clientOf, service } = await install({ stateOf });
  const client = clientOf(admin.token);
  const caller = await service.authenticate(admin.token);
  expect(await client.createServer({ slug: "github", url: "https://mcp.example.com" })).toMatchObject({ state: shown });
  const { id } = await service.getServer(caller, "github");
  await client.setSecret("github", { name: "A", value: "a-value-of-a-test" });
  expect((await client.listServers()).items).toMatchObject([{ slug: "github", state: shown }]);
  expect(await client.getServer("github")).toMatchObject({ state: shown });
  expect((await client.listSecrets("github")).server).toMatchObject({ state: shown });
  const { workspace } = caller;
  expect([...new Set(asked.map((server) => JSON.stringify(server)))].map((text) => JSON.parse(text))).toEqual([
    { workspace, id, revision: 0 },
    { workspace, id, revision: 1 },
  ]);
});

it("the state of a server is unknown if the service runs without a gateway", async () => {
  const { admin, clientOf } = await install();
  const client = clientOf(admin.token);
  expect(await client.createServer({ slug: "github", url: "https://mcp.example.com" })).toMatchObject({
    state: unknown,
  });
});

it("a new state does not change the revision, so a conditional read still answers 304", async () => {
  let state: SeenState = failed;
  const { admin, clientOf, send } = await install({ stateOf: () => state });
  await clientOf(admin.token).createServer({ slug: "github", url: "https://mcp.example.com" });
  state = { ...failed, status: "ready" };
  const headers = { "if-none-match": '"0"' };
  expect((await send(admin.token, "GET", "/mcp-servers/github", { headers })).status).toBe(304);
});
