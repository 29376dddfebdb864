import { storeContract } from "@keyward/contract";
import { KeyvMemoryAdapter } from "keyv";
import { describe, it } from "vitest";

storeContract(
  { describe, it },
  {
    name: "Keyv's memory adapter",
    expect: { atomic: false, scannable: false, ranged: false, bytes: false, reserved: false, namespaced: false },
    exceptions: ["alive-when-expiring", "delete-finds-expired", "no-namespace-is-all", "namespaces-collide"],
    async open() {
      const map = new Map();
      return {
        store: new KeyvMemoryAdapter(map),
        inNamespace: (namespace) => new KeyvMemoryAdapter(map, { namespace }),
        close: async () => map.clear(),
      };
    },
  },
);
