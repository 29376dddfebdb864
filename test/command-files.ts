import { join } from "node:path";
import { repository } from "./workspace.ts";

/** The environment variable with the folder of the bundle that `bundle-command.ts` makes for a run of the tests. */
export const bundleVariable = "KEYWARD_TEST_COMMAND";

/**
 * Returns the file of a program of `packages/cli`, for a test that starts the program as a process. The file belongs to the
 * bundle of this run of the tests; outside of a run, the file is the source.
 */
export function commandFile(name: "keyward" | "keyward-kv"): string {
  const bundle = process.env[bundleVariable];
  return bundle === undefined ? sourceOfCommand(name) : join(bundle, `${name}.js`);
}

/** Returns the source of a program of `packages/cli`. */
export function sourceOfCommand(name: "keyward" | "keyward-kv"): string {
  return join(repository, "packages/cli/src", `${name}.ts`);
}
