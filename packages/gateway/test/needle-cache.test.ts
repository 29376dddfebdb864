import { type CallSecret, SecretValue } from "@keyward/secrets/reader";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { NeedleCache } from "../src/relay/needle-cache.ts";

const secret: CallSecret = {
  name: "API_TOKEN",
  revision: 1,
  rule: { kind: "bearer" },
  value: new SecretValue("test-value-0123456789"),
  redacted: true,
};

describe("the needles of a call", () => {
  it("do not grow when the same value is added again and again", () => {
    const cache = new NeedleCache();
    const { needles, add, release } = cache.take({ server: { id: "server" }, secrets: [secret] });
    const first = needles();
    for (let round = 0; round < 1_000; round++) add([secret]);
    expect(needles()).toBe(first);
    const get = vi.spyOn(Map.prototype, "get");
    onTestFinished(() => get.mockRestore());
    release();
    const lookUps = get.mock.calls.length;
    get.mockRestore();
    expect(lookUps).toBeLessThan(10);
  });
});
