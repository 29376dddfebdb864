import { createAdminApi } from "@keyward/admin";
import { expect, it } from "vitest";
import { install, serviceWith } from "./installation.ts";

const unknownToken = (index: number) => `kwt_unknown_${index}`;

it("the API accepts a new valid token after any number of invalid tokens from the same address", async () => {
  const { send, admin, tokenOf, service } = await install();
  const garbage = Array.from({ length: 30 }, (_, index) => unknownToken(index));
  const keeper = await service.authenticate(admin.token);
  for (let count = 0; count < 11; count++) {
    const { token, info } = await tokenOf("member", "left");
    await service.revokeToken(keeper, info.id);
    garbage.push(token);
  }
  for (const token of garbage) expect((await send(token, "GET", "/whoami")).status).toBe(401);
  expect((await send((await tokenOf("member", "somebody")).token, "GET", "/whoami")).status).toBe(200);
});

it("the API answers a token with 429, without asking the store, after 10 refusals of the token in a minute", async () => {
  const { service, tokenOf, admin } = await install();
  let asked = 0;
  const counting = serviceWith(service, "authenticate", (token, options) => {
    asked++;
    return service.authenticate(token, options);
  });
  const app = createAdminApi({ admin: counting });
  const { token, info } = await tokenOf("member", "left");
  await service.revokeToken(await service.authenticate(admin.token), info.id);
  const ask = async () => await app.request("/api/v1/admin/whoami", { headers: { authorization: `Bearer ${token}` } });
  for (let count = 0; count < 10; count++) expect((await ask()).status).toBe(401);
  const refused = await ask();
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(await refused.json()).toMatchObject({ code: "RATE_LIMITED" });
  expect(asked).toBe(10);
});

it("the rate limit of one token does not affect another token", async () => {
  const { send, admin, operator } = await install({ limits: { requestsPerSecond: 1, burstRequests: 3 } });
  const statuses: number[] = [];
  for (let count = 0; count < 5; count++) statuses.push((await send(admin.token, "GET", "/whoami")).status);
  expect(statuses.slice(0, 3)).toEqual([200, 200, 200]);
  expect(statuses).toContain(429);
  expect((await send(operator.token, "GET", "/whoami")).status).toBe(200);
  await expect.poll(async () => (await send(admin.token, "GET", "/whoami")).status).toBe(200);
});

it("the API answers 503 to requests beyond concurrentRequests", async () => {
  const { send, admin } = await install({ limits: { concurrentRequests: 2 } });
  const statuses = await Promise.all(
    Array.from({ length: 6 }, async () => {
      const { status, headers } = await send(admin.token, "GET", "/mcp-servers");
      if (status === 503) expect(headers.get("retry-after")).toBe("1");
      return status;
    }),
  );
  expect(statuses.filter((status) => status === 200)).toHaveLength(2);
  expect(statuses.filter((status) => status === 503)).toHaveLength(4);
  expect((await send(admin.token, "GET", "/mcp-servers")).status).toBe(200);
});

it('the limits "lifted" switch off each limit except the one on the size of a body', async () => {
  const { send, admin } = await install({ limits: "lifted" });
  for (let index = 0; index < 30; index++) expect((await send(unknownToken(index), "GET", "/whoami")).status).toBe(401);
  const answers = await Promise.all(Array.from({ length: 200 }, () => send(admin.token, "GET", "/whoami")));
  expect(answers.every(({ status }) => status === 200)).toBe(true);
  expect((await send(admin.token, "POST", "/mcp-servers", { body: "x".repeat(70_000) })).status).toBe(413);
});

it.each([
  [{ limits: { requestsPerSecond: 0 } }, "limits.requestsPerSecond"],
  [{ limits: { maxBodyBytes: 1.5 } }, "limits.maxBodyBytes"],
  [{ trustProxies: ["10.0.0.0/33"] }, "trustProxies"],
  [{ trustProxies: ["proxy.example.com"] }, "trustProxies"],
  [{ publicUrl: "keyward.example.com" }, "publicUrl"],
])("createAdminApi refuses the options %j", async (options, name) => {
  const { service } = await install();
  expect(() => createAdminApi({ admin: service, ...options })).toThrow(
    expect.objectContaining({ code: "VALUE_INVALID", message: expect.stringContaining(name) }),
  );
});
