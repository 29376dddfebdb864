import type { Keyring, KeyStatus } from "@keyward/core";

/** A keyring as `--json` prints it, without key material. */
export interface KeyringResult {
  readonly name: string;
  readonly generation: number;
  /** The id of the key that encrypts. */
  readonly primary: string;
  readonly keys: readonly KeyResult[];
  /** The names of the stores that the keyring lists. */
  readonly storeNames: readonly string[];
  /** The namespaces in which plaintext is refused. */
  readonly encryptedNamespaces: readonly string[];
}

/** A key of a keyring as `--json` prints it. */
export interface KeyResult {
  readonly id: string;
  readonly status: KeyStatus;
  /** When the key was made, in milliseconds since the epoch; `null` if the source of the keys does not record the time. */
  readonly createdAtMs: number | null;
}

/** Returns a keyring as `--json` prints it. */
export function keyringResult({
  name,
  generation,
  primary,
  keys,
  stores,
  encryptedNamespaces,
}: Keyring): KeyringResult {
  return {
    name,
    generation,
    primary,
    keys: keys.map(({ id, status, created }) => ({
      id,
      status,
      createdAtMs: created === undefined ? null : Date.parse(created),
    })),
    storeNames: stores,
    encryptedNamespaces,
  };
}
