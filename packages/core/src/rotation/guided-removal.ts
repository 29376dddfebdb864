import { KeywardError } from "../errors/errors.ts";
import { keyOf } from "../keyring/keyring.ts";
import type { NamedStores } from "../reencryption/named-stores.ts";
import type { LoadedKeyring } from "../reencryption/retirement.ts";
import { hasKeyId } from "../store/heartbeat.ts";
import type { ReplicaWaits, WaitingReplica } from "./replica-waits.ts";
import { countUnder } from "./rotation-plan.ts";

/** The arguments of {@link removeAtSource}, for a key that an operator removes at the source of the keys. */
export interface GuidedRemoval {
  readonly keyId: string;
  /** The keyring before the removal, and its source. */
  readonly loaded: LoadedKeyring;
  readonly options: {
    readonly stores: NamedStores;
    readonly abandonUnreadable?: boolean;
    readonly signal?: AbortSignal;
  };
  readonly waits: ReplicaWaits;
  /**
   * Checks that no record needs the key, instructs the operator, and waits until this process sees the removal. Returns
   * the number of records that were abandoned.
   */
  readonly retire: () => Promise<number>;
  readonly onWaiting: (replicas: readonly WaitingReplica[]) => void;
}

/**
 * Lets an operator remove a key at the source of the keys. Then waits until no replica has the key, and counts the
 * records under the key again. If the key was already removed at the source, only waits and counts.
 *
 * @throws KeywardError `KEY_IN_USE` if records need the key; `REPLICA_BEHIND` if a replica keeps the key for too long.
 */
export async function removeAtSource({
  keyId,
  loaded: { keyring, source },
  options: { stores, abandonUnreadable, signal },
  waits,
  retire,
  onWaiting,
}: GuidedRemoval): Promise<void> {
  const abandoned = keyOf(keyring, keyId) === undefined ? undefined : await retire();
  const changed = await source.refresh();
  await waits.wait("remove", changed, ({ keys }) => keys !== undefined && !hasKeyId(keys, keyId), onWaiting, {
    registersLate: true,
  });
  // An earlier run may have abandoned records. This run does not know how many.
  if (abandonUnreadable === true && abandoned === undefined) return;
  const counts = await countUnder(stores, (id) => id === keyId, signal);
  const left = Object.entries(counts).filter(([, count]) => count > 0);
  // The records that were abandoned are still under the key.
  if (left.reduce((sum, [, count]) => sum + count, 0) <= (abandoned ?? 0)) return;
  throw new KeywardError(
    "KEY_IN_USE",
    `Key "${keyId}" was removed at its source, but records need it: ${left.map(([name, count]) => `${count} in ${name}`).join(", ")}`,
    {
      keyId,
      counts: Object.fromEntries(left),
      hint:
        `Put key "${keyId}" back at its source, but not as the primary. Then run this call again, which ` +
        "re-encrypts the records. If a process still has the former keys and writes under this key, end that " +
        "process first. If the key is " +
        "compromised, do not put it back: delete the records, because an attacker may have forged them.",
    },
  );
}
