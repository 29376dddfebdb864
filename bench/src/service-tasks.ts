import { isNamespaced } from "@keyward/core";
import { serviceNamespace } from "@keyward/secrets";
import { type FilledService, fillService } from "./service-fill.ts";
import { memoryStores, redisStores, type Stores, sqliteStores } from "./stores.ts";
import type { PreparedTask, Task } from "./task.ts";

const valueBytes = 40;

/**
 * Tasks of the secrets service: the reads of one call, compared with plain reads of the same records; and setting and
 * listing with few servers and with many.
 *
 * @param redis Program that starts a Redis server. Without it, there is no task over Redis.
 * @param most The largest number of servers. There are ten times as many tokens.
 */
export function serviceTasks(redis: string | undefined, most: number): Task[] {
  const sources: readonly (readonly [store: string, start: () => Promise<Stores>])[] = [
    ["memory", memoryStores],
    ["SQLite", sqliteStores],
    ...(redis === undefined ? [] : [["Redis", () => redisStores(redis)] as const]),
  ];
  return sources.flatMap(([store, start]) => [
    { name: `reads of a call, ${store}`, sizeBytes: valueBytes, prepare: () => readsOfCall(start) },
    ...(store === "memory"
      ? []
      : [
          {
            name: `secret set, ${store}`,
            sizeBytes: valueBytes,
            prepare: () =>
              bySize(start, most, ({ admin, caller, slugOf }, servers) => {
                const slug = slugOf(Math.floor(Math.random() * servers));
                const value = String(Math.random()).padEnd(valueBytes, "v");
                return admin.setSecret(caller, slug, { name: "TOKEN", value });
              }),
          },
          {
            name: `page of 50 servers, ${store}`,
            sizeBytes: valueBytes,
            prepare: () => bySize(start, most, ({ admin, caller }) => admin.listServers(caller)),
          },
          {
            name: `page of 50 tokens, ${store}`,
            sizeBytes: valueBytes,
            prepare: () => bySize(start, most, ({ admin, caller }) => admin.listTokens(caller)),
          },
          {
            name: `token created, ${store}`,
            sizeBytes: valueBytes,
            prepare: () =>
              bySize(start, most, ({ admin, caller }) => admin.createToken(caller, { owner: "bench", role: "member" })),
          },
        ]),
  ]);
}

/** Compares what a call reads through the reader with plain reads of the same records, one by one and at once. */
async function readsOfCall(start: () => Promise<Stores>): Promise<PreparedTask> {
  const stores = await start();
  const service = await fillService(stores, { servers: 100, tokens: 100 });
  const { store, reader, member, slugOf } = service;
  const slug = slugOf(50);
  await reader.forCall(member, slug);
  const view = isNamespaced(store) ? store.namespaced(serviceNamespace) : store;
  const { entries } = await store.scan({ limit: 10_000 });
  const keyOf = (pattern: RegExp) => entries.find(({ key }) => pattern.test(key))?.key ?? "";
  const keys = [/^token\/[^s]/, new RegExp(`^server/.*/${slug}$`), /^value\//, /^workspace\//].map(keyOf);
  return {
    variants: [
      {
        name: "three plain reads",
        operation: async () => {
          for (const key of keys.slice(0, 3)) await view.get(key);
        },
      },
      { name: "one plain getMany", operation: () => view.getMany(keys) },
      { name: "the reader", operation: () => reader.forCall(member, slug) },
    ],
    close: async () => {
      await service.close();
      await stores.remove();
    },
  };
}

/** Compares an operation on a service with ten servers with the same operation on services with more servers. */
async function bySize(
  start: () => Promise<Stores>,
  most: number,
  operation: (service: FilledService, servers: number) => Promise<unknown>,
): Promise<PreparedTask> {
  const stores = await start();
  const services: { readonly servers: number; readonly service: FilledService }[] = [];
  for (const servers of [...new Set([10, Math.min(1_000, most), most])]) {
    services.push({ servers, service: await fillService(stores, { servers, tokens: 10 * servers }) });
  }
  return {
    variants: services.map(({ servers, service }) => ({
      name: `${servers.toLocaleString("en")} servers`,
      operation: () => operation(service, servers),
    })),
    close: async () => {
      for (const { service } of services) await service.close();
      await stores.remove();
    },
  };
}
