import { globSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { expect, it } from "vitest";
import { repository } from "../../../test/workspace.ts";

const sources = join(repository, "packages/cli/src/commands");

/** Each call that asks for a confirmation, by its file, as its source has it. */
const confirmations = globSync("**/*.ts", { cwd: sources }).flatMap((file) =>
  [...readFileSync(join(sources, file), "utf8").matchAll(/\.confirm\(([\s\S]*?)\);\n/g)].map(
    ([, asked = ""]) => [relative(".", file), asked] as const,
  ),
);

it("the source code of the commands contains confirmations that this test finds", () => {
  expect(confirmations.length).toBeGreaterThan(10);
});

// The error without a confirmation repeats the text, so the text must not say that the change was made.
it.each(confirmations)("%s prints what would happen before it asks the operator to confirm: %s", (_, asked) => {
  expect(asked).toMatch(/\bwould\b/);
});
