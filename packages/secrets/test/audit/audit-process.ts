// Records changes in another process. The work begins with the first message.
import { once } from "node:events";
import { Keyring } from "@keyward/core";
import { openAuditLog } from "@keyward/secrets";
import { newCallId } from "@keyward/secrets/reader";

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

async function recordCall(): Promise<void> {
  const callId = newCallId();
  await audit.recordCall({
    callId,
    at: Date.now(),
    workspace: "abcdefghij12",
    caller: { ...caller, role: "member" },
    server: "github",
    method: "GET",
    path: "/issues",
    status: 200,
    durationMs: 3,
    requestBytes: 0,
    answerBytes: 12,
    secrets: [],
    redactions: 0,
  });
  process.send?.(callId);
}

process.send?.("ready");
await once(process, "message");
switch (role) {
  case "record until killed": {
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (;;) {
          await record();
          await recordCall();
        }
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
