import { storeContract } from "@keyward/contract";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";

storeContract(
  { describe, it },
  {
    name: "MemoryStore",
    expect: { atomic: true, scannable: true, ranged: false, bytes: true, reserved: true, namespaced: true },
    takesDurations: true,
    async open() {
      const store = new MemoryStore();
      return { store, inNamespace: (namespace) => store.namespaced(namespace), close: () => store.disconnect() };
    },
  },
);

describe("a MemoryStore", () => {
  it.each([{ maxRecords: 5 }, {}, null, "path"])("has no options, so its constructor refuses %j", (given) => {
    expect(() => Reflect.construct(MemoryStore, [given])).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  });
});
