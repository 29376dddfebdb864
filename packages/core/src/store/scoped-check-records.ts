import { keyIdIn } from "../envelope/header.ts";
import { KeywardError } from "../errors/errors.ts";
import { type Keyring, keyOf } from "../keyring/keyring.ts";
import { reservedNamespace } from "../store-interface/namespace-use.ts";
import { pages } from "../store-interface/page-size.ts";
import { type CheckRecord, type CheckRecordContent, parseCheckRecord, scopedPrefix } from "./check-record.ts";
import type { OpenedRecord } from "./record-codec.ts";

const pageSize = 1_000;

/**
 * Returns the check record of each scope in a backend. The check record of a scope shows whether a keyring that was
 * derived for this scope belongs to the store. Leaves out check records under a key that `keyring` does not contain.
 */
export async function scopedCheckRecords(unscoped: CheckRecord, keyring: Keyring): Promise<readonly CheckRecord[]> {
  const scopes = new Set<string>();
  for await (const entries of pages(unscoped.reserved, pageSize)) {
    for (const { key, value } of entries) {
      if (!key.startsWith(scopedPrefix)) continue;
      const keyId = keyIdIn(value, { namespace: reservedNamespace, key });
      // Skip unknown key ids: an attacker can write many such records, and each would make the provider load its
      // keyring.
      if (keyId !== undefined && keyOf(keyring, keyId) !== undefined) scopes.add(key.slice(scopedPrefix.length));
    }
  }
  return [...scopes].map((scope) => unscoped.forScope(scope));
}

/**
 * Returns the content of a check record if it can be trusted. Returns `undefined` if the content is malformed, or if
 * the check record of a scope contains a higher generation number than both `keyring` and the check record of the
 * store.
 *
 * A rotation raises the number in the check record of the store first, so no rotation wrote a higher number into the
 * check record of a scope. But a process that has only the keyring of a scope can write any number into the check
 * record of its scope. If that number were trusted, the process could require a generation that no keyring has, or
 * prevent the re-encryption of the check record.
 */
export async function trustedContent(
  record: CheckRecord,
  opened: OpenedRecord,
  { generation }: Keyring,
): Promise<CheckRecordContent | undefined> {
  const content = parseCheckRecord(opened);
  const { unscoped } = record;
  if (content === undefined || unscoped === undefined) return content;
  if (Math.max(content.generation, content.encryptedBy) <= generation) return content;
  const keyring = await unscoped.keyringInUse();
  if (keyring.scopeName !== undefined) return content;
  const stored = await unscoped.read(keyring);
  const limit = stored === undefined ? undefined : parseCheckRecord(await unscoped.decrypt(stored));
  const isWithinLimit =
    content.generation <= Math.max(generation, limit?.generation ?? 0) &&
    content.encryptedBy <= Math.max(generation, limit?.encryptedBy ?? 0);
  return isWithinLimit ? content : undefined;
}

/**
 * Returns whether an error means that the keyring cannot be used in a scope, because it cannot decrypt the check record
 * of the scope, or because the name of the scope is invalid.
 */
export function isUnusableScope(error: unknown): boolean {
  return error instanceof KeywardError && (error.code === "OVERWRITE_REFUSED" || error.code === "KEYRING_INVALID");
}
