import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Keyring } from "@keyward/core";
import { describe, expect, it } from "vitest";
import { openedAudit, secretChange, temporaryAudit } from "./audit-files.ts";

/** How many entries the test writes. The soak sets the variable, such as to 100000. */
const entries = Number(process.env["KEYWARD_AUDIT_SOAK"] ?? 4_000);

describe("the memory of the audit", () => {
  it("does not grow with the number of entries", { timeout: 600_000 }, async () => {
    setFlagsFromString("--expose-gc");
    const collect: unknown = runInNewContext("gc");
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const heapBytes = () => {
      if (typeof collect === "function") collect();
      return process.memoryUsage().heapUsed;
    };
    const recordMany = async (count: number) => {
      let begun = 0;
      const record = async () => {
        while (begun++ < count) await audit.begin(secretChange({ owner: `owner-${begun % 500}` }));
      };
      await Promise.all(Array.from({ length: 64 }, record));
    };
    await recordMany(entries / 10);
    const before = heapBytes();
    await recordMany(entries);
    // One collection may leave what is finalized after it. What the audit keeps stays, however often this collects.
    await expect.poll(() => heapBytes() - before).toBeLessThan(5_000_000);
  });
});
