import { KeywardError } from "../errors/errors.ts";
import { requireAmount } from "../errors/options.ts";
import { exportKeyring, Keyring, keyOf, sharesKey } from "./keyring.ts";
import { invalidKeyring } from "./keyring-document.ts";

/**
 * Returns a copy of a keyring with a generation number of at least `least`. Returns `ring` itself if its generation
 * number is already that high.
 *
 * Use this function for a keyring that you restore from a backup. A process refuses a keyring whose generation is lower
 * than that of the keyring it used before. A replica refuses a keyring whose generation is lower than {@link
 * requiredGeneration} of a store.
 *
 * @throws KeywardError `VALUE_INVALID` if `least` is not an integer of at least 1; `KEYRING_INVALID` for a keyring without
 * keys.
 * @example
 * const backup = Keyring.generate("2026-11");
 * console.log(withGeneration(backup, 7).generation); // 7
 */
export function withGeneration(ring: Keyring, least: number): Keyring {
  requireAmount("least", least, "generations", { most: Number.MAX_SAFE_INTEGER });
  return ring.generation >= least ? ring : changed(ring, { generation: least });
}

/**
 * Returns a copy of `ring`, to which the keys were added that are only in `backup`. The copy has the primary of `ring`,
 * and each key of `ring` keeps its status. Returns `ring` itself if it has all keys of `backup`.
 *
 * The status of an added key depends on which keyring is later:
 *
 * - If `backup` shares a key with `ring` and has a higher generation number, `ring` is from before the backup. In this
 *   case, each added key keeps the status that it has in `backup`.
 * - Otherwise the keys may have been removed from `ring` after the backup. In this case, each key is added as a
 *   disabled key: enable a key only if records need the key and the key is not compromised.
 *
 * @returns a keyring whose generation number is one higher than the higher number of `ring` and `backup`.
 * @throws KeywardError `KEYRING_CONFLICT` if a key has other material in `backup` than in `ring`; `KEYRING_INVALID` if
 * both have the same material under different ids, if one of them is derived for a scope, or if one has no keys.
 * @example
 * const first = Keyring.generate("2026-11");
 * const later = first.add({ id: "2026-12" }).promote("2026-12").remove("2026-11");
 * console.log(`${withKeysOf(later, first)}`); // 2026-12 primary, 2026-11 disabled
 */
export function withKeysOf(ring: Keyring, backup: Keyring): Keyring {
  if (ring.scopeName !== undefined || backup.scopeName !== undefined) {
    throw invalidKeyring(
      "the keys of a keyring that is derived for a scope are not the keys of the whole keyring",
      "Use the backup of the keyring that is not derived for a scope.",
    );
  }
  for (const { id } of backup.keys) requireSameMaterial(ring, backup, id);
  const missing = backup.keys.filter(({ id }) => keyOf(ring, id) === undefined).map(({ id }) => id);
  if (missing.length === 0) return ring;
  // The generation numbers of unrelated keyrings cannot be compared.
  const isLater = backup.generation > ring.generation && sharesKey(ring, backup);
  const added = fieldsOf(backup)
    .keys.filter(({ id }) => missing.includes(String(id)))
    .map((key) => (isLater ? key : { ...key, status: "disabled" }));
  return changed(ring, {
    generation: Math.max(ring.generation, backup.generation) + 1,
    keys: [...fieldsOf(ring).keys, ...added],
  });
}

function requireSameMaterial(ring: Keyring, backup: Keyring, id: string): void {
  const [one, other] = [keyOf(ring, id)?.root.commitment, keyOf(backup, id)?.root.commitment];
  if (one === undefined || other === undefined || one.equals(other)) return;
  throw new KeywardError("KEYRING_CONFLICT", `Key "${id}" has other material in the backup than in the keyring`, {
    keyId: id,
    hint:
      "The two keyrings belong to different applications, or the key was replaced without a new id. Use a backup of the current " +
      `keyring. If records need key "${id}" of the backup, read them in a separate program that uses the backup as its keyring.`,
  });
}

type Fields = Readonly<Record<string, unknown>>;

/** Returns the fields of the keyring document, including the key material and the fields of other programs (`x-…`). */
function fieldsOf(ring: Keyring): Fields & { readonly keys: readonly Fields[] } {
  return JSON.parse(exportKeyring(ring));
}

/** Returns a copy of a keyring in whose document `fields` are replaced. Makes the same checks as `Keyring.parse`. */
function changed(ring: Keyring, fields: Fields): Keyring {
  return Keyring.parse(JSON.stringify({ ...fieldsOf(ring), ...fields }));
}
