import { exportKeyring, Keyring } from "@keyward/core";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DecryptedRecords } from "../../src/store/decrypted-records.ts";

const ring = Keyring.generate();
const address = { namespace: "flows", key: "a" };
const record = { content: { value: "plaintext" } };

describe("DecryptedRecords", () => {
  it("returns a record for the same text, keyring and address", () => {
    const kept = new DecryptedRecords(10);
    kept.keep("sealed", ring, address, record);
    expect(kept.find("sealed", ring, { ...address })).toBe(record);
  });

  it.each([
    ["another text", "resealed", ring, address],
    ["another keyring with the same keys", "sealed", Keyring.parse(exportKeyring(ring)), address],
    ["another namespace", "sealed", ring, { namespace: "other", key: "a" }],
    ["another key", "sealed", ring, { namespace: "flows", key: "b" }],
  ])("returns undefined for %s", (_what, stored, otherRing, otherAddress) => {
    const kept = new DecryptedRecords(10);
    kept.keep("sealed", ring, address, record);
    expect(kept.find(stored, otherRing, otherAddress)).toBeUndefined();
  });

  it("compares stored bytes with a copy, because the store may use its bytes for another read", () => {
    const kept = new DecryptedRecords(10);
    const bytes = Buffer.from("sealed");
    kept.keep(bytes, ring, address, record);
    expect(kept.find(Buffer.from("sealed"), ring, address)).toBe(record);
    expect(kept.find("sealed", ring, address)).toBeUndefined();
    bytes.fill(0);
    expect(kept.find(bytes, ring, address)).toBeUndefined();
  });

  it("keeps neither values of bytes nor long records", () => {
    const kept = new DecryptedRecords(10);
    kept.keep("sealed", ring, address, { content: { value: Buffer.from("plaintext") } });
    expect(kept.find("sealed", ring, address)).toBeUndefined();
    kept.keep("x".repeat(16_385), ring, address, record);
    expect(kept.find("x".repeat(16_385), ring, address)).toBeUndefined();
  });

  it("keeps at most the number of records that was passed to its constructor", () => {
    const kept = new DecryptedRecords(10);
    const keys = Array.from({ length: 100 }, (_, index) => `key ${index}`);
    for (const key of keys) kept.keep("sealed", ring, { namespace: "flows", key }, record);
    const found = keys.filter((key) => kept.find("sealed", ring, { namespace: "flows", key }) !== undefined);
    expect(found.length).toBeGreaterThan(0);
    expect(found.length).toBeLessThanOrEqual(10);
  });

  describe("over time", () => {
    beforeEach(() => {
      vi.useFakeTimers();
    });
    afterEach(() => {
      vi.useRealTimers();
    });

    it("drops a record that was not used for two minutes, and stops its timer when no record is left", () => {
      const kept = new DecryptedRecords(10);
      kept.keep("sealed", ring, address, record);
      vi.advanceTimersByTime(120_000);
      expect(kept.find("sealed", ring, address)).toBeUndefined();
      expect(vi.getTimerCount()).toBe(0);
    });

    it("keeps a record that is used once a minute", () => {
      const kept = new DecryptedRecords(10);
      kept.keep("sealed", ring, address, record);
      for (let minute = 0; minute < 10; minute++) {
        vi.advanceTimersByTime(60_000);
        expect(kept.find("sealed", ring, address)).toBe(record);
      }
    });
  });
});
