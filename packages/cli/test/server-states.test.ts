import { once } from "node:events";
import { createServer } from "node:http";
import { AdminClient } from "@keyward/admin/client";
import { expect, it, onTestFinished } from "vitest";
import { copyOfService, newFolder, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

const duration = String.raw`\d+(?:ms|s|m)(?: \d+s)?`;
const time = String.raw`\d{4}-\d\d-\d\dT[\d:.]+Z`;
const reason = "The connection to the server failed";

/** Starts a service with the server `api`, which answers until `end`. */
async function startWithServer() {
  const server = createServer((_, response) => void response.end("ok"));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const end = async () => {
    if (!server.listening) return;
    server.close();
    server.closeAllConnections();
    await once(server, "close");
  };
  onTestFinished(end);
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const folder = await newFolder();
  const service = await copyOfService(folder);
  const gateway = await startGateway(folder, {}, "--allow-address", `127.0.0.1:${port}`);
  const admin = new AdminClient({ url: gateway.url, token: service.admin });
  await admin.createServer({ slug: "api", url: `http://127.0.0.1:${port}`, kind: "http" });
  const { token } = await admin.createToken({ owner: "caller", role: "member" });
  const env = { KEYWARD_URL: gateway.url, KEYWARD_TOKEN: service.admin };
  return {
    end,
    call: async () => {
      const answer = await fetch(`${gateway.callUrl}/s/api/`, { headers: { authorization: `Bearer ${token}` } });
      await answer.text();
      return answer.status;
    },
    run: async (...commandLine: readonly string[]) => (await keyward(folder, env, "servers", ...commandLine)).stdout,
  };
}

it("keyward servers shows the state of a server, since when the server has this state, and the last error", {
  timeout: 120_000,
}, async () => {
  const { run, call, end } = await startWithServer();
  expect(await run("list")).toMatch(/ {2}0 secrets {2}unknown$/m);
  expect(await run("show", "api")).toMatch(/^state +unknown until this process of the service calls the server$/m);
  expect(await call()).toBe(200);
  expect(await run("list")).toMatch(new RegExp(` {2}ready for ${duration}$`, "m"));
  expect(await run("show", "api")).toMatch(new RegExp(`^state +ready since ${time}$`, "m"));
  await end();
  expect(await call()).toBe(502);
  const failed = ` {2}failed for ${duration} {2}last error ${duration} ago: ${reason}$`;
  expect(await run("list")).toMatch(new RegExp(failed, "m"));
  expect(await run("show", "api")).toMatch(new RegExp(`^last error +${time}  ${reason}$`, "m"));
  expect(JSON.parse(await run("list", "--json"))).toMatchObject({
    servers: [{ state: { status: "failed", sinceMs: expect.any(Number), lastError: { reason } } }],
  });
  await run("set", "api", "--disable");
  expect(await run("list")).toMatch(new RegExp(` {2}disabled {2}last error ${duration} ago: ${reason}$`, "m"));
});
