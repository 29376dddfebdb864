// Messages and hints of Keyward's packages name functions and options. An operator needs the commands and flags instead.
type Terms = readonly (readonly [term: RegExp, inCommands: string])[];

// Whole sentences that only a program can follow. They are replaced first, because later patterns match parts of them.
const sentences: Terms = [
  [
    /If encrypted records exist, mount the key that encrypted these records, because a new key cannot decrypt these records\. If no encrypted records exist yet, make a first key with `openssl rand -base64 32`\./g,
    "If encrypted records exist, restore their keyring from a backup with `keyward keyring import <file>`, or mount the key that encrypted these records, because a new key cannot decrypt these records. If no encrypted records exist yet, run `keyward keyring create`.",
  ],
  [/`unregistered: \{ waitMs \}` with the milliseconds that/g, "`--unregistered 2m`, with the time that"],
  [
    /Use the existing keyring with `load\(\)`, and change (?:it|the keyring) with `save\(\)`\./g,
    "Use the existing keyring: `keyward keyring show`.",
  ],
  [
    /Load the keyring again, repeat your change in the loaded keyring, and save the result\./g,
    "Run the command again, which loads the keyring again.",
  ],
  [
    /Use a provider that has `save\(\)`\. If you cannot, pass the option `instruct` to the rotation: the rotation then/g,
    "Use a source of keys that can be saved. If you cannot, use `keyward rotate` to change the keys, which",
  ],
  [
    /To rotate the key now, pass the option `instruct` to the rotation, which then guides/g,
    "To rotate the key now, run `keyward rotate`, which guides",
  ],
  [
    /Write the document that `exportKeyring\(\)` returns for the keyring in use to this file, and pass its path to `fileKeys`\./g,
    "Write the keyring into this file with `keyward keyring export`, and use the file as the source of the keys.",
  ],
  [
    /If there is no backup, call `exportKeyring\(\)` in a process that has loaded the keyring, and write the result to the file\./g,
    "If there is no backup, do not stop the processes that have loaded the keyring: only a program in one of them can write it to the file.",
  ],
  [
    /replace the key in the secret by the text that `exportKeyring\(await keys\.load\(\)\)` returns/g,
    "replace the key in the secret by the text of the file that `keyward keyring export` writes",
  ],
  [
    /the text that `exportKeyring` returns, unchanged/g,
    "the text of a backup without a passphrase, as `keyward keyring export` writes it",
  ],
  [/(?:run|call) `(?:\w+Keys\(…\)\.create\(Keyring\.generate\(\)\)|create\(\))`/g, "run `keyward keyring create`"],
  [
    /For each key, a first call disables the key, and a second call removes it\./g,
    "For each key, run `keyward retire <id>`, and then `keyward retire <id> --remove`.",
  ],
  [/Pass `to: "removed"`\. The call then/g, "Use `keyward retire <id> --remove`. The command then"],
  [/, the call asks you/g, ", the command asks you"],
  [
    /run `reencrypt` over the stores, with `plaintext\(\)` in their option `accept`/g,
    "run `keyward migrate --from plaintext --encrypt`",
  ],
  [
    /`unreadableRecords` in the report of `reencrypt` lists these records/g,
    "`keyward migrate --from plaintext` counts these records by their form",
  ],
  [
    /If the report of `reencrypt` lists `unreadableRecords`, first/g,
    "If `keyward reencrypt` reports unreadable records, first",
  ],
  [
    /(?:Pass a store with the scope that `error\.key` contains|Pass a store for each scope\. `error\.errors` has one error)[\s\S]*$/g,
    "The errors of the functions for a rotation name these scopes: docs/rotation-functions.md#scopes.",
  ],
  [
    /Follow the hint of each error in `error\.errors`, which contains one error for each of these records\./g,
    "Read the record with `keyward record get`, and follow the hint of that error.",
  ],
  [
    /delete the record, or call allowOverwrite\(key\) of the EncryptedStore \(keyv\.encryptedStore\) and write the record again\./g,
    "delete the record with `keyward record delete`, and write it again.",
  ],
  [
    /Write the record with set\(\), or set `encryptUnauthenticated` of its format after you have verified/g,
    "Use `keyward migrate --encrypt-unauthenticated` after you have verified",
  ],
  [
    /Give this process the keyring that the store was written with\./g,
    "Use the keyring that the store was written with: `keyward keyring import` restores a backup of it, and `keyward keyring enable <id>` enables a former key again.",
  ],
  [
    /`overwriteCheckRecord\(\)` of the EncryptedStore \(`keyv\.encryptedStore`\)/g,
    "`overwriteCheckRecord()` in a program",
  ],
  [/Read `error\.cause`, the store's own error\. /g, ""],
  [/ ?(?:The property `cause` (?:has|contains) [^.]*|Read the reason in the property `cause` of this error)\. ?/g, " "],
  [/ Or pass an SDK client in the option `client`\./g, ""],
  [
    /If the backend only takes long, raise the option `timeoutMs` of `ready\(\)`\./g,
    "If it only takes long, try again.",
  ],
  [/If such transactions are expected, raise the option `busyTimeoutMs`\./g, "Then run the command again."],
  [/with `fileLocation\(path\)`/g, "with `place=file:/path`"],
  [
    /Pass the store that holds the wrapped keyring: /g,
    "Let `keys` in keyward.config.ts be a function that passes the store: ",
  ],
  [/ in the option `accept`/g, " in `accept` of the configuration"],
  [
    /Pass the certificate authority that signed the certificate in the option `ca`, or as a file whose path is in VAULT_CACERT\./g,
    "Set VAULT_CACERT to the path of a file with the certificate authority that signed the certificate.",
  ],
  [/ Or pass the certificate authorities, as a text in PEM, in the option `ca`, which replaces VAULT_CACERT\./g, ""],
  [/ Set `dangerouslyAllowHttp: true` only if [^.]*\./g, ""],
  [/`mount` in `auth`/g, "`authMount`"],
  [/ If the pod mounts the token at another path, set `jwtPath` in `auth` to this path\./g, ""],
  [/ as `tls\.ca` or in `NODE_EXTRA_CA_CERTS`/g, " in a file whose path is in `NODE_EXTRA_CA_CERTS`"],
  [/, or pass that host name as `tls\.servername`|(?:,)? or the option `(?:tls|db)`/g, ""],
  [/pass `\{ nodes: \[\{ host, port \}\] \}` to the store/g, "add `mode=cluster` to the source of the store"],
  [/ If the network path is encrypted by other means, you can set `allowPlainHttp` instead\./g, ""],
  [/the option `url` is/g, "the source of the store is"],
  [/`envKeys\("(\w+)"\)`/g, "`env:$1`"],
];

// Functions and options for which a command or a flag exists.
const names: Terms = [
  [/`newKey: \{ id: "([^"]+)" \}`/g, "`--new-key $1`"],
  [/`newKey: \{ id \}`/g, "`--new-key <id>`"],
  [/`unregistered: \{ waitMs: 0 \}`/g, "`--unregistered 0s`"],
  [/`abandonUnreadable: true`/g, "`--abandon-unreadable`"],
  [/pass the id of the replica in `ignoreReplicas`/g, "add `--ignore-replica` with its id"],
  [/`ignoreReplicas(?:: \[id\])?`/g, "`--ignore-replica <id>`"],
  [/`replicasWithinMs`/g, "`--replicas-within`"],
  [/`graceMs`/g, "`--grace`"],
  [/`until`/g, "`--until`"],
  [/If the store has the option `scope`, check that `scope` selects/g, "Check that `--scope` selects"],
  [/the option `scope`(?: of a store)?/g, "`--scope`"],
  [/`order: "([a-z-]+)"`/g, "`--order $1`"],
  [/\bcall (`?)(?=(?:rotateKey|rollBackRotation|revokeKey|retireKey|reencrypt)\b)/g, "run $1"],
  [/\bCall (`?)(?=(?:rotateKey|rollBackRotation|revokeKey|retireKey|reencrypt|revocationCost)\b)/g, "Run $1"],
  [/`rotateKey`/g, "`keyward rotate`"],
  [/`rollBackRotation`/g, "`keyward rollback`"],
  [/`revokeKey`/g, "`keyward revoke`"],
  [/`revocationCost`/g, "`keyward revoke` without `--order`"],
  [/`?retireKey`?( with `to: "disabled"`)?/g, "`keyward retire`"],
  [/`census` counts/g, "`keyward census` counts"],
  [/`reencrypt`/g, "`keyward reencrypt`"],
  [/That call runs/g, "That command runs"],
  [/[Rr]epeat the call that began/g, "run the command that began"],
  [/[Rr]un (?:this|the) call again|[Rr]epeat (?:the|this) call/g, "run the command again"],
  [/The call resumes here\./g, "The command resumes here."],
  [/keyring\.enable\("([^"]+)"\)/g, "`keyward keyring enable $1`"],
  [/Promote another key first\./g, "Make another key the primary first: `keyward rotate`."],
  [/promote "([^"]+)"/g, 'make key "$1" the primary at the source of the keys'],
  [/`secretId`/g, "the name of the secret in the source"],
];

