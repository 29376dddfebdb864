import { readHeader } from "../envelope/header.ts";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { isEnabled, type Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import { scopedPrefix } from "../store/check-record.ts";
import { type EncryptedStoreOrKeyv, storeParts } from "../store/encrypted-store.ts";
import { heartbeatPrefix } from "../store/heartbeat.ts";
import { reservedNamespace } from "../store-interface/namespace-use.ts";
import { pages } from "../store-interface/page-size.ts";
import type { ScannableStore, ScannedRecord } from "../store-interface/store-capabilities.ts";
import { scannableOf } from "./census.ts";
import { type NamedStores, requireAllStores } from "./named-stores.ts";
import { type UnreadableRecord, unreadableRecord } from "./reencryption-options.ts";
import { recordCounter } from "./saving-keyring.ts";

/** The options of {@link retireLoaded}. */
export interface RetireLoadedOptions {
  readonly to: "disabled" | "removed";
  /** True if an enabled key may be removed, because the source of the keys has no disabled keys. */
  readonly evenIfEnabled: boolean;
  readonly abandonUnreadable: boolean;
  readonly signal?: AbortSignal;
  readonly onProgress?: (records: number) => void;
}

/** The result of `retireKey`. */
export interface Retirement {
  /** The keyring after the change. */
  readonly keyring: Keyring;
  /**
   * True if the source of the keys has the changed keyring, because the provider saved it or, with the option
   * `instruct`, an operator made the change. False if you passed a keyring, or a provider that cannot save. If false,
   * save the changed keyring yourself.
   */
  readonly saved: boolean;
  /**
   * The records under the retired key that could not be decrypted, and that were therefore abandoned. Empty unless
   * `abandonUnreadable` is true.
   */
  readonly abandoned: readonly UnreadableRecord[];
}

const pageSize = 1_000;
const maxListedScopes = 1_000;

/** A keyring that was just loaded, and the source that loaded it. */
export interface LoadedKeyring {
  readonly keyring: Keyring;
  readonly source: KeyringSource;
}

/**
 * Checks that no record of any store and namespace needs a key. Then disables or removes the key in a keyring that the
 * caller has just loaded, and calls `save` with the changed keyring.
 *
 * @throws KeywardError the errors of `retireKey`.
 */
export async function retireLoaded(
  loaded: LoadedKeyring,
  stores: NamedStores,
  id: string,
  options: RetireLoadedOptions,
  save: (next: Keyring) => Promise<void>,
): Promise<Omit<Retirement, "saved">> {
  const { keyring } = loaded;
  const { to, evenIfEnabled, abandonUnreadable } = options;
  const next = to === "disabled" ? keyring.disable(id) : keyring.remove(id);
  if (to === "removed" && isEnabled(keyring, id) && !evenIfEnabled) {
    throw new KeywardError("KEYRING_INVALID", `Key "${id}" is enabled and cannot be removed yet`, {
      keyId: id,
      hint: 'First call retireKey with `to: "disabled"`. Remove the key after no process has reported KEY_DISABLED for a while.',
    });
  }
  requireAllStores(keyring, stores, id);

  const search: Search = {
    id,
    keyring,
    readers: Object.values(stores),
    abandoned: abandonUnreadable ? [] : undefined,
    signal: options.signal,
    counter: recordCounter(options.onProgress),
  };
  await prepareStores(loaded, stores, id, options.signal);
  await requireUnused(search, stores);
  if (search.abandoned !== undefined && search.abandoned.length > 0) await requireAllScopes(search);
  options.signal?.throwIfAborted();
  await save(next);
  return { keyring: next, abandoned: search.abandoned ?? [] };
}

/**
 * Makes every given store load the latest keyring, finish its writes, and re-encrypt its reserved records. Call this
 * function before any records are counted: stores may share a backend, so a reserved record that is counted for one
 * store may be re-encrypted by another.
 */
async function prepareStores(
  { source: loadedFrom }: LoadedKeyring,
  stores: NamedStores,
  id: string,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const [name, store] of Object.entries(stores)) {
    const { codec, check, source, reserve } = storeParts(store);
    // A store with another provider may still have an earlier keyring. All other stores have the keyring that was just
    // loaded.
    if (source !== loadedFrom) await source.ask(signal);
    const used = await codec.ring();
    if (used.primary === id) throw storeStillEncrypts(name, id);
    // After this line, all writes that this process began under the key have reached the store.
    await source.drained();
    await renewCheckRecord(check.renew(used));
    await reserve?.renew();
  }
}

/**
 * Checks that no record needs the key, in any store or its reserved space.
 *
 * @throws KeywardError `KEY_IN_USE` if a record needs the key.
 */
async function requireUnused(search: Search, stores: NamedStores): Promise<void> {
  const { id } = search;
  const counts: Record<string, number> = Object.create(null);
  for (const [name, store] of Object.entries(stores)) {
    const { inner } = storeParts(store);
    const needed = await recordsUnder(search, scannableOf(store));
    const neededInReserve = inner.reserved === undefined ? 0 : await recordsUnder(search, inReserve(inner.reserved));
    if (needed > 0) counts[name] = needed;
    if (neededInReserve > 0) counts[`${name} (reserved space)`] = neededInReserve;
  }
  const list = Object.entries(counts).map(([name, count]) => `${count} in ${name}`);
  if (list.length === 0) return;
  throw new KeywardError(
    "KEY_IN_USE",
    `Key "${id}" cannot be retired. Number of records that need the key: ${list.join(", ")}`,
    {
      keyId: id,
      counts,
      hint:
        "Run `reencrypt` over the stores in this message, and repeat the call. If the report of `reencrypt` lists " +
        "`unreadableRecords`, first correct the cause: with the code `KEY_MISMATCH`, the option `scope` of a store " +
        "may be missing or wrong. If a record in a reserved space still needs the key, it may be the check record " +
        "of a scope: pass a store with that scope, too. Only if the unreadable records are lost for good, pass " +
        "`abandonUnreadable: true`, which retires the key although these records need it.",
    },
  );
}

