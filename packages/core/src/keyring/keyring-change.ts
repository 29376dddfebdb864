import { isEnabled, type Keyring, keyOf } from "./keyring.ts";

/**
 * One change of a keyring that a rotation needs. If the key provider cannot save a keyring, an operator makes the
 * change at the source of the keys.
 */
export type KeyringChange = {
  /** The id of the key that is added, promoted or removed. */
  readonly keyId: string;
} & (
  | {
      /**
       * "add": adds a new key, which decrypts records but is not the primary yet. "remove": removes the key.
       */
      readonly kind: "add" | "remove";
    }
  | {
      /**
       * "promote": makes the key the primary, and keeps the former primary. "replace": makes the key the primary and
       * removes the key `former`, both at the same time.
       */
      readonly kind: "promote" | "replace";
      /** The id of the former primary; with "replace", the id of the key that is removed. */
      readonly former: string;
    }
);

/** An instruction to an operator: how to make a {@link KeyringChange} at the source of the keys. */
export interface ChangeInstruction {
  /** The instruction for the operator. Contains ids and paths, but never key material. */
  readonly text: string;
  /**
   * True if a running process keeps its keys until it is restarted, as with environment variables. If true, the process
   * that runs the rotation loads the change only after a restart, too.
   */
  readonly needsRestart: boolean;
}

/** Returns whether the operator has made the change. `keyring` was loaded from the source of the keys. */
export function isMade(change: KeyringChange, keyring: Keyring): boolean {
  switch (change.kind) {
    case "add":
      return isEnabled(keyring, change.keyId);
    case "promote":
      return keyring.primary === change.keyId;
    case "remove":
      return keyOf(keyring, change.keyId) === undefined;
    case "replace":
      return keyring.primary === change.keyId && !isEnabled(keyring, change.former);
  }
}

/**
 * Returns the instruction for a key provider without the method `describeChange`. The instruction does not name the
 * file or secret to change.
 *
 * @param advice the end of the instruction: message and hint of the error with which `requireWritable` of the provider
 * rejects; "" without such an error.
 */
export function describeChange(change: KeyringChange, advice: string): ChangeInstruction {
  const text = `At the source from which the key provider loads the keys: ${wordsFor(change)}${advice}`;
  return { text, needsRestart: false };
}

function wordsFor(change: KeyringChange): string {
  switch (change.kind) {
    case "add":
      return `add a new key with the id "${change.keyId}", and do not make it the primary yet. Keep every other key.`;
    case "promote":
      return `make key "${change.keyId}" the primary. Keep key "${change.former}", which records still need.`;
    case "remove":
      return `remove key "${change.keyId}".`;
    case "replace":
      return `make key "${change.keyId}" the primary and remove key "${change.former}", both in one change.`;
  }
}
