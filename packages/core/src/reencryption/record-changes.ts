import { isEnabled, type Keyring } from "../keyring/keyring.ts";
import type { Replacement, StoredValue } from "../store-interface/store-capabilities.ts";

/**
 * Returns whether a record may be replaced. A record under a disabled key may not, because an attacker may have forged
 * it. A record that is not encrypted may.
 */
export function mayBeReplaced(ring: Keyring, { keyId }: Change): boolean {
  return keyId === undefined || isEnabled(ring, keyId);
}

/**
 * The replacement of a record, and the id of the key that the stored record is encrypted with. `keyId` is `undefined`
 * if the stored record is not encrypted.
 */
export interface Change extends Replacement {
  readonly keyId: string | undefined;
  /** True if the change removes the record, because the record has expired. */
  readonly removes: boolean;
}

/**
 * Returns the change that removes a record. It is a replacement with an expiry in the past, so that the store drops the
 * record.
 */
export function removal(key: string, value: StoredValue, keyId: string | undefined): Change {
  // Not 0: some backends treat 0 as "does not expire".
  return { key, keyId, expected: value, next: value, expires: 1, removes: true };
}

/**
 * Increases the counts of a job: `removed` by the number of removals in `changes`, `reencrypted` by the other changes.
 */
export function addMade(changes: readonly Change[], counts: { removed: number; reencrypted: number }): void {
  for (const { removes } of changes) counts[removes ? "removed" : "reencrypted"]++;
}
