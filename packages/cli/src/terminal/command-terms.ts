// Messages and hints of functions of Keyward's packages name functions and options. An operator has commands and flags.
const terms: readonly (readonly [RegExp, string])[] = [
  [/`newKey: \{ id: "([^"]+)" \}`/g, "`--new-key $1`"],
  [/`newKey: \{ id \}`/g, "`--new-key <id>`"],
  [/`unregistered: \{ waitMs: 0 \}`/g, "`--unregistered 0s`"],
  [/`unregistered: \{ waitMs \}` with the milliseconds that/g, "`--unregistered 2m`, with the time that"],
  [/`abandonUnreadable: true`/g, "`--abandon-unreadable`"],
  [/`ignoreReplicas(?:: \[id\])?`/g, "`--ignore-replica <id>`"],
  [/`replicasWithinMs`/g, "`--replicas-within`"],
  [/`graceMs`/g, "`--grace`"],
  [/`until`/g, "`--until`"],
  [/`scope`/g, "`--scope`"],
  [/`order: "([a-z-]+)"`/g, "`--order $1`"],
  [/`rotateKey`/g, "`keyward rotate`"],
  [/`rollBackRotation`/g, "`keyward rollback`"],
  [/`revokeKey`/g, "`keyward revoke`"],
  [/`revocationCost`/g, "`keyward revoke` without `--order`"],
  [/`?retireKey`?( with `to: "disabled"`)?/g, "`keyward retire`"],
  [/[Rr]un this call again|[Rr]epeat (?:the|this) call/g, "run the command again"],
  [
    /`overwriteCheckRecord\(\)` of the EncryptedStore \(`keyv\.encryptedStore`\)/g,
    "`overwriteCheckRecord()` in a program",
  ],
  [
    /Use the existing keyring with `load\(\)`, and change it with `save\(\)`\./g,
    "Use the existing keyring: `keyward keyring show`.",
  ],
  [
    /Load the keyring again, repeat your change in the loaded keyring, and save the result\./g,
    "Run the command again, which loads the keyring again.",
  ],
  [/keyring\.enable\("([^"]+)"\)/g, "`keyward keyring enable $1`"],
  [/Promote another key first\./g, "Make another key the primary first: `keyward rotate`."],
  [
    /run `reencrypt` over the stores, with `plaintext\(\)` in their option `accept`/g,
    "run `keyward migrate --from plaintext --encrypt`",
  ],
  [
    /`unreadableRecords` in the report of `reencrypt` lists these records/g,
    "`keyward migrate --from plaintext` counts these records by their form",
  ],
  [/`reencrypt`/g, "`keyward reencrypt`"],
  [/`maxBytesInMemory`|limits\.maxBytesInMemory/g, "`--max-bytes-in-memory`"],
  [/`maxBodyBytes`, `maxAnswerBytes` or `maxValueBytes`/g, "`--max-value-bytes`"],
  [/The option "basePath" of createKvHandler/g, "`--base-path`"],
  [/omit basePath to mount the handler at the root/g, "omit `--base-path`"],
  [/`createApiKey\(\)`/g, "`keyward-kv tenants add`"],
];

/** Returns a message or hint in the terms of the command line. */
export function inCommandTerms(text: string): string {
  return terms.reduce((changed, [term, flag]) => changed.replace(term, flag), text);
}
