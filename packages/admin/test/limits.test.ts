import { createAdminApi } from "@keyward/admin";
import { expect, it } from "vitest";
import { install, serviceWith } from "./installation.ts";

const unknownToken = (index: number) => `kwt_unknown_${index}`;

it("refuses an address with 429 after 10 refused tokens in a minute, before the store is asked", async () => {
  const { service, send, admin, tokenOf } = await install();
  const later = await tokenOf("member", "somebody");
  let asked = 0;
  const counting = serviceWith(service, "authenticate", (token, options) => {
    asked++;
    return service.authenticate(token, options);
  });
  const app = createAdminApi({ admin: counting });
  const ask = async (token: string) =>
    await app.request("/api/v1/admin/whoami", { headers: { authorization: `Bearer ${token}` } });
  expect((await ask(admin.token)).status).toBe(200);
  for (let index = 0; index < 10; index++) expect((await ask(unknownToken(index))).status).toBe(401);
  const before = asked;
  const refused = await ask(unknownToken(10));
  expect(refused.status).toBe(429);
  expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
  expect(await refused.json()).toMatchObject({ code: "RATE_LIMITED" });
  expect((await ask(later.token)).status).toBe(429);
  expect(asked).toBe(before);
  // A token that was accepted before is not held back by the others at its address.
  expect((await ask(admin.token)).status).toBe(200);
  // Another process of the service has limits of its own.
  expect((await send(later.token, "GET", "/whoami")).status).toBe(200);
});

it("refuses a token with 429 that is sent again and again, and does not hold back the others at its address", async () => {
  const { send, tokenOf } = await install();
  const statuses: number[] = [];
  for (let count = 0; count < 12; count++) statuses.push((await send(unknownToken(0), "GET", "/whoami")).status);
  expect(statuses.slice(0, 10)).toEqual(Array.from({ length: 10 }, () => 401));
  expect(statuses.slice(10)).toEqual([429, 429]);
  expect((await send((await tokenOf("member", "somebody")).token, "GET", "/whoami")).status).toBe(200);
});

it("limits how many requests one token sends, and not those of another token", async () => {
  const { send, admin, operator } = await install({ limits: { requestsPerSecond: 1, burstRequests: 3 } });
  const statuses: number[] = [];
  for (let count = 0; count < 5; count++) statuses.push((await send(admin.token, "GET", "/whoami")).status);
  expect(statuses.slice(0, 3)).toEqual([200, 200, 200]);
  expect(statuses).toContain(429);
  expect((await send(operator.token, "GET", "/whoami")).status).toBe(200);
  await expect.poll(async () => (await send(admin.token, "GET", "/whoami")).status).toBe(200);
});

it("limits how many requests are in progress at once", async () => {
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

it("lifts the limits for load tests, except the one of a body", async () => {
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
])("refuses the options %j", async (options, name) => {
  const { service } = await install();
  expect(() => createAdminApi({ admin: service, ...options })).toThrow(
    expect.objectContaining({ code: "VALUE_INVALID", message: expect.stringContaining(name) }),
  );
});
