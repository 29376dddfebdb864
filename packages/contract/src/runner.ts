/** The functions `describe` and `it` of a test runner, such as vitest, jest, `node:test` or `bun:test`. */
export interface TestRunner {
  /** Registers a group of tests. `body` registers the tests of the group. */
  describe(name: string, body: () => void): unknown;
  /** Registers one test. */
  it(name: string, body: () => Promise<void>): unknown;
}
