// A process that makes one operation of the secrets service, and is killed before or after one of its writes.
//   secrets-kill-process <store> <name of the operation> <number of the write> before|after
// It receives the keyring and the world by a message, and sends "at" when it is at the write, or "done".
import { Keyring } from "@keyward/core";
import { SecretsAdmin, serviceNamespace } from "@keyward/secrets";
import { openStore } from "./open-store.ts";
import { operations, processOf, type World } from "./secrets-operations.ts";
import { acceptingAudit } from "./secrets-view.ts";

/** What the process receives. */
export interface KillOrder {
  readonly keyring: string;
  readonly world: World;
}

const [address = "", name = "", at = "0", when = "before"] = process.argv.slice(2);
let writes = 0;
let isArmed = false;

/** Makes a write. Halts this process before or after the write that the test names. */
async function halting<Result>(make: () => Promise<Result>): Promise<Result> {
  const isNext = isArmed && ++writes === Number(at);
  if (isNext && when === "before") await stop();
  const result = await make();
  if (isNext) await stop();
  return result;
}

async function stop(): Promise<void> {
  process.send?.("at");
  await new Promise(() => undefined);
}

process.once("message", async ({ keyring, world }: KillOrder) => {
  const operation = operations.find((each) => each.name === name);
  if (operation === undefined) throw new Error(`There is no operation ${name}`);
  const store = openStore(address);
  const view = store.namespaced(serviceNamespace);
  const [set, remove, replace] = [view.set.bind(view), view.deleteMany.bind(view), view.replaceMany.bind(view)];
  view.set = (...given) => halting(() => set(...given));
  view.deleteMany = (...given) => halting(() => remove(...given));
  view.replaceMany = (...given) => halting(() => replace(...given));
  Reflect.set(store, "namespaced", () => view);
  const admin = new SecretsAdmin({ store, keys: Keyring.parse(keyring), audit: acceptingAudit });
  const ready = await processOf(admin, world);
  isArmed = true;
  await operation.run(ready, world, "mine");
  isArmed = false;
  await admin.close();
  await store.disconnect();
  process.send?.("done");
  process.disconnect();
});
