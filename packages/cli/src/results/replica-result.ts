import type { KeywardErrorCode, Replica } from "@keyward/core";

/**
 * A registered process as `--json` prints it. If no key decrypts its heartbeat, the properties that only the heartbeat
 * contains are `null`, and `drained` is false.
 */
export interface ReplicaResult {
  /** The name of the store in which the process is registered. */
  readonly store: string;
  readonly id: string;
  readonly name: string | null;
  readonly generation: number | null;
  readonly primary: string | null;
  readonly heldKeys: readonly HeldKey[] | null;
  readonly drained: boolean;
  /** Time of the heartbeat by the clock of the process, in milliseconds since the epoch. */
  readonly lastSeenAtMs: number | null;
  readonly leaseMs: number;
  readonly lapsed: boolean;
  /** The code of the error with which the decryption of the heartbeat fails; `null` if it can be decrypted. */
  readonly code: KeywardErrorCode | null;
}

/** A key with which a process can decrypt records. */
export interface HeldKey {
  readonly keyId: string;
  /** Digits that differ for different key material; `null` if the keyring of the process is derived for a scope. */
  readonly fingerprint: string | null;
}

/** Returns a registered process as `--json` prints it. */
export function replicaResult(store: string, replica: Replica): ReplicaResult {
  const { id, name, generation, primary, keys, drained, lastSeenMs, leaseMs, lapsed, problem } = replica;
  const told =
    problem === undefined
      ? { name, generation, primary, heldKeys: keys?.map(heldKey) ?? null, drained, lastSeenAtMs: lastSeenMs }
      : { name: null, generation: null, primary: null, heldKeys: null, drained: false, lastSeenAtMs: null };
  return { store, id, ...told, leaseMs, lapsed, code: problem ?? null };
}

function heldKey(text: string): HeldKey {
  const [keyId = "", digits = "-"] = text.split(":");
  return { keyId, fingerprint: digits === "-" ? null : digits };
}
