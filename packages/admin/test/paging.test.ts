import { expect, it } from "vitest";
import { install } from "./installation.ts";

const slugs = Array.from({ length: 23 }, (_, index) => `server-${index}`);

it("a list shows each server exactly once, even if other servers are created between its pages", async () => {
  const { clientOf, admin } = await install();
  const client = clientOf(admin.token);
  for (const slug of slugs) await client.createServer({ slug, url: "https://mcp.example.com" });
  const seen: string[] = [];
  let added = 0;
  let cursor: string | undefined;
  do {
    const { items, next } = await client.listServers({ limit: 5, cursor });
    expect(items.length).toBeLessThanOrEqual(5);
    seen.push(...items.map(({ slug }) => slug));
    cursor = next ?? undefined;
    await client.createServer({ slug: `late-${added++}`, url: "https://mcp.example.com" });
  } while (cursor !== undefined);
  expect(seen).toEqual(slugs.toReversed());
});

it("each page except the last one links to the next page", async () => {
  const { send, clientOf, admin } = await install();
  for (const slug of slugs) await clientOf(admin.token).createServer({ slug, url: "https://mcp.example.com" });
  const seen: string[] = [];
  let path: string | undefined = "/mcp-servers?limit=10";
  while (path !== undefined) {
    const { json, headers } = await send(admin.token, "GET", path);
    const page: unknown = Reflect.get(Object(json), "items");
    if (Array.isArray(page)) seen.push(...page.map(({ slug }) => String(slug)));
    const link = headers.get("link");
    expect(link === null).toBe(Reflect.get(Object(json), "next") === null);
    path = /^<\/api\/v1\/admin(\/mcp-servers\?limit=10&cursor=[^>]+)>; rel="next"$/.exec(link ?? "")?.[1];
  }
  expect(seen).toEqual(slugs.toReversed());
});

it("the link to the next page contains the filter of the request", async () => {
  const { send, tokenOf, admin } = await install();
  for (let count = 0; count < 3; count++) await tokenOf("member", "Ada Example");
  const { headers } = await send(admin.token, "GET", "/tokens?owner=Ada+Example&limit=2");
  expect(headers.get("link")).toMatch(
    /^<\/api\/v1\/admin\/tokens\?owner=Ada\+Example&limit=2&cursor=[^&]+>; rel="next"$/,
  );
});

it.each(["0", "101", "1.5", "x", "-1", "1e1", "", "9999"])("a list refuses the limit %j", async (limit) => {
  const { send, admin } = await install();
  const { status, json } = await send(admin.token, "GET", `/mcp-servers?limit=${limit}`);
  expect(status).toBe(422);
  expect(json).toMatchObject({ code: "FIELD_INVALID", fields: [{ in: "query", name: "limit" }] });
});

it("a list refuses a repeated limit, an unknown parameter and a cursor of another list", async () => {
  const { send, clientOf, tokenOf, admin } = await install();
  await tokenOf("member", "Ada Example");
  const { next } = await clientOf(admin.token).listTokens({ limit: 1 });
  for (const query of ["limit=1&limit=2", "page=2", `cursor=${next}x`, "cursor=", "cursor=AAAA"]) {
    expect((await send(admin.token, "GET", `/mcp-servers?${query}`)).status, query).toBe(422);
  }
});
