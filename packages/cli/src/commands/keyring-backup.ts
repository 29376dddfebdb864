import { exportKeyring, type KeyProvider, type Keyring, KeywardError, withGeneration, withKeysOf } from "@keyward/core";
import { readBackup } from "../backup/backup-file.ts";
import { encryptBackup } from "../backup/encrypted-backup.ts";
import { newPassphrase } from "../backup/passphrase.ts";
import { askStores, type StoresOfBackup } from "../backup/stores-of-backup.ts";
import type { Context } from "../context.ts";
import { requireNothingAt, writeNewFile } from "../files/new-file.ts";
import { keyringResult } from "../results/keyring-result.ts";
import { saveChanged } from "./changed-keyring.ts";

/** The options of `keyward keyring export`. */
export interface ExportOptions {
  readonly passphrase: boolean;
  readonly passphraseFile?: string;
}

/**
 * Writes a backup of the whole keyring into a new file, which only its owner can read.
 *
 * @throws KeywardError `KEYRING_CONFLICT` if the file exists; CommandError `USAGE` for a passphrase that is too short; the
 * errors of the provider.
 */
export async function exportToFile(context: Context, file: string, options: ExportOptions): Promise<void> {
  const { output, operator, signal } = context;
  await requireNothingAt(file);
  const keyring = await (await context.keys()).load({ signal });
  if (keyring.scopeName !== undefined) {
    const problem = "A backup needs the whole keyring, and the source of the keys has only the keyring of a scope";
    throw new KeywardError("KEYRING_INVALID", problem, {
      hint: "Export the whole keyring, from which the keyring of the scope was derived.",
    });
  }
  const document = exportKeyring(keyring);
  const encrypted = options.passphrase || options.passphraseFile !== undefined;
  const backup = encrypted
    ? await encryptBackup(document, await newPassphrase(operator, options.passphraseFile))
    : document;
  signal.throwIfAborted();
  await writeNewFile(file, `${backup}\n`);
  const protection = encrypted
    ? "Only the passphrase decrypts it, so keep the passphrase in another place."
    : "The file is not encrypted, so anyone who can read it can decrypt the records: keep it apart from the stores.";
  output.result(`The keyring is in ${file}, with ${countOf(keyring.keys.length)}. ${protection}`, {
    file,
    encrypted,
    keyring: keyringResult(keyring),
  });
}

/** The options of `keyward keyring import`. */
export interface ImportOptions {
  readonly passphraseFile?: string;
}

/**
 * Restores a backup. If the source has no keyring, saves the backup there. Otherwise adds the keys that the keyring lacks.
 *
 * @throws KeywardError `KEYRING_CONFLICT` if a key has other material in the backup; `ROTATION_IN_PROGRESS`;
 * `PROVIDER_READ_ONLY`; CommandError `NOT_CONFIRMED`, `PASSPHRASE_WRONG`, `USAGE`; the errors of the provider.
 */
export async function importFromFile(context: Context, file: string, { passphraseFile }: ImportOptions): Promise<void> {
  const backup = await readBackup(context, file, passphraseFile);
  const provider = await context.keys();
  const present = await loadIfAny(provider, context.signal);
  if (present instanceof KeywardError) await restoreWhole(context, provider, backup, present);
  else await addMissing(context, provider, backup, present);
}

async function restoreWhole(
  context: Context,
  provider: KeyProvider,
  backup: Keyring,
  loadFailure: KeywardError,
): Promise<void> {
  const { output, operator, signal } = context;
  if (provider.create === undefined) {
    throw new KeywardError("PROVIDER_READ_ONLY", "This source of keys cannot save a keyring", {
      hint: `The backup was not restored. Write its keys to the source yourself. If the source accepts a keyring document, make a backup that has no passphrase, and write its text to the source. ${loadFailure.hint}`,
    });
  }
  const stores = await askStores(context, backup);
  if (stores.foreign.length > 0) {
    await operator.confirm(
      `The keys of the backup cannot decrypt the check records of ${stores.foreign.join(", ")}: the backup is from before a rotation, or of another application. With this keyring, no process would be able to write to these stores.`,
    );
  }
  reportNotAsked(context, stores);
  const restored = raised(backup, stores);
  signal.throwIfAborted();
  await create(provider, restored, loadFailure);
  if (restored !== backup) {
    output.notice(
      `The backup has generation ${backup.generation}, but a store or a replica already uses generation ${stores.generation}. Therefore, the keyring now has generation ${restored.generation}. If a key was disabled or removed after the backup, disable the key again.`,
    );
  }
  if (stores.rotation !== undefined) {
    output.notice(`A rotation is in progress, at step ${stores.rotation.step}: \`keyward status\`.`);
  }
  const { primary, keys } = restored;
  output.result(`The keyring was restored, with ${countOf(keys.length)}. Its primary is key "${primary}".`, {
    restored: true,
    changed: true,
    addedKeyIds: keys.map(({ id }) => id),
    keyring: keyringResult(restored),
  });
}

