import { expect, it } from "vitest";
import { Budgets } from "../src/api/budgets.ts";
import { RefusedTokens } from "../src/api/refused-tokens.ts";

it("forgets the name that was used longest ago when there are too many", () => {
  const budgets = new Budgets({ perSecond: 0.001, burst: 1, maxNames: 2 });
  for (const name of ["a", "b"]) budgets.take(name);
  expect([budgets.waitSeconds("a"), budgets.waitSeconds("b")]).toEqual([1_000, 1_000]);
  budgets.take("a");
  budgets.take("c");
  expect(budgets.waitSeconds("b")).toBe(undefined);
  expect(budgets.waitSeconds("a")).toBe(1_000);
});

it("counts all addresses of one /64 of IPv6 as one client, and others by themselves", () => {
  const refused = new RefusedTokens(2);
  refused.refused("one", "2001:db8:1:2::1");
  refused.refused("two", "2001:0db8:1:2:ffff::9");
  expect(refused.waitSeconds("three", "2001:db8:1:2:3:4:5:6")).toBeGreaterThan(0);
  expect(refused.waitSeconds("three", "2001:db8:1:3::1")).toBe(undefined);
  expect(refused.waitSeconds("three", "::1")).toBe(undefined);
  expect(refused.waitSeconds("three", "203.0.113.9")).toBe(undefined);
});

it("holds back a token that was accepted once it is refused, and frees one that is accepted", () => {
  const refused = new RefusedTokens(1);
  refused.accepted("mine");
  refused.refused("other", "203.0.113.9");
  expect(refused.waitSeconds("mine", "203.0.113.9")).toBe(undefined);
  refused.refused("mine", "203.0.113.9");
  expect(refused.waitSeconds("mine", "203.0.113.9")).toBeGreaterThan(0);
});
