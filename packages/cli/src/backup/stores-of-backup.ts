import {
  type EncryptedStore,
  type Keyring,
  KeywardError,
  type RotationStatus,
  replicas,
  requiredGeneration,
  rotationStatus,
} from "@keyward/core";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";

/** The facts from the stores that an import needs before it restores a keyring from a backup. */
export interface StoresOfBackup {
  /** The highest generation that a store requires, or that a running replica uses; 0 if there is none. */
  readonly generation: number;
  /** The stores that the keyring does not belong to: it cannot decrypt their check records. */
  readonly foreign: readonly string[];
  /**
   * The stores that did not answer, each with an error code, and the stores that the keyring lists but the command does not
   * name.
   */
  readonly notAsked: readonly string[];
  /** The running rotation; `undefined` if there is none, or if its record cannot be read. */
  readonly rotation: RotationStatus | undefined;
}

/**
 * Collects facts from the stores of the command before an import restores a keyring. Changes nothing. A store that does not
 * answer causes no error, because a keyring must be restorable while a store is down.
 *
 * @param keyring the keyring as it will be after the import. The present keyring may be unable to decrypt the check records
 * of the stores.
 * @throws CommandError `USAGE` if the command line or the configuration describes a store wrongly.
 */
export async function askStores(context: Context, keyring: Keyring): Promise<StoresOfBackup> {
  const notAsked: string[] = [];
  const foreign: string[] = [];
  let generation = 0;
  let rotation: RotationStatus | undefined;
  const names = new Set<string>();
  const provider = { load: async () => keyring };
  const ask = async (stores: Readonly<Record<string, EncryptedStore>>) => {
    for (const [name, store] of Object.entries(stores)) {
      names.add(name);
      try {
        generation = Math.max(generation, await requiredGeneration(store), ...(await generationsInUse(store)));
      } catch (error) {
        if (!(error instanceof KeywardError)) throw error;
        if (error.code === "OVERWRITE_REFUSED") foreign.push(name);
        else notAsked.push(`${name} (${error.code})`);
      }
    }
    rotation = await rotationStatus(provider, { stores }).catch((error: unknown) => {
      // No store keeps the record of a rotation, or it is under a key that the keyring lacks.
      if (error instanceof KeywardError) return undefined;
      throw error;
    });
  };
  if (await context.namesStores()) {
    await context.withStoresUnder(provider, keyring.stores, ask, {
      failed: (name, error) => {
        if (error instanceof CommandError || !(error instanceof KeywardError)) throw error;
        names.add(name);
        notAsked.push(`${name} (${error.code})`);
      },
    });
  }
  notAsked.push(...keyring.stores.filter((name) => !names.has(name)).map((name) => `${name} (not named)`));
  return { generation, foreign, notAsked, rotation: rotation?.step === "done" ? undefined : rotation };
}

/** Returns the generations of the keyrings that running replicas use. */
async function generationsInUse(store: EncryptedStore): Promise<readonly number[]> {
  try {
    return (await replicas(store)).filter(({ lapsed }) => !lapsed).map(({ generation }) => generation);
  } catch (error) {
    // No process can register in a store without a reserved space.
    if (error instanceof KeywardError && error.code === "STORE_INVALID") return [];
    throw error;
  }
}
