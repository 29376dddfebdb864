import { storeContract } from "@keyward/contract";
import { MemoryStore } from "@keyward/store-memory";
import { describe, it } from "vitest";

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
