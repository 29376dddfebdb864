import { randomBytes } from "node:crypto";
import { type KeyInfo, Keyring, KeywardError, rotateKey } from "@keyward/core";
import { storeName } from "../configuration/store-name.ts";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";
import { keyringResult } from "../results/keyring-result.ts";
import { shownSince } from "../terminal/durations.ts";
import { table } from "../terminal/output.ts";
import { saveChanged, whyReadOnly } from "./changed-keyring.ts";
import { type RotationCommandOptions, requireReady, rotationSettings } from "./rotate.ts";

/** Shows the keys of the keyring, without their material. */
export async function showKeyring(context: Context): Promise<void> {
  const provider = await context.keys();
  const ring = await provider.load({ signal: context.signal });
  const { name, generation, primary, keys, stores } = ring;
  const rows = keys.map((key) => [key.id, key.id === primary ? "primary" : key.status, ageOf(key)]);
  const text = [
    `Keyring "${name}", generation ${generation}${stores.length === 0 ? "" : `, stores ${stores.join(", ")}`}`,
    table([["key", "status", "age"], ...rows]),
    ...(ring.encryptedNamespaces.length === 0
      ? []
      : [`Plaintext is refused in: ${ring.encryptedNamespaces.map((one) => one || "(no namespace)").join(", ")}`]),
  ].join("\n");
  context.output.result(text, { keyring: keyringResult(ring) });
}

/** The options of `keyward keyring create`. */
export interface CreateOptions {
  readonly id?: string;
  readonly stores?: string;
}

/** Saves the first keyring. */
export async function createKeyring(context: Context, { id, stores }: CreateOptions): Promise<void> {
  const provider = await context.keys();
  if (provider.create === undefined) {
    throw new KeywardError("PROVIDER_READ_ONLY", "This source of keys cannot save a keyring", {
      hint: "Use a file, a secret of AWS or Vault, or a wrapped keyring. For an environment variable, make a key with `keyward keygen`.",
    });
  }
  const names = stores?.split(",").map((name) => name.trim());
  if (names !== undefined) requireStoreNames(names);
  const exists = await provider.load({ signal: context.signal }).then(
    () => true,
    () => false,
  );
  const used = exists ? [] : await context.usedStores();
  if (used.length > 0) {
    throw new KeywardError("KEYRING_CONFLICT", `Another keyring was used with the stores ${used.join(", ")} before`, {
      hint: "A new keyring cannot decrypt their records. If the keyring was lost, restore it: `keyward keyring import <backup>`. If the configuration has the wrong source of keys or the wrong stores, correct the configuration.",
    });
  }
  const first = Keyring.generate(id ?? new Date().toISOString().slice(0, 10));
  const ring = names === undefined ? first : first.withStores(names);
  await provider.create(ring);
  context.output.result(`The keyring was saved. Its primary is key "${ring.primary}".`, {
    keyId: ring.primary,
    changed: true,
    keyring: keyringResult(ring),
  });
}

/**
 * Replaces the list of stores in the keyring by `names`. Rotations, `retire` and `revoke` need every listed store, and do not
 * count the records of other stores. If `names` lacks a store of the current list, the operator must confirm that.
 *
 * @throws CommandError `USAGE` for an ill-formed name; `NOT_CONFIRMED`; KeywardError `PROVIDER_READ_ONLY`,
 * `KEYRING_CONFLICT`; the errors of the provider.
 */
export async function listStores(context: Context, names: readonly string[]): Promise<void> {
  requireStoreNames(names);
  const known = await context.storeNames();
  const unknown = known.length === 0 ? undefined : names.find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new CommandError("USAGE", `No store is named "${unknown}"`, {
      hint: `The configuration, the environment variables or the flags name these stores: ${known.join(", ")}. Correct the name, or name the store there first.`,
    });
  }
  const provider = await context.keys();
  const keyring = await provider.load({ signal: context.signal });
  const next = keyring.withStores(names);
  const removed = keyring.stores.filter((name) => !next.stores.includes(name));
  if (removed.length > 0) {
    await context.operator.confirm(
      `The keyring would no longer list ${removed.join(", ")}, so a key could be removed although records there need the key.`,
    );
  }
  const atSource = `In the keyring document at the source of the keys, set "stores" to ${JSON.stringify(next.stores)}.`;
  await saveChanged(provider, next, keyring, atSource);
  context.output.result(`The keyring lists the stores ${next.stores.join(", ")}.`, {
    changed: true,
    keyring: keyringResult(next),
  });
}

function requireStoreNames(names: readonly string[]): void {
  const invalid = names.find((name) => !storeName.test(name));
  if (invalid === undefined) return;
  throw new CommandError("USAGE", `"${invalid}" cannot be the name of a store`, {
    hint: "A name begins with a letter, and has letters, digits, - and _ after it.",
  });
}