async function addMissing(context: Context, provider: KeyProvider, backup: Keyring, present: Keyring): Promise<void> {
  const { output, operator, signal } = context;
  const idsBefore = new Set(present.keys.map(({ id }) => id));
  const merged = withKeysOf(present, backup);
  const added = merged.keys.filter(({ id }) => !idsBefore.has(id));
  const ids = added.map(({ id }) => id);
  if (added.length === backup.keys.length) {
    await operator.confirm(
      "The backup shares no key with the keyring at the source: the backup is from before a rotation, or of another application. The keys of the backup would be added, disabled.",
    );
  }
  const stores = await askStores(context, merged);
  requireNoRotation(stores, ids);
  reportNotAsked(context, stores);
  const next = raised(merged, stores);
  signal.throwIfAborted();
  if (next !== present) {
    const atSource =
      added.length === 0
        ? `Set the generation of the keyring document to ${next.generation}.`
        : `Add these keys of the backup where the source keeps its keys: ${ids.join(", ")}. Do not change the primary.`;
    await saveChanged(provider, next, present, atSource);
  }
  const lines = added.map(({ id, status }) =>
    status === "enabled"
      ? `Key "${id}" was added.`
      : `Key "${id}" was added, disabled. If records need it and it is not compromised: \`keyward keyring enable ${id}\`.`,
  );
  if (lines.length === 0) lines.push("The keyring has every key of the backup already.");
  if (next !== merged) lines.push(`The generation is ${next.generation} now, which the stores accept.`);
  output.result(lines.join("\n"), {
    restored: false,
    changed: next !== present,
    addedKeyIds: ids,
    keyring: keyringResult(next),
  });
}

/**
 * Loads the keyring at the source. Returns the error of the load if the source has no keyring, and also if it does not
 * answer: only `create` shows which of the two is the case.
 */
async function loadIfAny(provider: KeyProvider, signal: AbortSignal): Promise<Keyring | KeywardError> {
  try {
    return await provider.load({ signal });
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    if (error.code === "PROVIDER_UNAVAILABLE") return error;
    throw new KeywardError(error.code, error.message, {
      keyId: error.keyId,
      hint: `To restore the backup in place of the keys at the source, first move those keys to another place. Do not delete those keys. Otherwise: ${error.hint}`,
    });
  }
}

async function create(provider: KeyProvider, keyring: Keyring, loadFailure: KeywardError): Promise<void> {
  try {
    await provider.create?.(keyring);
  } catch (error) {
    // The source has a keyring, which could not be loaded.
    if (error instanceof KeywardError && error.code === "KEYRING_CONFLICT") throw loadFailure;
    throw error;
  }
}

/** Returns the keyring with a generation that the stores accept. */
function raised(keyring: Keyring, { generation }: StoresOfBackup): Keyring {
  // A keyring of an equal generation may have other content, so only the next generation is later for every process.
  return keyring.generation >= generation ? keyring : withGeneration(keyring, generation + 1);
}

function reportNotAsked({ output }: Context, { notAsked }: StoresOfBackup): void {
  if (notAsked.length === 0) return;
  output.notice(
    `These stores were not asked which generation they require: ${notAsked.join(", ")}. If processes refuse the keyring (KEYRING_ROLLBACK), run the same command again with these stores.`,
  );
}

function requireNoRotation({ rotation }: StoresOfBackup, missing: readonly string[]): void {
  if (rotation === undefined) return;
  const { from, to, step } = rotation;
  // The rotation cannot be finished without its keys, so an import that adds one of these keys is allowed.
  if (missing.includes(from) || missing.includes(to)) return;
  throw new KeywardError(
    "ROTATION_IN_PROGRESS",
    `A rotation from key "${from}" to "${to}" is in progress, at step ${step}`,
    {
      keyId: from,
      hint: "Finish the rotation with `keyward rotate --resume`, or undo it with `keyward rollback`. Then import the backup.",
    },
  );
}

function countOf(keys: number): string {
  return keys === 1 ? "1 key" : `${keys} keys`;
}
