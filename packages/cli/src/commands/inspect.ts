import { inspectRecord, type RecordAddress, type RecordInspection } from "@keyward/core";
import type { Context } from "../context.ts";
import { inspectionResult } from "../results/inspection-result.ts";
import { table } from "../terminal/output.ts";
import { type AddressOptions, addressOf, noRecord } from "./record-address.ts";

/** Shows what can be read of a stored record without a key. Never shows the value. */
export async function inspect(context: Context, key: string, options: AddressOptions): Promise<void> {
  const address = addressOf(key, options);
  await context.withInnerStore(async (store, name) => {
    const shown = await inspectRecord(store, address);
    if (shown === undefined) throw noRecord();
    const scope = await scopeOf(context, name, address);
    const rows = [["store", name], ...rowsOf(shown)];
    if (scope !== undefined) rows.push(["scope", scope]);
    if (shown.kind === "envelope") rows.push(["expires", "only a key shows the expiry, which is encrypted too"]);
    context.output.result(table(rows), { store: name, scope: scope ?? null, ...inspectionResult(shown) });
  });
}

function rowsOf(shown: RecordInspection): string[][] {
  const size = shown.bytes === undefined ? [] : [["size", `${shown.bytes} bytes`]];
  switch (shown.kind) {
    case "envelope":
      return [["record", `an envelope, version ${shown.version}`], ["form", shown.form], ["key", shown.keyId], ...size];
    case "broken":
      return [
        ["record", "a broken envelope"],
        ["problem", `${shown.problem} (${shown.code})`],
        ["hint", shown.hint],
        ...(shown.keyId === undefined ? [] : [["key", shown.keyId]]),
        ...size,
      ];
    case "foreign":
      return [["record", "not an envelope of Keyward"], ["shape", shown.shape], ...size];
  }
}

/** Returns the scope that the flag or the configuration gives to the record. The record itself does not show its scope. */
async function scopeOf(context: Context, store: string, address: RecordAddress): Promise<string | undefined> {
  const scope = await context.scope(store);
  if (typeof scope !== "function") return scope;
  try {
    const name: unknown = scope(address);
    return typeof name === "string" ? name : undefined;
  } catch {
    // The error of a function of the configuration may contain the key of the record.
    return undefined;
  }
}
