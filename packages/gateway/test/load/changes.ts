// Sets a new value every 100 ms and rotates the keyring again and again, in a process of its own. Parameter: the folder of the
// gateway. Sends the number of each value after it was set. Ends after a message, and then sends how much was changed.
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EncryptedStore, rotateKey } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import {
  auditScope,
  auditStore,
  openAuditLog,
  SecretsAdmin,
  scopeOfServiceRecord,
  serviceNamespace,
} from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";

const [folder = ""] = process.argv.slice(2);
const everyMs = 100;

let isEnding = false;
process.once("message", () => {
  isEnding = true;
});
const keys = fileKeys(join(folder, "keyring.json"));
const store = new SqliteStore(join(folder, "service.db"));
const audit = openAuditLog({ path: join(folder, "audit.db"), keys, replica: true });
const admin = new SecretsAdmin({ store, keys, audit, replica: true });
const { token } = await admin.recoverToken(admin.localOperator(), { workspace: "main", owner: "load" });
const caller = await admin.authenticate(token);
const rotated = {
  service: new EncryptedStore(store.namespaced(serviceNamespace), { keys, scope: scopeOfServiceRecord }),
  audit: new EncryptedStore(auditStore(join(folder, "audit.db")), { keys, scope: auditScope }),
};
const [values, rotations] = await Promise.all([setValues(), rotate()]);
for (const each of Object.values(rotated)) await each.disconnect();
await admin.close();
await audit.close();
await store.disconnect();
process.send?.({ values, rotations });
process.disconnect();

async function setValues(): Promise<number> {
  let values = 0;
  while (!isEnding) {
    values++;
    const value = `a-value-of-the-load-0123456789abcdefghij-${values}`;
    await admin.setSecret(caller, "events", { name: "TOKEN", value, rule: { kind: "bearer" } });
    process.send?.({ value: values });
    await sleep(everyMs);
  }
  return values;
}

async function rotate(): Promise<number> {
  let rotations = 0;
  while (!isEnding) {
    rotations++;
    await rotateKey(keys, { stores: rotated, newKey: { id: `k${rotations}` }, graceMs: 0 });
  }
  return rotations;
}