function storeStillEncrypts(name: string, id: string): KeywardError {
  return new KeywardError("STORE_KEYS_DIFFER", `The store ${name} still encrypts with key "${id}" in this process`, {
    keyId: id,
    hint:
      "The store has an earlier keyring, in which this key is the primary. Create the store with the keyring or the " +
      "provider that you pass to this call.",
  });
}

/**
 * Waits until a check record is re-encrypted. Does not reject if the check record cannot be decrypted: if it is under
 * the key to retire, the count of records finds it.
 */
async function renewCheckRecord(renewing: Promise<void>): Promise<void> {
  try {
    await renewing;
  } catch (error) {
    if (!(error instanceof KeywardError && error.code === "OVERWRITE_REFUSED")) throw error;
  }
}

/** A search for the records that need a key. */
interface Search {
  readonly id: string;
  readonly keyring: Keyring;
  /**
   * The stores with which the search tries to decrypt a record. One backend may contain records of several scopes, so a
   * record is unreadable only if all stores fail to decrypt it.
   */
  readonly readers: readonly EncryptedStoreOrKeyv[];
  /**
   * Collects the records that no store can decrypt. If absent, these records are counted as records that need the key.
   */
  readonly abandoned: UnreadableRecord[] | undefined;
  readonly signal: AbortSignal | undefined;
  readonly counter: (records: number) => void;
}

async function recordsUnder(search: Search, scannable: ScannableStore): Promise<number> {
  let count = 0;
  for await (const records of pages(scannable, pageSize)) {
    search.signal?.throwIfAborted();
    for (const record of records) {
      if (keyIdOf(record) !== search.id) continue;
      const unreadable = search.abandoned === undefined ? undefined : await whyUnreadable(search, record);
      if (unreadable === undefined) count++;
      else search.abandoned?.push(unreadable);
    }
    search.counter(records.length);
  }
  return count;
}

/**
 * Checks that a store was passed for every scope that has a check record. A store of a missing scope might be able to
 * decrypt the records that would be abandoned.
 *
 * @throws KeywardError `STORES_MISSING` with an error for each scope without a store.
 */
async function requireAllScopes({ id, readers, signal }: Search): Promise<void> {
  const given = new Set<string | undefined>();
  for (const reader of readers) given.add((await storeParts(reader).codec.ring()).scopeName);
  const missing = new Set<string>();
  for (const { reserved } of readers.map((reader) => storeParts(reader).inner)) {
    if (reserved === undefined) continue;
    for await (const records of pages(reserved, pageSize)) {
      signal?.throwIfAborted();
      for (const { key } of records) {
        if (key.startsWith(scopedPrefix) && !given.has(key.slice(scopedPrefix.length))) missing.add(key);
      }
    }
  }
  if (missing.size === 0) return;
  const hint =
    "Pass a store with the scope that `error.key` contains after `check/`. `error.key` is the key of the scope's check record.";
  throw new KeywardError(
    "STORES_MISSING",
    `No record was abandoned, because no store was passed for ${missing.size} of the scopes that have a check record in the reserved space`,
    {
      keyId: id,
      errors: [...missing].slice(0, maxListedScopes).map(
        (key) =>
          new KeywardError(
            "STORES_MISSING",
            "The reserved space has the check record of a scope, but no store of this scope was passed",
            {
              keyId: id,
              namespace: reservedNamespace,
              key,
              hint,
            },
          ),
      ),
      hint:
        "The unreadable records may belong to one of these scopes, even to a scope that no process uses now. Pass a " +
        "store for each scope. `error.errors` has one error for each missing scope. Its property `key` is `check/` " +
        "followed by the name of the scope.",
    },
  );
}

/**
 * Returns a store whose scan returns the records of a reserved space, except heartbeats. A heartbeat that arrives late
 * may be encrypted under the old key. That does not matter, because a running process soon writes another heartbeat.
 */
function inReserve(reserved: ScannableStore): ScannableStore {
  return {
    async scan(options) {
      const { entries, ...page } = await reserved.scan(options);
      const needed = entries.filter(({ key }) => !key.startsWith(heartbeatPrefix));
      return { ...page, entries: needed.map((record) => ({ ...record, namespace: reservedNamespace })) };
    },
  };
}

function keyIdOf(record: ScannedRecord): string | undefined {
  try {
    return readHeader(record.value, record)?.keyId;
  } catch (error) {
    if (error instanceof KeywardError) return error.keyId;
    throw error;
  }
}

async function whyUnreadable(
  { readers, keyring }: Search,
  record: ScannedRecord,
): Promise<UnreadableRecord | undefined> {
  const { namespace, key, value } = record;
  let why: UnreadableRecord | undefined;
  for (const reader of readers) {
    const { codec } = storeParts(reader);
    // Try two keyrings: the keyring to change, because it contains the key, and the keyring of the store, because it
    // may be scoped.
    for (const tried of [keyring, await codec.ring()]) {
      try {
        if (codec.openIgnoringStatus(tried, value, { namespace, key }) !== undefined) return undefined;
      } catch (error) {
        why = unreadableRecord({ namespace, key }, requireKeywardError(error));
      }
    }
  }
  return why;
}
