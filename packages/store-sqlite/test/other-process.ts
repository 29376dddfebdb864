// Uses a store in another process. The first argument names the role; the work begins with the first message.
import { once } from "node:events";
import { SqliteStore } from "@keyward/store-sqlite";

const [role, path = "", name = ""] = process.argv.slice(2);

function report(message: string | number): void {
  process.send?.(message);
}

/** Opens a new file whenever a message with its path arrives, and reports when the file has a record of this process. */
async function openFiles(): Promise<void> {
  for (;;) {
    const [file] = await once(process, "message");
    const store = new SqliteStore(String(file), { busyTimeoutMs: 30_000 });
    await store.set(name, name);
    await store.disconnect();
    report("written");
  }
}

process.once("message", async () => {
  if (role === "open files") return await openFiles();
  const store = new SqliteStore(path, { busyTimeoutMs: 30_000 });
  switch (role) {
    case "write own keys": {
      for (let index = 0; index < 50; index++) await store.set(`${name}-${index}`, name);
      break;
    }
    case "increment": {
      for (let step = 0; step < 50; ) {
        const read = await store.get("counter");
        if (await store.replace("counter", read, String(Number(read ?? 0) + 1))) step++;
      }
      break;
    }
    case "write batches until killed": {
      for (let batch = 1; ; batch++) {
        await store.setMany(Array.from({ length: 200 }, (_, index) => ({ key: `key-${index}`, value: String(batch) })));
        report(batch);
      }
    }
    default:
      throw new Error(`no role ${role}`);
  }
  await store.disconnect();
  process.disconnect();
});
report("ready");
