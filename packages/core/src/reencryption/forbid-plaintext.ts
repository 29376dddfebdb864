import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireOptions } from "../errors/options.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { census } from "./census.ts";
import { type NamedStores, requireAllStores, requireStores } from "./named-stores.ts";
import { recordCounter, requireWritable, saveIfPossible } from "./saving-keyring.ts";

/** The options of {@link forbidPlaintext}. */
export interface ForbidPlaintextOptions {
  /**
   * If the signal is aborted before the keyring is changed, the call stops, and rejects with the reason of the signal.
   */
  readonly signal?: AbortSignal;
  /** Called after each page of records with the number of records counted so far in all stores. */
  readonly onProgress?: (records: number) => void;
}

const forbidPlaintextOptionNames = {
  signal: true,
  onProgress: true,
} as const satisfies OptionNames<ForbidPlaintextOptions>;

/**
 * Forbids plaintext in a namespace permanently. A store with the returned keyring never reads a plaintext record of
 * this namespace, even if the store accepts plaintext with its option `accept`.
 *
 * First reads all records of every store, and rejects if a record of the namespace is not encrypted. If you pass a
 * provider, it saves the changed keyring. If you pass a keyring, save the returned keyring at the source of your keys
 * yourself.
 *
 * @throws KeywardError
 * - `RECORD_NOT_SEALED`, with the counts by store, if records of the namespace are not encrypted;
 * - `STORES_MISSING` if a store that the keyring lists was not passed;
 * - `PROVIDER_READ_ONLY` for a provider that cannot save;
 * - `STORE_NOT_SCANNABLE`; `KEYRING_CONFLICT`.
 * @example
 * await reencrypt(sessions);
 * await forbidPlaintext(keys, { sessions }, "sessions");
 */
export async function forbidPlaintext(
  keys: Keyring | KeyProvider,
  stores: NamedStores,
  namespace: string,
  options: ForbidPlaintextOptions = {},
): Promise<Keyring> {
  requireStores(stores);
  const { signal } = requireOptions("forbidPlaintext", options, forbidPlaintextOptionNames);
  const counter = recordCounter(options.onProgress);
  // Load the keyring, because the change must be made to the latest generation.
  const keyring = await KeyringSource.of(keys).ask(signal);
  await requireWritable(keys);
  requireAllStores(keyring, stores, undefined);
  const counts: Record<string, number> = Object.create(null);
  for (const [name, store] of Object.entries(stores)) {
    let counted = 0;
    const onProgress = (records: number) => {
      counter(records - counted);
      counted = records;
    };
    const found = await census(store, { onProgress, ...(signal === undefined ? {} : { signal }) });
    const unsealed = found.namespaces.get(namespace)?.unsealed ?? 0;
    if (unsealed > 0) counts[name] = unsealed;
  }
  if (Object.keys(counts).length > 0) {
    const list = Object.entries(counts).map(([name, count]) => `${count} in ${name}`);
    throw new KeywardError(
      "RECORD_NOT_SEALED",
      `Plaintext cannot be forbidden while the namespace has records that are not encrypted: ${list.join(", ")}`,
      {
        namespace,
        counts,
        hint:
          "To encrypt these records, run `reencrypt` over the stores, with `plaintext()` in their option `accept`. " +
          "If the namespace still has plaintext after that, `unreadableRecords` in the report of `reencrypt` lists " +
          "these records.",
      },
    );
  }
  const next = keyring.forbidPlaintext(namespace);
  signal?.throwIfAborted();
  await saveIfPossible(keys, next, keyring);
  return next;
}
