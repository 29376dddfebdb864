/** The two functions of a test runner that a contract needs: those of vitest, jest, `node:test` or `bun:test`. */
export interface TestRunner {
  /** Opens a group of tests. */
  describe(name: string, body: () => void): unknown;
  /** Registers one test. */
  it(name: string, body: () => Promise<void>): unknown;
}
