import fc from "fast-check";
import { expect, it } from "vitest";
import { RecentlyUsed } from "../../src/envelope/recently-used.ts";

it("RecentlyUsed returns only values that were set, and keeps at least the latest ones, up to half of its maximum number of entries", () => {
  fc.assert(
    fc.property(fc.integer({ min: 2, max: 20 }), fc.array(fc.nat({ max: 30 }), { maxLength: 200 }), (size, keys) => {
      const cache = new RecentlyUsed<number, string>(size);
      for (const [index, key] of keys.entries()) {
        const found = cache.get(key);
        const before = [...new Set(keys.slice(0, index).reverse())];
        if (found !== undefined) expect(found).toBe(`value ${key}`);
        if (before.slice(0, Math.floor(size / 2)).includes(key)) expect(found).toBe(`value ${key}`);
        if (!before.slice(0, 2 * size).includes(key)) expect(found).toBeUndefined();
        cache.set(key, `value ${key}`);
      }
    }),
    { numRuns: 500 },
  );
});

it("RecentlyUsed never contains more entries than its maximum number", () => {
  const cache = new RecentlyUsed<number, number>(10);
  for (let key = 0; key < 1_000; key++) cache.set(key, key);
  const held = Array.from({ length: 1_000 }, (_, key) => cache.get(key)).filter((value) => value !== undefined);
  expect(held.length).toBeLessThanOrEqual(10);
  expect(held).toContain(999);
});
