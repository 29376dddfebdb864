import { requireEntryExpires, requireExpires } from "@keyward/core";
import { afterEach, describe, expect, it, vi } from "vitest";

const nowMs = 1_900_000_000_000;

function stopTime(at: number): void {
  vi.useFakeTimers({ toFake: ["Date"], now: at });
}

afterEach(() => {
  vi.useRealTimers();
});

describe("requireExpires", () => {
  it.each([
    ["a time in the future", nowMs + 60_000, nowMs + 60_000],
    ["a time that has just passed", nowMs - 60_000, nowMs - 60_000],
    ["a duration of three milliseconds", 3, nowMs + 3],
    ["a duration of a minute", 60_000, nowMs + 60_000],
    ["a duration with a fraction", 59_999.5, nowMs + 60_000],
    ["a duration of ten years", 315_360_000_000, nowMs + 315_360_000_000],
    ["the longest duration", 10 ** 12, nowMs + 10 ** 12],
    ["a time just above the longest duration", 10 ** 12 + 1, 10 ** 12 + 1],
    ["long ago, as 0", 0, 0],
    ["long ago, as 1", 1, 1],
    ["a negative duration", -60_000, 0],
  ])("returns the time of expiry for %s", (_, given, expected) => {
    stopTime(nowMs);
    expect(requireExpires("key", given)).toBe(expected);
  });

  it("returns a time in the future unchanged, whatever the clock shows", () => {
    stopTime(30_000);
    expect(requireExpires("key", 90_000)).toBe(90_000);
    stopTime(Date.UTC(2000, 0, 1));
    expect(requireExpires("key", Date.UTC(2000, 0, 2))).toBe(Date.UTC(2000, 0, 2));
  });

  it.each([{}, null, "60000", Number.NaN, 1n])("refuses %s, which is not a number", (given) => {
    const refused = expect.objectContaining({ code: "VALUE_INVALID", key: "key" });
    expect(() => requireExpires("key", given)).toThrow(refused);
  });
});

describe("requireEntryExpires", () => {
  it.each([
    ["neither expires nor ttl", {}, undefined],
    ["expires", { expires: nowMs + 5 }, nowMs + 5],
    ["expires as a duration", { expires: 60_000 }, nowMs + 60_000],
    ["ttl", { ttl: 60_000 }, nowMs + 60_000],
    ["a ttl of one millisecond", { ttl: 1 }, nowMs + 1],
    ["a ttl of fifty years", { ttl: 1_577_847_600_000 }, nowMs + 1_577_847_600_000],
    ["an infinite ttl", { ttl: Number.POSITIVE_INFINITY }, 2 ** 48 - 1],
    ["a negative ttl", { ttl: -5 }, nowMs - 5],
    ["a ttl of 0", { ttl: 0 }, undefined],
    ["an undefined ttl", { ttl: undefined }, undefined],
    ["a ttl of null", { ttl: null }, undefined],
    ["both expires and ttl", { expires: nowMs + 5, ttl: 60_000 }, nowMs + 5],
  ])("returns the time of expiry of an entry with %s", (_, given, expected) => {
    stopTime(nowMs);
    const entry = { key: "key", value: "value", ...given };
    expect(requireEntryExpires(entry)).toBe(expected);
  });

  it.each(["60000", Number.NaN, {}])("refuses a ttl of %j, which is not a number", (ttl) => {
    const entry = { key: "key", value: "value", ttl };
    const refused = expect.objectContaining({ code: "VALUE_INVALID", key: "key" });
    expect(() => requireEntryExpires(entry)).toThrow(refused);
  });
});
