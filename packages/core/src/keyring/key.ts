import { randomBytes } from "node:crypto";
import { RootKey, rootBytes } from "../envelope/root-key.ts";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireOptions } from "../errors/options.ts";

/** The status of a key: an "enabled" key decrypts, a "disabled" key is still in the keyring but decrypts nothing. */
export type KeyStatus = "enabled" | "disabled";

/** A key in a keyring, without its key material: id, status and creation date. */
export interface KeyInfo {
  /** The id of the key. Each record contains the id of the key that encrypted it. */
  readonly id: string;
  /** The status of the key. An "enabled" key can decrypt records, a "disabled" key cannot. */
  readonly status: KeyStatus;
  /** When the key was made, in ISO 8601. Absent if the source of the key does not record it. */
  readonly created?: string;
}

/** A key to add to a keyring. */
export interface NewKey {
  /**
   * The id of the key: 1 to 32 characters of `[A-Za-z0-9_-]`. Default: "k" and 15 hex digits that are derived from the
   * material.
   */
  readonly id?: string;
  /** The key material, 32 bytes. Default: random bytes. */
  readonly material?: Uint8Array;
  /** The status that the key gets when it is added to the keyring. Default: "enabled". */
  readonly status?: KeyStatus;
  /** When the key was made, in ISO 8601. Default: the present time; absent if `material` is given. */
  readonly created?: string;
}

/** The name of every field of a {@link NewKey}. Not part of the public surface. */
export const newKeyOptionNames = {
  id: true,
  material: true,
  status: true,
  created: true,
} as const satisfies OptionNames<NewKey>;

/** A key in a keyring, with the root that contains its key material. Not part of the public surface. */
export interface RingKey extends KeyInfo {
  readonly root: RootKey;
}

const maxKeyIdLength = 32;
const keyIdPattern = /^[A-Za-z0-9_-]{1,32}$/;
/** An example of a creation date, for error messages and hints. */
export const exampleDate = "2026-11-01T00:00:00.000Z";
/** The last sentence of a hint, for a caller who needs a new key. */
export const makeAKey = "To make a new key, run `openssl rand -base64 32`.";
const restoreKey =
  "If records were written under this key, restore the whole key, because a new key decrypts none of them. Only if no record was written yet, make a new key with `openssl rand -base64 32`.";

/**
 * Checks a key from a caller or from a keyring document, and copies its material.
 *
 * @throws KeywardError `KEY_INVALID` if the id, material, status or creation date of the key is not valid.
 */
export function toRingKey(key: NewKey & { readonly material: Uint8Array }): RingKey {
  const { material, status = "enabled", created } = key;
  if (key.id !== undefined) requireKeyId(key.id, "The id of a key");
  const name = key.id === undefined ? "A key" : `Key "${key.id}"`;
  if (!(material instanceof Uint8Array) || material.length !== rootBytes) {
    const found = material instanceof Uint8Array ? `${material.length} bytes` : `a ${typeof material}`;
    throw new KeywardError("KEY_INVALID", `${name} has material of ${found}, but must have ${rootBytes} bytes`, {
      keyId: key.id,
      hint: restoreKey,
    });
  }
  if (material.every((byte) => byte === material[0])) {
    throw new KeywardError(
      "KEY_INVALID",
      `${name} consists of the same byte ${rootBytes} times, so it is a placeholder and not a key`,
      {
        keyId: key.id,
        hint: makeAKey,
      },
    );
  }
  if (!isKeyStatus(status)) {
    throw new KeywardError("KEY_INVALID", `${name} has a status that is neither "enabled" nor "disabled"`, {
      keyId: key.id,
      hint: 'Set the status to "enabled", or to "disabled" if the key was disabled on purpose.',
    });
  }
  if (created !== undefined && !isDate(created)) {
    throw new KeywardError("KEY_INVALID", `${name} has a creation date that cannot be read`, {
      keyId: key.id,
      hint: `Write the date in the form ${exampleDate}.`,
    });
  }
  const root = new RootKey(material);
  return { id: key.id ?? root.defaultId, status, ...(created === undefined ? {} : { created }), root };
}

/**
 * Checks the key that a rotation is to add, before the rotation begins, and returns it.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but an object with the fields of a {@link NewKey}, and for a disabled
 * key; `KEY_INVALID` for an id, material or date that is not valid.
 */
export function requireNewKey(newKey: NewKey): NewKey {
  requireOptions("newKey", newKey, newKeyOptionNames);
  const { material = randomBytes(rootBytes), ...rest } = newKey;
  if (toRingKey({ ...rest, material }).status === "enabled") return newKey;
  throw new KeywardError(
    "VALUE_INVALID",
    "The new key of the rotation is disabled, but only an enabled key can become primary",
    {
      hint: "Omit `status` in the option `newKey`.",
    },
  );
}

/** Returns whether a value is a status of a key. */
export function isKeyStatus(status: unknown): status is KeyStatus {
  return status === "enabled" || status === "disabled";
}

/** Returns whether a value is a string that `Date.parse` accepts, as the creation date of a key must be. */
export function isDate(text: unknown): text is string {
  return typeof text === "string" && !Number.isNaN(Date.parse(text));
}

/** Returns whether a value can be the id of a key. Not part of the public surface. */
export function isKeyId(id: unknown): boolean {
  return typeof id === "string" && keyIdPattern.test(id);
}

/**
 * Checks that a value can be the id of a key.
 *
 * @param what The subject of the error message, such as "The id of a key".
 * @throws KeywardError `KEY_INVALID` if the value is not a string of 1 to 32 characters of `[A-Za-z0-9_-]`.
 */
export function requireKeyId(id: unknown, what: string): void {
  if (isKeyId(id)) return;
  // The id itself is not shown: it may be misplaced key material.
  const problem =
    typeof id !== "string"
      ? `is not a string, but of type ${typeof id}`
      : id.length < 1 || id.length > maxKeyIdLength
        ? `has ${id.length} characters, where 1 to ${maxKeyIdLength} are allowed`
        : "has a character other than A-Z a-z 0-9 _ -";
  throw new KeywardError("KEY_INVALID", `${what} ${problem}`, {
    hint: "If the key is new, choose an id such as 2026-11. If records were written under the key, restore the id that the key had when they were written, because each record contains the id of its key.",
  });
}

/**
 * Describes a key id for an error message. In the message, the description follows the word "key", as in `key
 * "2026-11"` or `key whose id has 44 characters`.
 *
 * For a string that cannot be a key id, the description contains only the length of the string, because the string may
 * be misplaced key material.
 */
export function shownId(id: unknown): string {
  if (typeof id !== "string") return "whose id is not a string";
  return isKeyId(id) ? `"${id}"` : `whose id has ${id.length} characters`;
}

/** Throws the error for a value that is not a Keyring: JavaScript code, which has no type check, may pass any value. */
export function refuseKeyring(given: unknown): never {
  throw new KeywardError("VALUE_INVALID", `A Keyring was expected, but a value of type ${typeof given} was passed`, {
    hint: "Pass a Keyring. If the value is a Keyring, two copies of @keyward/core are installed: `npm ls @keyward/core` lists them. Make the keyring with the copy that throws this error. If you called `save`, pass the changed keyring and then the keyring before the change.",
  });
}
