import { readHeader } from "../envelope/header.ts";
import { asKeywardError, KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireOptions } from "../errors/options.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { isEnabled, Keyring } from "../keyring/keyring.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { scopedPrefix } from "../store/check-record.ts";
import { EncryptedStore, type EncryptedStoreOrKeyv, encryptedStoreOf, storeParts } from "../store/encrypted-store.ts";
import { heartbeatPrefix } from "../store/heartbeat.ts";
import type { ScannableStore, ScannedRecord } from "../store-interface/capabilities.ts";
import { reservedNamespace } from "../store-interface/namespace-use.ts";
import { pages } from "../store-interface/page-size.ts";
import { isKeyv } from "../store-interface/wrappable-store.ts";
import type { UnreadableRecord } from "./bulk-reencryption.ts";
import { census, scannableOf } from "./census.ts";

/** How a key is retired. */
export interface RetireKeyOptions {
  /**
   * "disabled" (default): the key opens nothing any more, and can be enabled again. "removed": it leaves the ring,
   * which it can do only once it is disabled; keep an export of the ring for as long as backups live.
   */
  readonly to?: "disabled" | "removed";
  /**
   * Lets the key go although there are records under it that open with no key, this one included, in the scope of any of
   * the given stores. They are listed in the result, and lost unless they are restored. Refused while the reserved space
   * has check records of scopes that none of the given stores has: give a store for each scope.
   */
  readonly abandonUnreadable?: boolean;
  /** Stops before anything is changed; the retirement then rejects with the reason. */
  readonly signal?: AbortSignal;
  /** Called after each page with the number of records looked at so far. */
  readonly onProgress?: (records: number) => void;
}

/** How a namespace is closed to plaintext. */
export interface ForbidPlaintextOptions {
  /** Stops before anything is changed; the call then rejects with the reason. */
  readonly signal?: AbortSignal;
  /** Called after each page with the number of records looked at so far. */
  readonly onProgress?: (records: number) => void;
}

/** What a retirement did. */
export interface Retirement {
  /** The ring after it. */
  readonly ring: Keyring;
  /** Whether the ring was saved: `false` where a ring was given, or a provider that cannot save, and this only checked. */
  readonly saved: boolean;
  /** With `abandonUnreadable`, the records under the key that did not open with it. */
  readonly abandoned: readonly UnreadableRecord[];
}

const retireKeyOptionNames = {
  to: true,
  abandonUnreadable: true,
  signal: true,
  onProgress: true,
} as const satisfies OptionNames<RetireKeyOptions>;

const forbidPlaintextOptionNames = {
  signal: true,
  onProgress: true,
} as const satisfies OptionNames<ForbidPlaintextOptions>;

/** The stores that a ring serves, or Keyvs over them, by the names that the keyring document gives them. */
export type NamedStores = Readonly<Record<string, EncryptedStoreOrKeyv>>;

const pageSize = 1_000;
const maxListedScopes = 1_000;

/**
 * Takes a key out of use, if no record in any of the stores needs it, whatever its namespace.
 *
 * @throws KeywardError `KEY_IN_USE` with the counts by store, or when a store that the ring names was not given, or with
 * `abandonUnreadable` one of a scope that has records there;
 * `KEY_UNKNOWN`; `KEYRING_INVALID` for the primary, or for a removal of an enabled key; `STORE_NOT_SCANNABLE`;
 * `KEYRING_CONFLICT` when the ring at the provider was changed meanwhile, or a store still seals under the key.
 */
export async function retireKey(
  keys: Keyring | KeyProvider,
  stores: NamedStores,
  id: string,
  options: RetireKeyOptions = {},
): Promise<Retirement> {
  requireStores(stores);
  requireOptions("retireKey", options, retireKeyOptionNames);
  const ring = await ringOf(keys, options.signal);
  let saved = false;
  const retirement = await retireFrom(ring, stores, id, options, async (next) => {
    saved = await save(keys, next, ring);
  });
  return { ...retirement, saved };
}

