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

// How many envelopes, and how many pages, are looked at in each of the reserved space and the store.
const maxEnvelopes = 100;
const maxPages = 10;

/**
 * Returns true if a store that has no check record contains envelopes, but `keyring` decrypts none of them. In this
 * case the check record was deleted, and the records were written with another keyring. Only the first envelopes, about
 * 100, are tried.
 *
 * @param scopes the scopes of the records, because the backend may contain only records that have a scope.
 */
export async function hasRecordsOfAnotherKeyring(
  { store, reserved, unscoped }: CheckRecord,
  keyring: Keyring,
  scopes: RecordScopes,
): Promise<boolean> {
  // A process with the keyring of one scope cannot decrypt the records of other scopes, and is not meant to.
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
    // A process that may not scan the store, or cannot scan it now, creates the check record without this test.
    if (error instanceof KeywardError) return false;
    throw error;
  }
}

/**
 * Returns the error for a store that has no check record, if `keyring` decrypts none of the envelopes that were tried.
 */
export function notDecryptable(store: string, keyring: Keyring): KeywardError {
  const problem = `${store} contains records but no check record, and this keyring decrypts none of the records that were tried`;
  return new KeywardError("OVERWRITE_REFUSED", `Nothing was written: ${problem}; this process has ${keysIn(keyring)}`, {
    hint: wrongKeyringHint,
  });
}

/**
 * Returns whether a keyring decrypts an envelope in one of these scopes; `undefined` for anything but a whole envelope.
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
      // An envelope under an unknown encryption key is tried with the primary, which only shows whether the envelope is
      // whole.
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

/** Returns the scope of a record; `undefined` also if the function `scope` has no valid result for the record. */
function scopeOrNone(scopes: RecordScopes, address: RecordAddress): string | undefined {
  try {
    return scopes.of(address);
  } catch (error) {
    requireKeywardError(error);
    return undefined;
  }
}

/** Returns the scope in the key of a check record or heartbeat; `undefined` if the key names no scope. */
function scopeInKey(key: string): string | undefined {
  if (key.startsWith(scopedPrefix)) return key.slice(scopedPrefix.length);
  return key.startsWith(heartbeatPrefix) ? readHeartbeatKey(key).scope : undefined;
}
