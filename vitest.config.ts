import { join } from "node:path";
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["packages/*/test/**/*.test.ts", "test/**/*.test.ts", "{examples/*,bench}/test/**/*.test.ts"],
    // Most suites wait for servers and processes of their own: one worker would leave a core idle.
    maxWorkers: 2,
    // Node.js keeps the compiled modules of the processes that tests start. Otherwise each of these processes spends most
    // of its time with compiling TypeScript.
    env: { NODE_COMPILE_CACHE: join(import.meta.dirname, "node_modules/.cache/keyward-tests") },
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // A busy machine may take long until a condition holds. No test depends on how long.
    expect: { poll: { timeout: 20_000 } },
  },
});
