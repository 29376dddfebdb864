import { census, forbidPlaintext, KeywardError } from "@keyward/core";
import type { Context } from "../context.ts";
import { keyringResult } from "../results/keyring-result.ts";
import { shownName } from "../terminal/output.ts";

/**
 * Makes the stores refuse plaintext in a namespace from now on. Every record of the namespace must already be encrypted.
 *
 * @param namespace the namespace; "" for the records without a namespace.
 * @throws KeywardError `RECORD_NOT_SEALED` if records of the namespace are not encrypted; `VALUE_INVALID` if no store has
 * a record of the namespace; CommandError `NOT_CONFIRMED`.
 */
export async function refusePlaintext(context: Context, namespace: string): Promise<void> {
  const { output, signal, operator } = context;
  const shown = namespace === "" ? "of the records without a namespace" : `of the namespace ${shownName(namespace)}`;
  await context.withStores(async (keys, stores) => {
    const onProgress = (records: number) => output.progress(`counted ${records} records`);
    const present = await keys.load({ signal });
    if (present.encryptedNamespaces.includes(namespace)) {
      output.result(`Plaintext ${shown} is refused already.`, {
        namespace,
        changed: false,
        keyring: keyringResult(present),
      });
      return;
    }
    // The keyring keeps a misspelt name without an error, and plaintext would stay allowed where it is meant.
    let records = 0;
    let unsealed = 0;
    for (const store of Object.values(stores)) {
      const counts = (await census(store, { signal, onProgress })).namespaces.get(namespace);
      records += counts?.records ?? 0;
      unsealed += counts?.unsealed ?? 0;
    }
    if (records === 0) {
      throw new KeywardError("VALUE_INVALID", `No store has a record ${shown}`, {
        hint: 'Compare the name with `keyward census --by namespace`. Records without a namespace have the name "".',
      });
    }
    if (unsealed === 0) {
      await operator.confirm(`The stores would refuse plaintext ${shown}, which cannot be undone.`);
    }
    const keyring = await forbidPlaintext(keys, stores, namespace, { signal, onProgress });
    output.result(
      `Plaintext ${shown} is refused from now on, by each process after it has loaded the keyring again. Then remove \`plaintext()\` from \`accept\` of the application.`,
      { namespace, changed: true, keyring: keyringResult(keyring) },
    );
  });
}
