import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireOptions } from "../errors/options.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { Keyring, keyOf } from "../keyring/keyring.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { type NamedStores, requireStores } from "../reencryption/named-stores.ts";
import { type LoadedKeyring, type Retirement, retireLoaded } from "../reencryption/retirement.ts";
import { canSave, saveIfPossible } from "../reencryption/saving-keyring.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { changeAtSource, type GuidedSource, type Instruct } from "./change-at-source.ts";
import { removeAtSource } from "./guided-removal.ts";
import { type ReplicaWaitOptions, ReplicaWaits } from "./replica-waits.ts";
import { requireNotInRotation } from "./retirement-check.ts";
import { requireKeyIn } from "./rotation-goal.ts";
import { requireInstruct } from "./rotation-options.ts";

/** The options of {@link retireKey}. */
export interface RetireKeyOptions extends Pick<ReplicaWaitOptions, "ignoreReplicas" | "replicasWithinMs"> {
  /**
   * The new state of the key. Default: "disabled".
   *
   * - "disabled": the key decrypts no records, and you can enable it again.
   * - "removed": the key is no longer in the keyring. Only a disabled key can be removed, except with `instruct`.
   *   Before you remove a key, export the keyring, and keep the export as long as there are backups with records under
   *   the key.
   */
  readonly to?: "disabled" | "removed";
  /**
   * If true, retires the key even if records under it cannot be decrypted with any of the given stores. The result
   * lists these records, which are lost unless you restore them. If there are such records, the call rejects unless you
   * pass a store for every scope that has a check record in the reserved space. Default: false.
   */
  readonly abandonUnreadable?: boolean;
  /**
   * A function that passes an instruction to an operator, for a provider that cannot save a keyring. After the call has
   * checked that no record needs the key, it calls this function with the instruction to remove the key at its source.
   * It then waits until no replica has the key, and counts the records again. Needs `to: "removed"`. Default: if the
   * provider cannot save, the call makes no change at the source, and the result has `saved: false`.
   */
  readonly instruct?: Instruct;
  /**
   * If the signal is aborted before the keyring is changed, the call stops, and rejects with the reason of the signal.
   */
  readonly signal?: AbortSignal;
  /** Called after each page of records with the number of records read so far in all stores. */
  readonly onProgress?: (records: number) => void;
}

const retireKeyOptionNames = {
  to: true,
  abandonUnreadable: true,
  instruct: true,
  ignoreReplicas: true,
  replicasWithinMs: true,
  signal: true,
  onProgress: true,
} as const satisfies OptionNames<RetireKeyOptions>;

/**
 * Checks that no record of any store and namespace needs a key, and disables or removes the key.
 *
 * @throws KeywardError
 * - `KEY_IN_USE`, with the counts by store, if records need the key;
 * - `STORES_MISSING` if a store that the keyring lists was not passed. With `abandonUnreadable`, also if a scope has a
 *   check record, but no store of that scope was passed;
 * - `KEY_UNKNOWN` if the keyring has no such key;
 * - `ROTATION_IN_PROGRESS` if a running rotation, whose record is in one of the given stores, makes the key the
 *   primary, or retires the key itself;
 * - `KEYRING_INVALID` if the key is the primary, or is to be removed but is enabled;
 * - `STORE_NOT_SCANNABLE` for a store without `scan`;
 * - `KEYRING_CONFLICT` if the keyring at its source was changed in the meantime;
 * - `STORE_KEYS_DIFFER` if a store still encrypts with the key;
 * - with `instruct`: `CHANGE_NEEDED` if this process must be restarted before it sees the change, and `REPLICA_BEHIND` if
 *   a replica still has the key after `replicasWithinMs`.
 * @example
 * const keyring = await keys.load();
 * await keys.save(keyring.add({ id: "2026-12" }).promote("2026-12"), keyring);
 * // When every process has loaded the changed keyring and finished its earlier writes:
 * await reencrypt(sessions);
 * await retireKey(keys, { sessions }, "2026-11");
 */
