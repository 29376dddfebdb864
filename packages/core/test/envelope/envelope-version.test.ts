import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const packages = new URL("../../../", import.meta.url).pathname;

it("only source files in core's folder envelope contain kw1, the beginning of an envelope", () => {
  const sources = globSync("*/src/**/*.ts", { cwd: packages });
  const knowing = sources.filter((file) => readFileSync(join(packages, file), "utf8").includes("kw1"));
  expect(knowing.map((file) => file.replaceAll("\\", "/"))).toEqual([expect.stringMatching(/^core\/src\/envelope\//)]);
});
