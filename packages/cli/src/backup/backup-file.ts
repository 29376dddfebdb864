import { fileLocation, Keyring, KeywardError } from "@keyward/core";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";
import { decryptBackup, isEncryptedBackup } from "./encrypted-backup.ts";
import { existingPassphrase } from "./passphrase.ts";

/**
 * Reads the keyring in a backup file, and checks all of its content, because an attacker may have written the file.
 *
 * @param passphraseFile the file with the passphrase of an encrypted backup; `undefined` to ask the operator.
 * @throws CommandError `USAGE` if the file does not exist, if it is not encrypted although a passphrase was given, or if the
 * passphrase is missing; `PASSPHRASE_WRONG`; KeywardError `KEYRING_INVALID`, `KEY_INVALID`, `PROVIDER_UNAVAILABLE`.
 */
export async function readBackup(
  { operator }: Pick<Context, "operator">,
  file: string,
  passphraseFile: string | undefined,
): Promise<Keyring> {
  const text = await fileLocation(file, { shownAs: `The backup ${file}` }).read();
  if (text === undefined) {
    throw new CommandError("USAGE", `The backup ${file} does not exist`, { hint: "Correct the path of the file." });
  }
  if (!isEncryptedBackup(text)) {
    if (passphraseFile === undefined) return wholeKeyring(file, text);
    throw new CommandError("USAGE", `The backup ${file} is not encrypted, but a passphrase was given`, {
      hint: "An attacker may have replaced the encrypted backup by this file. Omit `--passphrase-file` only if you made this backup without a passphrase.",
    });
  }
  const document = await decryptBackup(text, await existingPassphrase(operator, passphraseFile));
  if (document !== undefined) return wholeKeyring(file, document);
  throw new CommandError("PASSPHRASE_WRONG", `The backup ${file} cannot be decrypted: the passphrase is wrong`, {
    hint: "Run the command again with the passphrase with which the backup was made. If the passphrase is right, the file was changed or damaged: use another copy of the backup.",
  });
}

function wholeKeyring(file: string, document: string): Keyring {
  const keyring = Keyring.parse(document);
  if (keyring.scopeName === undefined) return keyring;
  throw new KeywardError("KEYRING_INVALID", `The backup ${file} has only the keyring of a scope`, {
    hint: "Import a backup of the whole keyring, from which the keyring of the scope was derived.",
  });
}