export async function retireKey(
  keys: Keyring | KeyProvider,
  stores: NamedStores,
  id: string,
  options: RetireKeyOptions = {},
): Promise<Retirement> {
  requireStores(stores);
  const { instruct, to = "disabled", signal } = requireOptions("retireKey", options, retireKeyOptionNames);
  requireInstruct(instruct);
  // Load the keyring, because the change must be made to the latest generation.
  const source = KeyringSource.of(keys);
  const keyring = await source.ask(signal);
  await requireNotInRotation({ keyring, source }, stores, id);
  if (instruct !== undefined && !(keys instanceof Keyring) && !(await canSave(keys))) {
    requireRemoval(to, id);
    return await retireAtSource({ keyring, source }, stores, id, options, { provider: keys, source, instruct, signal });
  }
  let saved = false;
  const retirement = await retireLoaded({ keyring, source }, stores, id, complete(options, false), async (next) => {
    // A rotation may have begun while the records were counted.
    await requireNotInRotation({ keyring, source }, stores, id);
    saved = await saveIfPossible(keys, next, keyring);
  });
  return { ...retirement, saved };
}

async function retireAtSource(
  loaded: LoadedKeyring,
  stores: NamedStores,
  id: string,
  options: RetireKeyOptions,
  guided: GuidedSource,
): Promise<Retirement> {
  const { signal, ignoreReplicas, replicasWithinMs } = options;
  const completed = complete(options, true);
  const waits = new ReplicaWaits(loaded.source, {
    stores,
    ...(signal === undefined ? {} : { signal }),
    ...(ignoreReplicas === undefined ? {} : { ignoreReplicas }),
    ...(replicasWithinMs === undefined ? {} : { replicasWithinMs }),
  });
  const { keyring, source } = loaded;
  const parts = Object.values(stores).map(storeParts);
  if (keyOf(keyring, id) === undefined) {
    // Without this check, the call would treat a misspelt id as a key that was removed already.
    const noted = await Promise.all(parts.map(({ generationNotice }) => generationNotice.retired(keyring)));
    // A store without a reserved space cannot keep the list of retired keys.
    const isKnown = noted.some((keys) => keys.includes(id)) || parts.every(({ reserve }) => reserve === undefined);
    if (!isKnown) requireKeyIn(keyring, id);
  } else {
    keyring.remove(id);
    await waits.wait(
      "remove",
      keyring,
      ({ primary, drained }) => primary !== id && drained,
      () => undefined,
      {
        registersLate: true,
      },
    );
    const latest = await source.refresh();
    for (const { generationNotice } of parts) await generationNotice.retire(latest, id);
  }
  let abandoned: Retirement["abandoned"] = [];
  await removeAtSource({
    keyId: id,
    loaded,
    options: { ...completed, stores },
    waits,
    onWaiting: () => undefined,
    retire: async () => {
      const change = { kind: "remove", keyId: id } as const;
      const requireCurrent = async () => await requireNotInRotation(loaded, stores, id);
      const instruct = async () => await changeAtSource(guided, change, loaded.keyring, requireCurrent);
      ({ abandoned } = await retireLoaded(loaded, stores, id, completed, instruct));
      return abandoned.length;
    },
  });
  return { keyring: await source.current(), saved: true, abandoned };
}

function complete(options: RetireKeyOptions, evenIfEnabled: boolean) {
  const { to = "disabled", abandonUnreadable = false, signal, onProgress } = options;
  return {
    to,
    evenIfEnabled,
    abandonUnreadable,
    ...(signal === undefined ? {} : { signal }),
    ...(onProgress === undefined ? {} : { onProgress }),
  };
}

function requireRemoval(to: RetireKeyOptions["to"], keyId: string): void {
  if (to === "removed") return;
  throw new KeywardError(
    "VALUE_INVALID",
    "retireKey cannot disable a key at its source, because the key provider cannot save a changed keyring",
    {
      keyId,
      hint: 'Pass `to: "removed"`. The call then counts the records that need the key. If no record needs the key, the call asks you to remove the key.',
    },
  );
}
