// Prints the count of tests from what vitest wrote as JSON, and fails unless at least one passed and none failed.
import { readFileSync } from "node:fs";

const written = readFileSync(process.argv[2] ?? "", "utf8");
// Nothing was written where lint or types failed before.
const files = written === "" ? [] : JSON.parse(written).testResults;
const tests = files.flatMap((file) => file.assertionResults);
const count = (...statuses) => tests.filter((test) => statuses.includes(test.status)).length;

const passed = count("passed");
// A file that fails before or after its tests fails as one.
const broken = files.filter(
  (file) => file.status === "failed" && file.assertionResults.every((test) => test.status !== "failed"),
);
const failed = count("failed") + broken.length;
console.log(`${passed} passed, ${failed} failed, ${tests.length - passed - count("failed")} skipped`);
process.exitCode = passed > 0 && failed === 0 ? 0 : 1;