// Names of a store's methods, each replaced by the ability that the method gives to the store.
const capabilities: Terms = [
  [/ that has `replace\(\)`/g, " that replaces only unchanged records"],
  [/without `replace\(\)`/g, "in such a store"],
  [/ that has `scan\(\)`(?: and `iterator\(\)`)?/g, " that lists its records"],
  [/ that has (?:the method )?`reserved\(\)`/g, " with a reserved space"],
];

// Options of the HTTP KV server.
const server: Terms = [
  [/`maxBytesInMemory`|limits\.maxBytesInMemory/g, "`--max-bytes-in-memory`"],
  [/`maxBodyBytes`, `maxAnswerBytes` or `maxValueBytes`/g, "`--max-value-bytes`"],
  [/`requestsPerSecond`/g, "`--requests-per-second`"],
  [/The option "basePath" of createKvHandler/g, "`--base-path`"],
  [/omit basePath to mount the handler at the root/g, "omit `--base-path`"],
  [/`createApiKey\(\)`/g, "`keyward-kv tenants add`"],
];

const terms: Terms = [...sentences, ...names, ...capabilities, ...server];

/** Returns a message or hint in the terms of the command line. */
export function inCommandTerms(text: string): string {
  return terms.reduce((changed, [term, inCommands]) => changed.replace(term, inCommands), text);
}
