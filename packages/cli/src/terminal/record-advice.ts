import type { KeywardErrorCode } from "@keyward/core";

/** Hints for records that cannot be read, by the code of the error. */
const advice: Readonly<Partial<Record<KeywardErrorCode, string>>> = {
  KEY_UNKNOWN: "Add the key to the keyring, from a backup of the keyring. Do not remove other keys meanwhile.",
  KEY_DISABLED:
    "If the key is not compromised, enable it with `keyward keyring enable <id>`, and run the command again.",
  KEY_MISMATCH:
    "The keyring has a key with the id in these records, but with other material. Check `--scope`, and compare `--keys` " +
    "with the keys of the application.",
  RECORD_TAMPERED:
    "If the records are in a foreign format, add the former key of this format: repeat `--from`, or add the key in `accept`. " +
    "Otherwise find out who writes to the store, and restore the records from a backup.",
  RECORD_MALFORMED:
    "If the records are in a foreign format, add to the flag what the application encrypted: `--from <format>:json` or " +
    "`--from <format>:text`. Otherwise restore the records from a backup.",
  RECORD_NOT_SEALED:
    "These records are not encrypted, or in a foreign format: run `keyward migrate` with their format in `--from` or in " +
    "`accept` of the configuration.",
  ENVELOPE_UNSUPPORTED: "A later release of Keyward wrote the records: update keyward. Do not delete the records.",
};

/** Returns a line for each code of unreadable records: how many records have the code, and what to do. */
export function adviceFor(counts: ReadonlyMap<KeywardErrorCode, number>): string {
  return [...counts]
    .map(([code, count]) => `  ${count} with ${code}: ${advice[code] ?? "Look the code up in docs/errors.md."}`)
    .join("\n");
}

/**
 * Returns the line about unencrypted records in namespaces for which the keyring forbids plaintext. `migrate` never reads such
 * records as plaintext.
 */
export function adviceForForbiddenPlaintext(records: number): string {
  return (
    `  ${records} with RECORD_NOT_SEALED in a namespace in which the keyring forbids plaintext: no format reads plaintext ` +
    "there. Find out which program wrote the records: an attacker, or an application without Keyward. Stop the program, " +
    "and delete the records with `keyward record delete <key>`. Write the values that you need again through the application."
  );
}
