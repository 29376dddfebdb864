import { join } from "node:path";
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/**
 * The suites that last longest. Without results of an earlier run, vitest begins with the largest files, and would leave
 * one worker alone with one of these at the end.
 */
const longest = [
  "test/faults/",
  "packages/secrets/test/audit/",
  "packages/store-redis/test/",
  "packages/cli/test/",
  "test/cli/",
  "test/documentation.test.ts",
  "test/packages.test.ts",
  "bench/",
].map((path) => join(import.meta.dirname, path));

/** Begins with the {@link longest} suites. Within them, and after them, the order is that of vitest. */
class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const isLong = ({ moduleId }: TestSpecification) => longest.some((path) => moduleId.startsWith(path));
    const sorted = await super.sort(files);
    return [...sorted.filter(isLong), ...sorted.filter((file) => !isLong(file))];
  }
}

export default defineConfig({
  test: {
    include: ["packages/*/test/**/*.test.ts", "test/**/*.test.ts", "{examples/*,bench}/test/**/*.test.ts"],
    // Most suites wait for servers, processes and times of their own, so two workers leave two cores idle for half of the run.
    maxWorkers: 4,
    sequence: { sequencer: LongestFirst },
    // The bundle of the command belongs to a run, so a change of the sources needs a new run.
    globalSetup: "test/bundle-command.ts",
    // Node.js keeps the compiled modules of the processes that tests start. Otherwise each of these processes spends most
    // of its time with compiling TypeScript.
    env: { NODE_COMPILE_CACHE: join(import.meta.dirname, "node_modules/.cache/keyward-tests") },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // A busy machine may take long until a condition holds. No test depends on how long.
    expect: { poll: { timeout: 20_000 } },
  },
});