/** As {@link retireKey}, of a ring that was just loaded, and saved by the caller once no record needs the key. */
export async function retireFrom(
  ring: Keyring,
  stores: NamedStores,
  id: string,
  options: RetireKeyOptions,
  saveRing: (next: Keyring) => Promise<void>,
): Promise<Omit<Retirement, "saved">> {
  const { to = "disabled", abandonUnreadable = false } = options;
  const next = to === "disabled" ? ring.disable(id) : ring.remove(id);
  if (to === "removed" && isEnabled(ring, id)) {
    throw new KeywardError("KEYRING_INVALID", `Key "${id}" is enabled and cannot be removed yet`, {
      keyId: id,
      hint: "Retire it to disabled first, wait until you are sure that nobody misses it, and retire it again.",
    });
  }
  requireAllStores(ring, stores, id);

  const search: Search = {
    id,
    ring,
    readers: Object.values(stores),
    abandoned: abandonUnreadable ? [] : undefined,
    signal: options.signal,
    seen: progress(options.onProgress),
  };
  // All of them before anything is counted: one store may take along what lies in the backend of another.
  for (const [name, store] of Object.entries(stores)) {
    const { codec, check, source, reserve } = storeParts(store);
    await source.ask(options.signal);
    const used = await codec.ring();
    if (used.primary === id) throw stillSealing(name, id);
    // What this process was sealing under the key when the ring changed lies in the store from here on.
    await source.drained();
    await renewCheckRecord(check.renew(used));
    await reserve?.renew();
  }
  const counts: Record<string, number> = Object.create(null);
  for (const [name, store] of Object.entries(stores)) {
    const { inner } = storeParts(store);
    const needed = await recordsUnder(search, scannableOf(store));
    const neededInReserve = inner.reserved === undefined ? 0 : await recordsUnder(search, inReserve(inner.reserved));
    if (needed > 0) counts[name] = needed;
    if (neededInReserve > 0) counts[`${name} (reserved space)`] = neededInReserve;
  }
  const needed = Object.values(counts).reduce((sum, count) => sum + count, 0);
  if (needed > 0) {
    const list = Object.entries(counts).map(([name, count]) => `${count} in ${name}`);
    throw new KeywardError("KEY_IN_USE", `Key "${id}" is needed by ${needed} records: ${list.join(", ")}`, {
      keyId: id,
      counts,
      hint:
        "Run reencrypt over those stores; a check record in the reserved space needs a store of its scope. " +
        "abandonUnreadable lets go of what none of the stores can open.",
    });
  }
  if (search.abandoned !== undefined && search.abandoned.length > 0) await requireAllScopes(search);
  options.signal?.throwIfAborted();
  await saveRing(next);
  return { ring: next, abandoned: search.abandoned ?? [] };
}

/**
 * Closes a namespace to plaintext for good: from the ring that this returns, no `accept` lets it in again, whatever
 * lies in the store. The ring is saved; where a ring was given and no provider, it is up to you to bring it to its source. Done only when a census of every store finds nothing but envelopes there.
 *
 * @throws KeywardError `RECORD_NOT_SEALED` with the counts by store; `KEY_IN_USE` when a store that the ring names was
 * not given; `PROVIDER_READ_ONLY` for a provider that cannot save; `STORE_NOT_SCANNABLE`; `KEYRING_CONFLICT`.
 */
export async function forbidPlaintext(
  keys: Keyring | KeyProvider,
  stores: NamedStores,
  namespace: string,
  options: ForbidPlaintextOptions = {},
): Promise<Keyring> {
  requireStores(stores);
  const { signal } = requireOptions("forbidPlaintext", options, forbidPlaintextOptionNames);
  const seen = progress(options.onProgress);
  const ring = await ringOf(keys, signal);
  await requireSaving(keys);
  requireAllStores(ring, stores, undefined);
  const counts: Record<string, number> = Object.create(null);
  for (const [name, store] of Object.entries(stores)) {
    let before = 0;
    const onProgress = (records: number) => {
      seen(records - before);
      before = records;
    };
    const found = await census(store, { onProgress, ...(signal === undefined ? {} : { signal }) });
    const unsealed = found.namespaces.get(namespace)?.unsealed ?? 0;
    if (unsealed > 0) counts[name] = unsealed;
  }
  if (Object.keys(counts).length > 0) {
    const list = Object.entries(counts).map(([name, count]) => `${count} in ${name}`);
    throw new KeywardError("RECORD_NOT_SEALED", `The namespace holds records that are not sealed: ${list.join(", ")}`, {
      namespace,
      counts,
      hint: "Run reencrypt with plaintext() in accept, and look at what it cannot read.",
    });
  }
  const next = ring.forbidPlaintext(namespace);
  signal?.throwIfAborted();
  await save(keys, next, ring);
  return next;
}

