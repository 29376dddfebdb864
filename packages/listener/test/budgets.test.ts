import { expect, it } from "vitest";
import { Budgets } from "../src/budgets.ts";
import { networkOf } from "../src/client-address.ts";

it("Budgets forgets the name that was used longest ago when more than maxNames names are used", () => {
  const budgets = new Budgets({ perSecond: 0.001, burst: 1, maxNames: 2 });
  for (const name of ["a", "b"]) budgets.take(name);
  expect([budgets.waitSeconds("a"), budgets.waitSeconds("b")]).toEqual([1_000, 1_000]);
  budgets.take("a");
  budgets.take("c");
  expect(budgets.waitSeconds("b")).toBe(undefined);
  expect(budgets.waitSeconds("a")).toBe(1_000);
});

it("networkOf returns the same text for all IPv6 addresses of one /64, and another text for any other address", () => {
  const network = networkOf("2001:db8:1:2::1");
  expect(networkOf("2001:0db8:1:2:ffff::9")).toBe(network);
  for (const other of ["2001:db8:1:3::1", "::1", "203.0.113.9"]) expect(networkOf(other)).not.toBe(network);
  expect(networkOf("::ffff:203.0.113.9")).toBe("203.0.113.9");
});
