import { readFileSync } from "node:fs";
import { rolesWithRight } from "@keyward/secrets";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import { statusOfCode } from "../src/api/error-problems.ts";
import { callRoutes } from "../src/routes/call-routes.ts";
import { readingRoutes } from "../src/routes/reading-routes.ts";
import { routeRights } from "../src/routes/route-rights.ts";
import { secretRoutes } from "../src/routes/secret-routes.ts";
import { serverRoutes } from "../src/routes/server-routes.ts";
import { tokenRoutes } from "../src/routes/token-routes.ts";
import { workspaceRoutes } from "../src/routes/workspace-routes.ts";
import { problem } from "../src/schemas/problem-schemas.ts";

const page = readFileSync(new URL("../../../docs/admin-api.md", import.meta.url), "utf8");
const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");

const answerSchema = z.object({
  content: z.object({ "application/json": z.object({ schema: z.custom<z.ZodType>() }) }),
});

const routes = Object.entries({
  ...readingRoutes,
  ...workspaceRoutes,
  ...serverRoutes,
  ...secretRoutes,
  ...tokenRoutes,
  ...callRoutes,
}).map(([id, route]) => {
  const body: unknown = "body" in route.request ? route.request.body : undefined;
  return {
    line: `${route.method.toUpperCase()} ${route.path}`,
    right: routeRights[route.operationId],
    summary: route.summary,
    id,
    responses: new Map<string, unknown>(Object.entries(route.responses)),
    body: answerSchema.safeParse(body).data?.content["application/json"].schema,
  };
});

/** Returns the section of a route: from its heading to the next one. */
function sectionOf(summary: string): string {
  const start = page.indexOf(`\n### ${summary}\n`);
  expect(start, `docs/admin-api.md has no section "${summary}"`).toBeGreaterThan(0);
  const end = page.slice(start + 5).search(/\n##/);
  return page.slice(start, end === -1 ? undefined : start + 5 + end);
}

function blocksOf(section: string, language: string): string[] {
  return [...section.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\n\`\`\``, "gs"))].map(([, code = ""]) => code);
}

describe.each(routes)("docs/admin-api.md on $line", ({ line, right, summary, responses, body }) => {
  const section = sectionOf(summary);
  const json = blocksOf(section, "json");
  const [, status = ""] = /The status is (\d{3})/.exec(section) ?? [];

  it("names the route, the right that it needs, and the roles with this right", () => {
    expect(section.replaceAll("\n", " ")).toContain(
      `\`${line}\` needs the right \`${right}\`. Roles: ${rolesWithRight[right].join(", ")}.`,
    );
  });

  it("shows a request with a method, a path and a body that the route accepts", () => {
    const command = blocksOf(section, "sh").join("").replaceAll("\\\n", "");
    const data = / --data '([^']*)'/.exec(command)?.[1] ?? (command.includes("--data @") ? json[0] : undefined);
    const method = / --request (\w+)/.exec(command)?.[1] ?? (data === undefined ? "GET" : "POST");
    const path = /\$KEYWARD_URL\/api\/v1\/admin([^"?]*)/.exec(command)?.[1] ?? "";
    const [routeMethod = "", routePath = ""] = line.split(" ");
    expect(method).toBe(routeMethod);
    expect(path).toMatch(new RegExp(`^${routePath.replaceAll(/\{\w+\}/g, "[\\w-]+")}$`));
    expect(data !== undefined).toBe(body !== undefined);
    if (body !== undefined) expect(body.safeParse(JSON.parse(data ?? "")).error).toBe(undefined);
  });

  it("shows an answer that matches the OpenAPI document", () => {
    expect([...responses.keys()]).toContain(status);
    const answer = answerSchema.safeParse(responses.get(status)).data?.content["application/json"].schema;
    expect(status === "204").toBe(answer === undefined);
    if (answer === undefined) return;
    const shown: unknown = JSON.parse((json.at(-1) ?? "").replaceAll("kwt_…", "kwt_shown"));
    const read = answer.safeParse(shown);
    expect(read.error).toBe(undefined);
    // The schema drops unknown fields, so a field that only the page has would make the two differ.
    expect(read.data).toEqual(shown);
  });
});

it("docs/admin-api.md has no section for a route that does not exist", () => {
  const named = [...page.matchAll(/^`([A-Z]+ \/[^`]*)` needs the right/gm)].map(([, line]) => line);
  expect(named.sort()).toEqual(routes.map(({ line }) => line).sort());
});

it("docs/admin-api.md shows problem details as the service sends them", () => {
  const [shown = ""] = blocksOf(page.slice(page.indexOf("\n## Errors")), "json");
  expect(problem.parse(JSON.parse(shown))).toEqual(JSON.parse(shown));
});

it("docs/admin-api.md lists each error code with its status", () => {
  const rows = [...page.matchAll(/^\| (\d{3}) \| (.*?) \|/gm)];
  const listed = rows.flatMap(([, status, codes = ""]) =>
    [...codes.matchAll(/`([A-Z_]+)`/g)].map(([, code]) => [code, Number(status)] as const),
  );
  expect(Object.fromEntries(listed)).toEqual(statusOfCode);
});

it("the README lists each route with its right and its roles", () => {
  const rows = [...readme.matchAll(/^\| `([A-Z]+ \/[^`]*)` \| `([\w.]+)` \| (.*) \|$/gm)].map((row) => row.slice(1));
  const expected = routes.map(({ line, right }) => [line, right, rolesWithRight[right].join(", ")]);
  expect(rows.sort()).toEqual(expected.sort());
});
