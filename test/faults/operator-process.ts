// A process that rotates the key once, and that a test kills. It sends each step as the step begins.
import { EncryptedStore, rotateKey } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { openStore } from "./open-store.ts";

const [address = "", source = "", newKeyId = ""] = process.argv.slice(2);
const keys = await keysFrom(source);
const inner = openStore(address);
const store = new EncryptedStore(inner.namespaced("sessions"), { keys });
const { step } = await rotateKey(keys, {
  stores: { sessions: store },
  newKey: { id: newKeyId },
  graceMs: 50,
  onProgress: (progress) => {
    if (progress.kind === "step") process.send?.(progress.step);
  },
});
await store.disconnect();
await inner.disconnect();
process.send?.(step);
process.disconnect();
