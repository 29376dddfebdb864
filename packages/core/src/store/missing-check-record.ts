import { open } from "../envelope/envelope.ts";
import { readHeader } from "../envelope/header.ts";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type Keyring, keyOf } from "../keyring/keyring.ts";
import { reservedNamespace } from "../store-interface/namespace-use.ts";
import { pages } from "../store-interface/page-size.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { type CheckRecord, keysIn, scopedPrefix, wrongKeyringHint } from "./check-record.ts";
import { heartbeatPrefix, readHeartbeatKey } from "./heartbeat.ts";
import type { RecordScopes } from "./record-scopes.ts";

// Maximum numbers of envelopes and pages that are read, in the reserved space and in the store.
const maxEnvelopes = 100;
const maxPages = 10;

/**
 * Returns true if a store that has no check record contains envelopes, but `keyring` decrypts none of them. In this
 * case the check record was deleted, and the records were written with another keyring. Tries only the first 100
 * envelopes or so.
 *
 * @param scopes the scopes of the records. The function also tries to decrypt each record in its scope.
 */
export async function hasRecordsOfAnotherKeyring(
  { store, reserved, unscoped }: CheckRecord,
  keyring: Keyring,
  scopes: RecordScopes,
): Promise<boolean> {
  // A process with the keyring of one scope cannot and need not decrypt the records of other scopes.
  if (unscoped !== undefined || keyring.scopeName !== undefined) return false;
  const records = store.scannable;
  try {
    let undecryptable = 0;
    for (const scannable of records === undefined ? [reserved] : [reserved, records]) {
      const isReserved = scannable === reserved;
      let page = 0;
      for await (const entries of pages(scannable, maxEnvelopes)) {
        for (const entry of entries) {
          const address = isReserved ? { ...entry, namespace: reservedNamespace } : entry;
          const tried = [undefined, scopes.ofStore, isReserved ? scopeInKey(entry.key) : scopeOrNone(scopes, address)];
          const isDecryptable = isDecryptableInAny(tried, keyring, entry.value, address);
          if (isDecryptable === true) return false;
          if (isDecryptable === false) undecryptable++;
        }
        page++;
        if (undecryptable >= maxEnvelopes || page >= maxPages) break;
      }
    }
    return undecryptable > 0;
  } catch (error) {
    // If this process is not allowed to scan the store, or the scan fails, it creates the check record without this
    // test.
    if (error instanceof KeywardError) return false;
    throw error;
  }
}

/**
 * Returns the error for a store that contains records but no check record, if `keyring` decrypts none of these records.
 */
export function notDecryptable(store: string, keyring: Keyring): KeywardError {
  const problem = `${store} contains records but no check record, and this keyring decrypts none of the records that were tried`;
  return new KeywardError("OVERWRITE_REFUSED", `Nothing was written: ${problem}; this process has ${keysIn(keyring)}`, {
    hint: wrongKeyringHint,
  });
}

/**
 * Returns whether a keyring decrypts an envelope in one of `scopes`; `undefined` if `stored` is not an envelope, or is
 * a damaged one.
 */
function isDecryptableInAny(
  scopes: readonly (string | undefined)[],
  keyring: Keyring,
  stored: StoredValue,
  address: RecordAddress,
): boolean | undefined {
  let isEnvelope = false;
  for (const scope of new Set(scopes)) {
    try {
      const scoped = scope === undefined ? keyring : keyring.scope(scope);
      const header = readHeader(stored, address);
      if (header === undefined) return undefined;
      // If the keyring lacks the envelope's key, try the primary. It cannot decrypt the envelope, but its error shows
      // whether the envelope is damaged.
      const key = keyOf(scoped, header.keyId) ?? keyOf(scoped, scoped.primary);
      if (key === undefined) return undefined;
      open(stored, header, key.root, address);
      return true;
    } catch (error) {
      const { code } = requireKeywardError(error);
      isEnvelope ||= code === "KEY_MISMATCH" || code === "RECORD_TAMPERED";
    }
  }
  return isEnvelope ? false : undefined;
}

/**
 * Returns the scope of a record; `undefined` for a record without a scope, or if the function `scope` fails for this
 * record.
 */
function scopeOrNone(scopes: RecordScopes, address: RecordAddress): string | undefined {
  try {
    return scopes.of(address);
  } catch (error) {
    requireKeywardError(error);
    return undefined;
  }
}

/** Returns the scope that the key of a check record or heartbeat contains; `undefined` if the key contains no scope. */
function scopeInKey(key: string): string | undefined {
  if (key.startsWith(scopedPrefix)) return key.slice(scopedPrefix.length);
  return key.startsWith(heartbeatPrefix) ? readHeartbeatKey(key).scope : undefined;
}
