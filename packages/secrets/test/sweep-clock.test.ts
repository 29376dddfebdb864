import { describe, expect, it } from "vitest";
import { keysIn, startService } from "./service.ts";

const dayMs = 24 * 3_600_000;

describe("a sweep", () => {
  it("removes nothing for a day after the clock jumped ahead, in any process", async () => {
    const service = await startService();
    const { admin, as, problems, audit } = service;
    const removed: (number | undefined)[] = [];
    audit.removeBefore = async (_workspace, time) => removed.push(time);
    const now = Date.now();
    await admin.createToken(as.admin, { owner: "guest", role: "member", expires: now + 5 * dayMs });
    const tokens = async () => await keysIn(service, "token/");
    const before = await tokens();
    await admin.sweep({ now: now + 1_000 });
    removed.length = 0;
    for (const hours of [0, 1, 19, 23]) {
      problems.length = 0;
      await service.open().sweep({ now: now + 60 * dayMs + hours * 3_600_000 });
      expect(problems).toMatchObject([{ code: "CLOCK_JUMPED" }]);
    }
    expect([await tokens(), removed]).toEqual([before, []]);
    // The clock was set right, and jumps once more: the day begins again.
    problems.length = 0;
    await admin.sweep({ now: now + dayMs });
    expect(problems).toEqual([]);
    await admin.sweep({ now: now + 61 * dayMs + 3_600_000 });
    expect(problems).toMatchObject([{ code: "CLOCK_JUMPED" }]);
    expect(await tokens()).toEqual(before);
    await admin.sweep({ now: now + 61 * dayMs + 13 * 3_600_000 });
    await admin.sweep({ now: now + 62 * dayMs + 3_600_000 });
    // The expired tokens of the guest and of the first operator.
    expect(await tokens()).toHaveLength(before.length - 2);
  });

  it("removes nothing while the clock jumps again, or while processes have different clocks", async () => {
    const service = await startService();
    const { admin, as, problems } = service;
    const now = Date.now();
    await admin.createToken(as.admin, { owner: "guest", role: "member", expires: now + 5 * dayMs });
    const before = await keysIn(service, "token/");
    for (const days of [60, 61, 90, 60, 61, 60]) await service.open().sweep({ now: now + days * dayMs });
    expect(problems).toMatchObject(Array.from({ length: 6 }, () => ({ code: "CLOCK_JUMPED" })));
    expect(await keysIn(service, "token/")).toEqual(before);
  });
});
