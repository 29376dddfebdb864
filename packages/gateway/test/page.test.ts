import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { gatewayProblems } from "../src/index.ts";

it("docs/calls.md describes each code, with its status, and no other code", () => {
  const page = readFileSync(join(import.meta.dirname, "../../../docs/calls.md"), "utf8");
  const rows = [...page.matchAll(/^\| <a id="(\w+)"><\/a>`(\w+)` \| (\d+) \|/gm)];
  const described = Object.fromEntries(rows.map(([, anchor, code, status]) => [code, { anchor, status }]));
  const expected = Object.fromEntries(
    Object.entries(gatewayProblems).map(([code, [status]]) => [
      code,
      { anchor: code.toLowerCase(), status: String(status) },
    ]),
  );
  expect(described).toEqual(expected);
});
