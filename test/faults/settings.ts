/** True if the suites run for a long time (`npm run test:soak`). */
export const soak = process.env["KEYWARD_SOAK"] === "1";

/** Seed of every random choice. To repeat a history, set `KEYWARD_SEED` to the number in the name of its test. */
export const seed = Number(process.env["KEYWARD_SEED"] ?? Date.now() % 2 ** 31);

/** Number of calls on each backend. `KEYWARD_OPERATIONS` overrides this number. */
export const operations = Number(process.env["KEYWARD_OPERATIONS"] ?? (soak ? 200_000 : 10_000));

/** Time limit of one test, in milliseconds. */
export const testTimeoutMs = soak ? 3_600_000 : 120_000;
