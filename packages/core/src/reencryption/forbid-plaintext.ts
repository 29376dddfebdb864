import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireOptions } from "../errors/options.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { census } from "./census.ts";
import { recordCounter, requireWritable, saveIfPossible } from "./keyring-change.ts";
import { type NamedStores, requireAllStores, requireStores } from "./named-stores.ts";

/** The options of {@link forbidPlaintext}. */
export interface ForbidPlaintextOptions {
  /** Stops the call before anything is changed. The call then rejects with the reason of the signal. */
  readonly signal?: AbortSignal;
  /** Called after each page with the number of records counted so far. */
  readonly onProgress?: (records: number) => void;
}

const forbidPlaintextOptionNames = {
  signal: true,
  onProgress: true,
} as const satisfies OptionNames<ForbidPlaintextOptions>;

/**
 * Forbids plaintext in a namespace for good: under the returned keyring, no `accept` lets a plaintext record of this
 * namespace be read, whatever is stored there.
 *
 * Forbids it only if a census of every store finds nothing but envelopes in the namespace. A provider saves the keyring;
 * if you pass a keyring, bring the returned one to its source yourself.
 *
 * @throws KeywardError `RECORD_NOT_SEALED` with the counts by store; `STORES_MISSING` if a store that the keyring lists was
 * not passed; `PROVIDER_READ_ONLY` for a provider that cannot save; `STORE_NOT_SCANNABLE`; `KEYRING_CONFLICT`.
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
  // The change must follow the latest generation, so the source is asked.
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
      `The namespace holds records that are not encrypted: ${list.join(", ")}`,
      {
        namespace,
        counts,
        hint: "Run reencrypt with plaintext() in accept. If records are left, look at unreadableRecords of its report.",
      },
    );
  }
  const next = keyring.forbidPlaintext(namespace);
  signal?.throwIfAborted();
  await saveIfPossible(keys, next, keyring);
  return next;
}
