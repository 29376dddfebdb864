import { join } from "node:path";
import { storeContract } from "@keyward/contract";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import type { KeyvStorageAdapter } from "keyv";
import { describe, it } from "vitest";
import { startServer, temporaryFolder } from "./servers.ts";

const expect = { atomic: true, scannable: true, ranged: false, bytes: true, reserved: true, namespaced: true };

const backends: Record<string, (folder: string) => KeyvStorageAdapter> = {
  memory: () => new MemoryStore(),
  SQLite: (folder) => new SqliteStore(join(folder, "records.db")),
};

for (const [name, openBackend] of Object.entries(backends)) {
  storeContract(
    { describe, it },
    {
      name: `HttpStore on a server over ${name}`,
      expect,
      takesDurations: true,
      async open() {
        const folder = temporaryFolder();
        const server = await startServer({ store: openBackend(folder.path) });
        const store = server.client();
        return {
          store,
          inNamespace: (namespace) => store.namespaced(namespace),
          again: async () => server.client(),
          async close() {
            await server.close();
            await server.store.disconnect?.();
            folder.remove();
          },
        };
      },
    },
  );
}
