import { EncryptedStore, Keyring } from "@keyward/core";
import { sampleRecords } from "./sample-records.ts";
import { memoryStores, redisStores, type Stores, sqliteStores } from "./stores.ts";
import { inTurn, type PreparedTask, type Task } from "./task.ts";

/**
 * Tasks that compare three ways to write a value through an EncryptedStore: `set`, which compares nothing; `replace` of a
 * value that the application knows; and `get` followed by `replace`, by which the application changes what it has read.
 *
 * @param redis Program that starts a Redis server. Without it, there is no task over Redis.
 */
export function swapTasks(redis: string | undefined): Task[] {
  const sources: readonly (readonly [store: string, start: () => Promise<Stores>])[] = [
    ["memory", memoryStores],
    ["SQLite", sqliteStores],
    ...(redis === undefined ? [] : [["Redis", () => redisStores(redis)] as const]),
  ];
  return sources.flatMap(([store, start]) =>
    [64, 1024, 16 * 1024].map((sizeBytes) => swapTask(store, start, sizeBytes)),
  );
}

function swapTask(store: string, start: () => Promise<Stores>, sizeBytes: number): Task {
  const prepare = async (): Promise<PreparedTask> => {
    const stores = await start();
    const records = sampleRecords(sizeBytes).map(({ address: { key }, text }) => ({
      key,
      // SQLite does not write an unchanged value, so every write has another value than the one before.
      values: [text, `${text.slice(0, -1)} ${text.slice(-1)}`] as const,
    }));
    const open = async (): Promise<EncryptedStore> => {
      const opened = new EncryptedStore(stores.make(), { keys: Keyring.generate() });
      await opened.setMany(records.map(({ key, values: [value] }) => ({ key, value })));
      return opened;
    };
    const [plain, known, read] = [await open(), await open(), await open()];
    const changes = [
      ...records.map(({ key, values: [before, after] }) => ({ key, before, after })),
      ...records.map(({ key, values: [before, after] }) => ({ key, before: after, after: before })),
    ];
    return {
      variants: [
        { name: "set", operation: inTurn(changes, ({ key, after }) => plain.set(key, after)) },
        {
          name: "replace",
          operation: inTurn(changes, async ({ key, before, after }) =>
            requireMade(await known.replace?.(key, before, after)),
          ),
        },
        {
          name: "get and replace",
          operation: inTurn(changes, async ({ key, after }) =>
            requireMade(await read.replace?.(key, await read.get(key), after)),
          ),
        },
      ],
      close: async () => {
        for (const opened of [plain, known, read]) await opened.disconnect();
        await stores.remove();
      },
    };
  };
  return { name: `swap, ${store}`, sizeBytes, prepare };
}

function requireMade(made: boolean | undefined): void {
  if (made !== true) throw new Error("The value was not replaced");
}
