import {
  hasReservedSpace,
  inspectRecord,
  isScannable,
  KeywardError,
  type KeywardKeyv,
  type ScannableStore,
  type WrappableStore,
} from "@keyward/core";

const checkKey = "check";
const pageSize = 100;
/** The limits of the search for a record without a scope in a namespace. */
const maxEnvelopes = 100;
const maxPages = 10;

/**
 * Returns the key under which the check record of `scope` is stored in the reserved space. If `scope` is `undefined`, returns
 * the key of the check record for records without a scope.
 */
export function checkRecordKey(scope: string | undefined): string {
  return scope === undefined ? checkKey : `${checkKey}/${scope}`;
}

/**
 * Checks that records of a scope were written to a store before, because the name of the scope may be misspelt. A store
 * that Keyward has not written to yet passes.
 *
 * @param name the name of the store.
 * @throws KeywardError `STORE_INVALID`.
 */
export async function requireUsedScope(name: string, store: WrappableStore, scope: string): Promise<void> {
  if (!hasReservedSpace(store)) return;
  const reserved = store.reserved();
  if ((await reserved.get(checkRecordKey(scope))) !== undefined) return;
  if ((await reserved.get(checkRecordKey(undefined))) === undefined && !(await usesScopes(store))) return;
  throw new KeywardError("STORE_INVALID", `The store ${name} was never used with the scope ${JSON.stringify(scope)}`, {
    hint:
      "Compare `--scope`, or `scope` of the configuration, with the scope of the application. " +
      `Only if no record of this scope was ever written to this store, add \`--empty-store ${name}\`.`,
  });
}

/** Returns whether a process has written records of any scope to a store. */
export async function usesScopes(store: WrappableStore): Promise<boolean> {
  if (!hasReservedSpace(store)) return false;
  for await (const entries of pagesOf(store.reserved())) {
    if (entries.some(({ key }) => key.startsWith(checkRecordKey("")))) return true;
  }
  return false;
}

/**
 * Checks that an application can read a record that is written to a namespace without a scope. If the application uses
 * scopes, the namespace must already have a record without a scope.
 *
 * @param name the name of the store.
 * @param keyv the namespace, opened without a scope.
 * @throws KeywardError `STORE_INVALID`.
 */
export async function requireUnscopedNamespace(
  name: string,
  store: WrappableStore,
  keyv: KeywardKeyv,
  namespace: string,
): Promise<void> {
  const isScoped = await usesScopes(store);
  if (hasReservedSpace(store) && !isScoped) return;
  const found = await readEnvelopes(store, keyv, namespace);
  if (found === "readable" || (found === "none" && !isScoped)) return;
  throw scopeMissing(name);
}

/** Returns the error for a command that would encrypt records without a scope in a store that is used with scopes. */
export function scopeMissing(name: string): KeywardError {
  return new KeywardError(
    "STORE_INVALID",
    `Nothing was written: the application uses the store ${name} with a scope, but this command has no scope`,
    {
      hint:
        "Pass the scope of the application: `--scope <name>`, or set `scope` in the configuration. " +
        `If the application uses a scope for other records, and reads these records without one, add \`--empty-store ${name}\`.`,
    },
  );
}

/**
 * Returns "readable" if an envelope of a namespace can be decrypted without a scope. Otherwise returns "mismatched" if an
 * envelope fails with `KEY_MISMATCH`, which is the error for an envelope of a scope, or "none".
 */
async function readEnvelopes(
  store: WrappableStore,
  keyv: KeywardKeyv,
  namespace: string,
): Promise<"readable" | "mismatched" | "none"> {
  if (!isScannable(store)) return "none";
  let envelopes = 0;
  let pages = 0;
  let hasMismatch = false;
  for await (const entries of pagesOf(store)) {
    for (const { namespace: found, key } of entries) {
      if (found !== namespace || envelopes >= maxEnvelopes) continue;
      if ((await inspectRecord(store, { namespace, key }))?.kind !== "envelope") continue;
      envelopes++;
      try {
        if ((await keyv.encryptedStore.get(key)) !== undefined) return "readable";
      } catch (error) {
        if (!(error instanceof KeywardError)) throw error;
        hasMismatch ||= error.code === "KEY_MISMATCH";
      }
    }
    if (envelopes >= maxEnvelopes || ++pages >= maxPages) break;
  }
  return hasMismatch ? "mismatched" : "none";
}

async function* pagesOf(store: ScannableStore) {
  let cursor: string | undefined;
  do {
    const page = await store.scan({ limit: pageSize, ...(cursor === undefined ? {} : { cursor }) });
    yield page.entries;
    cursor = page.cursor;
  } while (cursor !== undefined);
}
