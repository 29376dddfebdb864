import { createConfig, lintFromString } from "@redocly/openapi-core";
import { expect, it } from "vitest";
import { routeRights } from "../src/routes/route-rights.ts";
import { install } from "./installation.ts";
import { operationsOf } from "./served-document.ts";

it("the OpenAPI document passes the linter, and has an example for each schema", async () => {
  const { send } = await install();
  const { text, headers } = await send(undefined, "GET", "/openapi.json");
  expect(headers.get("content-type")).toBe("application/json");
  const config = await createConfig({
    extends: ["recommended-strict"],
    rules: {
      "no-invalid-schema-examples": "error",
      "no-invalid-parameter-examples": "error",
      "no-invalid-media-type-examples": "error",
      "operation-4xx-problem-details-rfc7807": "error",
    },
  });
  const problems = await lintFromString({ source: text, config });
  expect(problems.map(({ ruleId, message, location }) => [ruleId, message, location[0]?.pointer])).toEqual([]);
});

it("the OpenAPI document names for each route the same right as routeRights", async () => {
  const operations = await operationsOf(await install());
  const served = Object.fromEntries(operations.map(({ id, right }) => [id, right]));
  expect(served).toEqual({ ...routeRights, openApiDocument: "none" });
});

it("the OpenAPI document lists for each route the errors that all routes have in common", async () => {
  const operations = (await operationsOf(await install())).filter(({ right }) => right !== "none");
  for (const { statuses, hasBody } of operations) {
    expect(statuses).toEqual(expect.arrayContaining([401, 403, 421, 422, 429, 500, 503]));
    if (hasBody) expect(statuses).toEqual(expect.arrayContaining([400, 413, 415]));
  }
});

it("the OpenAPI document contains no text that looks like a token or a key", async () => {
  const { text } = await (await install()).send(undefined, "GET", "/openapi.json");
  expect(text).not.toMatch(/kwt_[a-z0-9]{4,}|sk-|ghp_|AKIA|[A-Za-z0-9+/]{40}/);
});
