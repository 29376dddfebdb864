// Records changes in another process. The work begins with the first message.
import { once } from "node:events";
import { Keyring } from "@keyward/core";
import { openAuditLog } from "@keyward/secrets";

const [role = "", path = "", document = "", owner = "", count = "0"] = process.argv.slice(2);
const keys = Keyring.parse(document);
const audit = openAuditLog({ path, keys, busyTimeoutMs: 30_000, longestWaitMs: 60_000 });
const caller = { tokenId: "tokenoftests", owner, role: "admin", address: undefined } as const;
const change = { action: "secret.set", workspace: "abcdefghij12", caller, server: "github", subject: "KEY" } as const;

async function record(): Promise<void> {
  const begun = await audit.begin(change);
  process.send?.(begun.id);
  await begun.end("done");
}

process.send?.("ready");
await once(process, "message");
switch (role) {
  case "record until killed": {
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (;;) await record();
      }),
    );
    break;
  }
  case "record": {
    for (let index = 0; index < Number(count); index++) await record();
    await audit.close();
    process.disconnect();
    break;
  }
  default:
    throw new Error(`no role ${role}`);
}
