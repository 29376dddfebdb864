// A process that initializes the secrets service in each store whose address it receives, and sends "done" or the code of
// the refusal. It ends with the message "end".
//   secrets-initialize-process <keyring>
import { fileKeys } from "@keyward/keys-env";
import { SecretsAdmin } from "@keyward/secrets";
import { openStore } from "./open-store.ts";
import { acceptingAudit, codeOf } from "./secrets-view.ts";

const [keyring = ""] = process.argv.slice(2);

process.on("message", async (address) => {
  if (address === "end") return process.disconnect();
  const store = openStore(String(address));
  const admin = new SecretsAdmin({ store, keys: fileKeys(keyring), audit: acceptingAudit });
  const outcome = await admin.initialize().then(() => "done", codeOf);
  await admin.close();
  await store.disconnect();
  process.send?.(outcome);
});
process.send?.("ready");
