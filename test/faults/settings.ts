/** Whether the suites run at length (`npm run test:soak`). */
export const soak = process.env["KEYWARD_SOAK"] === "1";

/** What every random choice follows from. To run a history again: `KEYWARD_SEED=…` with the number in its name. */
export const seed = Number(process.env["KEYWARD_SEED"] ?? Date.now() % 2 ** 31);

/** How many calls are made on each backend; `KEYWARD_OPERATIONS` overrides it. */
export const operations = Number(process.env["KEYWARD_OPERATIONS"] ?? (soak ? 200_000 : 10_000));

/** The time limit of one test, in ms. */
export const testTimeoutMs = soak ? 3_600_000 : 120_000;
