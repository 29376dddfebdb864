import { createHmac, randomBytes } from "node:crypto";
import type { EncryptedStore } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";
import type { EntryNames } from "./audit-entry.ts";
import type { EntryTags } from "./audit-rows.ts";
import { formatRecordKey } from "./record-key.ts";

/** The kinds of names in the dictionary. If one text is a name of two kinds, the dictionary has two names. */
export type NameKind = keyof EntryNames;

/** The record of a name that may be missing in the dictionary. */
export interface DictionaryName {
  readonly key: string;
  readonly value: string;
}

const nameKinds: readonly NameKind[] = ["server", "token", "owner", "action"];
const lookupBytes = 32;
// About 200 bytes each.
const maxRemembered = 10_000;

/**
 * The dictionary of names. A row of an entry refers to a name by a number. The dictionary finds the number by the tag
 * of the name: an HMAC under a random key of the workspace. This key is an encrypted record of the file.
 */
export class AuditNames {
  readonly #encrypted: EncryptedStore;
  readonly #lookups = new Map<string, Promise<Uint8Array>>();
  /** The tags of names that were in the dictionary when this process last wrote them. */
  readonly #stored = new Map<string, string>();

  constructor(encrypted: EncryptedStore) {
    this.#encrypted = encrypted;
  }

  /**
   * Returns the tags of the names of an entry. Adds to `lacking` the names that may be missing in the dictionary.
   *
   * @param lookup the HMAC key for the tags of the workspace.
   */
  tagsOf(
    { workspace, lookup }: { readonly workspace: string; readonly lookup: Uint8Array },
    names: EntryNames,
    lacking: Map<string, DictionaryName>,
  ): EntryTags {
    const tags: Record<NameKind, string | undefined> = {
      server: undefined,
      token: undefined,
      owner: undefined,
      action: undefined,
    };
    for (const kind of nameKinds) {
      const name = names[kind];
      if (name === undefined) continue;
      let tag = this.#stored.get(memoryKey(workspace, kind, name));
      if (tag === undefined) {
        tag = tagOf(lookup, kind, name);
        const key = formatRecordKey({ kind: "name", workspace, tag });
        lacking.set(key, { key, value: JSON.stringify({ kind, name }) });
      }
      tags[kind] = tag;
    }
    return tags;
  }

  /** Returns the tag of a name in a workspace; `undefined` if the workspace has no names yet. */
  async find(workspace: string, kind: NameKind, name: string): Promise<string | undefined> {
    const lookup = await readLookup(this.#encrypted, workspace);
    return lookup === undefined ? undefined : tagOf(lookup, kind, name);
  }

  /** Remembers that the dictionary has the names of an entry, so that they are not added again. */
  remember(workspace: string, names: EntryNames, tags: EntryTags): void {
    if (this.#stored.size >= maxRemembered) this.#stored.clear();
    for (const kind of nameKinds) {
      const [name, tag] = [names[kind], tags[kind]];
      if (name !== undefined && tag !== undefined) this.#stored.set(memoryKey(workspace, kind, name), tag);
    }
  }

  /** Forgets which names the dictionary has, because names were removed or the file was replaced. */
  forget(): void {
    this.#stored.clear();
    this.#lookups.clear();
  }

  /**
   * Returns the HMAC key for the tags of a workspace. Creates the key if it is missing. Call it for entries without
   * names, too, because the row of the key is also the row of the workspace.
   *
   * @throws KeywardError if the key cannot be read.
   */
  lookupOf(workspace: string): Promise<Uint8Array> {
    let lookup = this.#lookups.get(workspace);
    if (lookup === undefined) {
      if (this.#lookups.size >= maxRemembered) this.#lookups.clear();
      lookup = this.#readOrCreate(workspace);
      this.#lookups.set(workspace, lookup);
      lookup.catch(() => this.#lookups.delete(workspace));
    }
    return lookup;
  }

  async #readOrCreate(workspace: string): Promise<Uint8Array> {
    const stored = await readLookup(this.#encrypted, workspace);
    if (stored !== undefined) return stored;
    const key = formatRecordKey({ kind: "lookup", workspace });
    await this.#encrypted.replace?.(key, undefined, randomBytes(lookupBytes));
    // Another process may have created the record first.
    const created = await readLookup(this.#encrypted, workspace);
    if (created !== undefined) return created;
    throw new SecretsError("AUDIT_INVALID", "The audit file lost the key of the names of a workspace", {
      hint: "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`.",
    });
  }
}

/**
 * Reads the HMAC key for the tags of a workspace. Returns `undefined` if the workspace has no entries.
 *
 * @throws KeywardError if the record cannot be decrypted; SecretsError `AUDIT_INVALID` if it has another length.
 */
export async function readLookup(encrypted: EncryptedStore, workspace: string): Promise<Uint8Array | undefined> {
  const lookup = await encrypted.get(formatRecordKey({ kind: "lookup", workspace }));
  if (lookup === undefined || (lookup instanceof Uint8Array && lookup.length === lookupBytes)) return lookup;
  throw new SecretsError("AUDIT_INVALID", "The key of the names of a workspace has a wrong length", {
    hint: "Run `keyward audit verify`, and restore a backup of the audit file.",
  });
}

/** Returns the tag of a name: 16 bytes in hexadecimal. */
export function tagOf(lookup: Uint8Array, kind: NameKind, name: string): string {
  return createHmac("sha256", lookup).update(`${kind}\0${name}`).digest("hex").slice(0, 32);
}

/** Returns the tags of all names of an entry. */
export function tagsUnder(lookup: Uint8Array, names: EntryNames): EntryTags {
  const tag = (kind: NameKind) => {
    const name = names[kind];
    return name === undefined ? undefined : tagOf(lookup, kind, name);
  };
  return { server: tag("server"), token: tag("token"), owner: tag("owner"), action: tag("action") };
}

function memoryKey(workspace: string, kind: NameKind, name: string): string {
  return `${workspace}/${kind}/${name}`;
}
