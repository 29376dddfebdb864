// A gateway as a process of its own, over the store, the audit and the keyring that its environment names. The process prints
// its URL, and ends with SIGTERM.
import { Keyring } from "@keyward/core";
import { parseAddressException, startGateway } from "@keyward/gateway";
import { openAuditLog } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";

const given = (name: string) => process.env[`TEST_GATEWAY_${name}`] ?? "";
const keys = Keyring.parse(given("KEYRING"));
const store = new SqliteStore(given("STORE"));
const audit = openAuditLog({ path: given("AUDIT"), keys });
const gateway = await startGateway({
  store,
  keys,
  audit,
  ready: async () => {},
  port: 0,
  allowedAddresses: [parseAddressException(given("ADDRESS"))],
});
console.log(gateway.url);
process.once("SIGTERM", async () => {
  await gateway.close();
  await audit.close();
  await store.disconnect();
});