/** The options of `keyward keyring add`. */
export interface AddOptions {
  readonly id?: string;
}

/**
 * Adds a new key, which is enabled and not the primary.
 *
 * @throws KeywardError `CHANGE_NEEDED`, with an instruction, if the source of the keys cannot be saved; `KEY_INVALID`,
 * `KEYRING_INVALID`, `KEYRING_CONFLICT`; the errors of the provider.
 */
export async function addKey(context: Context, { id = newId() }: AddOptions): Promise<void> {
  const provider = await context.keys();
  const keyring = await provider.load({ signal: context.signal });
  const next = keyring.add({ id });
  const readOnly = await whyReadOnly(provider);
  if (readOnly !== undefined) {
    const described = await provider.describeChange?.({ kind: "add", keyId: id }, keyring);
    const generic = `Add a new key with the id "${id}" where the source of the keys is written. ${readOnly.hint}`;
    throw new KeywardError("CHANGE_NEEDED", `${readOnly.message}, so you must add key "${id}" yourself`, {
      keyId: id,
      hint: described?.text ?? generic,
    });
  }
  await provider.save?.(next, keyring);
  context.output.result(`Key "${id}" was added. A rotation continues with it: \`keyward rotate --new-key ${id}\`.`, {
    keyId: id,
    changed: true,
    keyring: keyringResult(next),
  });
}

/** The options of `keyward keyring promote`. */
export type PromoteOptions = Pick<RotationCommandOptions, "unregistered" | "replicasWithin" | "ignoreReplica">;

/**
 * Changes the primary to another key of the keyring. Runs the rotation to that key up to its step `promote`, so that every replica has
 * the key first.
 *
 * @throws KeywardError `KEY_UNKNOWN` or `KEY_DISABLED` before anything is changed; the errors of `rotateKey`.
 */
export async function promoteKey(context: Context, id: string, options: PromoteOptions): Promise<void> {
  await context.withStores(async (keys, stores) => {
    const keyring = await keys.load({ signal: context.signal });
    if (keyring.primary === id) {
      context.output.result(`Key "${id}" is the primary already.`, {
        keyId: id,
        changed: false,
        formerPrimary: null,
        keyring: keyringResult(keyring),
      });
      return;
    }
    // A rotation to an unknown key would add the key, and a rotation to a disabled key would begin and then stop.
    keyring.promote(id);
    await requireReady(stores);
    const settings = await rotationSettings(context, stores, { ...options, abandonUnreadable: false });
    const { from, to, step } = await rotateKey(keys, { ...settings, newKey: { id }, until: "promote" });
    const current = await keys.load({ signal: context.signal });
    if (current.primary !== id) {
      // The store has the record of a rotation to this key that was promoted before, under a keyring that was replaced since.
      throw new KeywardError(
        "ROTATION_IN_PROGRESS",
        `Key "${id}" is not the primary, because a rotation from key "${from}" to "${to}" is recorded at step ${step}`,
        {
          keyId: id,
          hint: "Finish that rotation: `keyward rotate --resume`. Afterwards, you can rotate to another key.",
        },
      );
    }
    const text = [
      `Key "${id}" is the primary now. Records under key "${from}" are still readable.`,
      `\`keyward rotate --new-key ${id}\` continues the rotation, and \`keyward rollback\` undoes it.`,
    ].join("\n");
    context.output.result(text, {
      keyId: id,
      changed: true,
      formerPrimary: from,
      keyring: keyringResult(current),
    });
  });
}

/**
 * Enables a disabled key, so that processes can read the records under it again.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY`, `KEY_UNKNOWN`, `KEYRING_CONFLICT`; the errors of the provider.
 */
export async function enableKey(context: Context, id: string): Promise<void> {
  const provider = await context.keys();
  const keyring = await provider.load({ signal: context.signal });
  const enabled = keyring.enable(id);
  if (keyring.keys.some((key) => key.id === id && key.status === "enabled")) {
    context.output.result(`Key "${id}" is enabled already.`, {
      keyId: id,
      changed: false,
      keyring: keyringResult(keyring),
    });
    return;
  }
  const atSource = `In the keyring document at the source of the keys, set the status of key "${id}" to "enabled".`;
  await saveChanged(provider, enabled, keyring, atSource);
  context.output.result(`Key "${id}" is enabled.`, { keyId: id, changed: true, keyring: keyringResult(enabled) });
}

/** Returns the id of a new key, as a rotation makes it: the date, and random digits that no removed key had. */
function newId(): string {
  return `${new Date().toISOString().slice(0, 10)}-${randomBytes(3).toString("hex")}`;
}

function ageOf({ created }: KeyInfo): string {
  return created === undefined ? "unknown" : shownSince(Date.parse(created));
}
