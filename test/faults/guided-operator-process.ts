// A process that rotates the key once, guided, and that a test kills. It sends each step as the step begins, and each
// change that the operator must make at the source of the keys.
import { EncryptedStore, type Instruction, KeywardError, rotateKey } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { openStore } from "./open-store.ts";

/** A message of this process to the test. */
export type OperatorMessage =
  | { readonly kind: "step"; readonly step: string }
  | { readonly kind: "change"; readonly change: Instruction["change"]; readonly text: string };

const [address = "", source = "", newKeyId = ""] = process.argv.slice(2);
const keys = await keysFrom(source);
const inner = openStore(address);
const store = new EncryptedStore(inner.namespaced("sessions"), { keys });

function tell(message: OperatorMessage): void {
  process.send?.(message);
}

try {
  const { step } = await rotateKey(keys, {
    stores: { sessions: store },
    newKey: { id: newKeyId },
    graceMs: 50,
    instruct: ({ change, text }) => tell({ kind: "change", change, text }),
    onProgress: (progress) => {
      if (progress.kind === "step") tell({ kind: "step", step: progress.step });
    },
  });
  tell({ kind: "step", step });
} catch (error) {
  // With environment variables, this process is restarted after each change. NO_REPLICAS: each process is being restarted.
  const isExpected = error instanceof KeywardError && ["CHANGE_NEEDED", "NO_REPLICAS"].includes(error.code);
  if (!isExpected) throw error;
}
await store.disconnect();
await inner.disconnect();
process.disconnect();