function stillSealing(name: string, id: string): KeywardError {
  return new KeywardError("KEYRING_CONFLICT", `The store ${name} still seals under key "${id}" in this process`, {
    keyId: id,
    hint: "It has a ring from before the promotion. Give it the ring or the provider that is to be changed.",
  });
}

async function ringOf(keys: Keyring | KeyProvider, signal: AbortSignal | undefined): Promise<Keyring> {
  // The source is asked, and not the ring in use: a change must follow the latest generation.
  return await KeyringSource.of(keys).ask(signal);
}

/** Saves a ring where its source can be changed, and says whether it did. */
async function save(keys: Keyring | KeyProvider, next: Keyring, previous: Keyring): Promise<boolean> {
  if (keys instanceof Keyring || keys.save === undefined) return false;
  try {
    await keys.requireWritable?.();
  } catch (error) {
    if (error instanceof KeywardError && error.code === "PROVIDER_READ_ONLY") return false;
    throw error;
  }
  try {
    await keys.save(next, previous);
    return true;
  } catch (error) {
    const hint = "See the cause. Load the ring again to see whether the change arrived.";
    throw asKeywardError(error, "PROVIDER_UNAVAILABLE", "The key provider failed to save the changed ring", hint);
  }
}

/**
 * @throws KeywardError `PROVIDER_READ_ONLY` for a provider that cannot save a ring; what the provider throws.
 */
async function requireSaving(keys: Keyring | KeyProvider): Promise<void> {
  if (keys instanceof Keyring) return;
  requireSave(keys);
  await keys.requireWritable?.();
}

/**
 * @throws KeywardError `PROVIDER_READ_ONLY` for a provider without `save`.
 */
export function requireSave(provider: KeyProvider): void {
  if (typeof provider.save === "function") return;
  throw new KeywardError("PROVIDER_READ_ONLY", "The key provider cannot save a changed ring", {
    hint: "Use one that has save(), or change the ring where it comes from: docs/keyring.md has the steps.",
  });
}

/**
 * Checks stores that code without types may have handed over.
 *
 * @throws KeywardError `VALUE_INVALID` for what is no object of stores by name; `STORE_INVALID` for what is no store in it.
 */
export function requireStores(stores: NamedStores): void {
  const isObject = typeof stores === "object" && stores !== null && !Array.isArray(stores);
  if (!isObject || stores instanceof EncryptedStore || isKeyv(stores)) {
    throw new KeywardError("VALUE_INVALID", "stores is not an object that has stores by their names", {
      hint: "Pass { name: store }, with the names that the keyring gives its stores, or any name where it gives none.",
    });
  }
  for (const store of Object.values(stores)) encryptedStoreOf(store);
}

/**
 * @throws KeywardError `KEY_IN_USE` when a store that the ring names is missing, or all are.
 */
export function requireAllStores(ring: Keyring, stores: NamedStores, keyId: string | undefined): void {
  const missing = ring.stores.filter((name) => !Object.hasOwn(stores, name));
  if (missing.length === 0 && Object.keys(stores).length > 0) return;
  const which = missing.length === 0 ? "no store" : `not the stores ${missing.join(", ")}, which the ring names`;
  throw new KeywardError("KEY_IN_USE", `This was refused: it was given ${which}`, {
    keyId,
    hint: "Give every store that the ring serves; only they know what is still needed.",
  });
}

/** A check record that does not open is counted below, and by that refuses the retirement if it is under the key. */
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
  readonly ring: Keyring;
  /** One backend may hold the records of several scopes: a record is lost when none of these opens it. */
  readonly readers: readonly EncryptedStoreOrKeyv[];
  /** Where records go that do not open; absent where they count as needing the key. */
  readonly abandoned: UnreadableRecord[] | undefined;
  readonly signal: AbortSignal | undefined;
  readonly seen: (records: number) => void;
}

async function recordsUnder(search: Search, scannable: ScannableStore): Promise<number> {
  let count = 0;
  for await (const entries of pages(scannable, pageSize)) {
    search.signal?.throwIfAborted();
    for (const entry of entries) {
      if (keyIdOf(entry) !== search.id) continue;
      const unreadable = search.abandoned === undefined ? undefined : await whyUnreadable(search, entry);
      if (unreadable === undefined) count++;
      else search.abandoned?.push(unreadable);
    }
    search.seen(entries.length);
  }
  return count;
}

/**
 * What no given store opens may be what another scope opens: while there is a scope without a store, nothing is abandoned.
 *
 * @throws KeywardError `KEY_IN_USE` with an error for each scope that has a check record and no store.
 */
async function requireAllScopes({ id, readers, signal }: Search): Promise<void> {
  const given = new Set<string | undefined>();
  for (const reader of readers) given.add((await storeParts(reader).codec.ring()).scopeName);
  const missing = new Set<string>();
  for (const { reserved } of readers.map((reader) => storeParts(reader).inner)) {
    if (reserved === undefined) continue;
    for await (const entries of pages(reserved, pageSize)) {
      signal?.throwIfAborted();
      for (const { key } of entries) {
        if (key.startsWith(scopedPrefix) && !given.has(key.slice(scopedPrefix.length))) missing.add(key);
      }
    }
  }
  if (missing.size === 0) return;
  const hint = "Give a store of this scope as well; the error has the key of its check record.";
  throw new KeywardError(
    "KEY_IN_USE",
    `Nothing was abandoned: ${missing.size} scopes have a check record and none of the given stores`,
    {
      keyId: id,
      errors: [...missing].slice(0, maxListedScopes).map(
        (key) =>
          new KeywardError("KEY_IN_USE", "A scope has a check record and no store was given for it", {
            keyId: id,
            namespace: reservedNamespace,
            key,
            hint,
          }),
      ),
      hint:
        "Records that the given stores cannot open may belong to these scopes. error.errors names the check record of each, " +
        "whose key ends in the name of the scope: give a store with that scope, also for one that is no longer used.",
    },
  );
}

/**
 * The reserved space, with its records in the namespace that they are sealed for; without heartbeats, of which one that is
 * late may lie under whatever key, and none is missed: who lives writes the next.
 */
function inReserve(reserved: ScannableStore): ScannableStore {
  return {
    async scan(options) {
      const { entries, ...page } = await reserved.scan(options);
      const needed = entries.filter(({ key }) => !key.startsWith(heartbeatPrefix));
      return { ...page, entries: needed.map((entry) => ({ ...entry, namespace: reservedNamespace })) };
    },
  };
}

function progress(onProgress: ((records: number) => void) | undefined): (records: number) => void {
  let total = 0;
  return (records) => {
    total += records;
    onProgress?.(total);
  };
}

function keyIdOf(entry: ScannedRecord): string | undefined {
  try {
    return readHeader(entry.value, entry)?.keyId;
  } catch (error) {
    if (error instanceof KeywardError) return error.keyId;
    throw error;
  }
}

async function whyUnreadable({ readers, ring }: Search, entry: ScannedRecord): Promise<UnreadableRecord | undefined> {
  const { namespace, key, value } = entry;
  let why: UnreadableRecord | undefined;
  for (const reader of readers) {
    const { codec } = storeParts(reader);
    // The ring to be changed has the key even where a store's own does not; the store's may be a scoped one.
    for (const tried of [ring, await codec.ring()]) {
      try {
        if (codec.openIgnoringStatus(tried, value, { namespace, key }) !== undefined) return undefined;
      } catch (error) {
        if (!(error instanceof KeywardError)) throw error;
        const { code, keyId } = error;
        why = { namespace, key, code, ...(keyId === undefined ? {} : { keyId }) };
      }
    }
  }
  return why;
}
