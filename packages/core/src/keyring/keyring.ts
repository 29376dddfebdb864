import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { rootBytes } from "../envelope/root-key.ts";
import { KeywardError } from "../errors/errors.ts";
import { requireOptions } from "../errors/options.ts";
import {
  isKeyId,
  type KeyInfo,
  type KeyStatus,
  makeAKey,
  type NewKey,
  newKeyOptionNames,
  type RingKey,
  refuseKeyring,
  shownId,
  toRingKey,
} from "./key.ts";
import {
  invalidKeyring,
  isSameContent,
  type KeyringContent,
  readDocument,
  requireText,
  writeDocument,
} from "./keyring-document.ts";

/** The content of a keyring, with a map from each key id to its key. */
interface RingParts extends Omit<KeyringContent, "keys"> {
  readonly keys: ReadonlyMap<string, RingKey>;
}

// HKDF in OpenSSL accepts at most 1,024 bytes of context. The context consists of a fixed text and the name.
export const maxScopeNameBytes = 1_000;

let partsOf: (ring: Keyring) => RingParts;
let ringOfParts: (parts: RingParts) => Keyring;

/**
 * A set of keys. The primary encrypts new records, and every enabled key can decrypt records.
 *
 * A keyring is immutable. Each change returns a new keyring, whose generation number is one higher. `inspect`,
 * `toString` and `toJSON` show only ids and statuses; key material leaves a keyring only through {@link exportKeyring}.
 *
 * @example
 * const rotated = Keyring.generate("2026-11").add({ id: "2026-12" }).promote("2026-12");
 */
export class Keyring {
  readonly #parts: RingParts;

  static {
    partsOf = (ring) =>
      typeof ring === "object" && ring !== null && #parts in ring ? ring.#parts : refuseKeyring(ring);
    ringOfParts = (parts) => new Keyring(parts);
  }

  private constructor(parts: RingParts) {
    this.#parts = parts;
    Object.freeze(this);
  }

  /**
   * Makes a keyring with one new random key.
   *
   * @param id The id of the key. Default: "k" and 15 hex digits that are derived from the material.
   * @throws KeywardError `KEY_INVALID` for an id that is not 1 to 32 characters of `[A-Za-z0-9_-]`.
   */
  static generate(id?: string): Keyring {
    return Keyring.fromKeys([
      { ...(id === undefined ? {} : { id }), material: randomBytes(rootBytes), created: now() },
    ]);
  }

  /**
   * Makes a keyring of existing keys.
   *
   * @param primary The id of the primary. Default: the id of the first key.
   * @throws KeywardError
   * - `KEY_INVALID` for an id, material, status or date that is not valid.
   * - `KEYRING_INVALID` if there are no keys, two keys with the same id or material, or no enabled key `primary`.
   */
  static fromKeys(
    keys: readonly { id?: string; material: Uint8Array; status?: KeyStatus; created?: string }[],
    primary?: string,
  ): Keyring {
    const ringKeys = keys.map(toRingKey);
    const first = ringKeys[0];
    if (first === undefined) {
      throw new KeywardError("KEYRING_INVALID", "A keyring needs at least one key", { hint: makeAKey });
    }
    return Keyring.#checked({ name: "keyring", generation: 1, primary: primary ?? first.id, keys: ringKeys });
  }

  /**
   * Reads a keyring document, which {@link exportKeyring} wrote.
   *
   * @throws KeywardError `KEYRING_INVALID` for a broken document; `KEY_INVALID` for a key with a broken id or material.
   */
  static parse(document: string): Keyring {
    if (typeof document !== "string") {
      throw invalidKeyring(
        `the document is not a string, but of type ${document === null ? "null" : typeof document}`,
        "Pass the text that exportKeyring wrote. If it comes from an environment variable, check that the variable is set.",
      );
    }
    return Keyring.#checked(readDocument(document));
  }

  /**
   * Makes a keyring without keys, for development only: stores write plaintext and read plaintext.
   *
   * Reading an encrypted record throws `KEY_UNKNOWN`. The name of this method makes its use easy to find.
   */
  static dangerouslyPlaintext(): Keyring {
    return new Keyring({ name: "keyring", generation: 1, primary: "", keys: new Map() });
  }

  /** Checks the rules that concern several keys, and makes the keyring. Makes every keyring that has keys. */
  static #checked({ keys, ...rest }: KeyringContent): Keyring {
    const byId = new Map<string, RingKey>();
    const byCommitment = new Map<string, string>();
    for (const key of keys) {
      if (byId.has(key.id))
        throw invalidKeyring(
          `two keys have the id "${key.id}"`,
          "Give the newer key another id, because records name their key by its id.",
          key.id,
        );
      const commitment = key.root.commitment.toString("hex");
      const twin = byCommitment.get(commitment);
      if (twin !== undefined) {
        throw invalidKeyring(
          `keys "${twin}" and "${key.id}" have the same material`,
          `Give the newer key its own material, because a rotation between equal keys protects nothing. ${makeAKey}`,
          key.id,
        );
      }
      byId.set(key.id, key);
      byCommitment.set(commitment, key.id);
    }
    const primary = byId.get(rest.primary);
    if (primary === undefined) {
      throw invalidKeyring(
        `its primary is key ${shownId(rest.primary)}, which the keyring does not contain`,
        "Restore the missing key if records were written under that key. Otherwise set `primary` to the id of a key in the keyring.",
      );
    }
    if (primary.status !== "enabled") {
      throw invalidKeyring(
        `the primary "${primary.id}" is disabled`,
        "Name an enabled key as primary. Enable the disabled key only if it is not compromised.",
        primary.id,
      );
    }
    return new Keyring({ ...rest, keys: byId });
  }

  /** The name of the keyring, which stays the same through all its generations. Default: "keyring". */
  get name(): string {
    return this.#parts.name;
  }

  /** The generation number. A new keyring has the number 1. Each change returns a copy with the next higher number. */
  get generation(): number {
    return this.#parts.generation;
  }

  /** The id of the primary, the key that encrypts new records; "" in a keyring without keys. */
  get primary(): string {
    return this.#parts.primary;
  }

  /** The id, status and creation date of every key. */
  get keys(): readonly KeyInfo[] {
    return [...this.#parts.keys.values()].map(({ id, status, created }) => ({
      id,
      status,
      ...(created === undefined ? {} : { created }),
    }));
  }

  /** The names of the listed stores. Before it retires a key, `retireKey` counts the records in all these stores. */
  get stores(): readonly string[] {
    return this.#parts.stores ?? [];
  }

  /** The namespaces in which stores refuse plaintext, because {@link Keyring.forbidPlaintext} was called for them. */
  get encryptedNamespaces(): readonly string[] {
    return this.#parts.sealed ?? [];
  }

  /** The name of the scope, if this keyring was derived by {@link Keyring.scope}; otherwise `undefined`. */
  get scopeName(): string | undefined {
    return this.#parts.scopeName;
  }

  /**
   * Returns a copy with one more key. An enabled key can decrypt. It encrypts only after {@link Keyring.promote}.
   *
   * @param key The new key. Default: an enabled key of random material.
   * @throws KeywardError `KEY_INVALID` for a key that is not valid; `KEYRING_INVALID` if the keyring has a key with
   * that id or material already.
   */
  add(key: NewKey = {}): Keyring {
    requireOptions("A new key", key, newKeyOptionNames);
    const created = key.material === undefined ? now() : undefined;
    const added = toRingKey({
      ...(created === undefined ? {} : { created }),
      ...key,
      material: key.material ?? randomBytes(rootBytes),
    });
    return this.#change({ keys: [...this.#parts.keys.values(), added] });
  }

  /**
   * Returns a copy in which the key `id` is the primary, the key that encrypts new records.
   *
   * @throws KeywardError `KEY_UNKNOWN` if the keyring has no such key; `KEY_DISABLED` if the key is disabled.
   */
  promote(id: string): Keyring {
    const key = this.#require(id);
    if (key.status === "disabled") {
      throw new KeywardError("KEY_DISABLED", `Key "${id}" is disabled and cannot become primary`, {
        keyId: id,
        hint: `Promote another key. Only if key "${id}" is not compromised, enable it first: keyring.enable("${id}").`,
      });
    }
    return this.#change({ primary: id });
  }

  /**
   * Returns a copy in which the key `id` is disabled, so that it cannot decrypt records. If records may still need the
   * key, call `retireKey` instead, which counts these records first.
   *
   * @throws KeywardError `KEY_UNKNOWN` if the keyring has no such key; `KEYRING_INVALID` if the key is the primary.
   */
  disable(id: string): Keyring {
    this.#requireNotPrimary(id, "disabled");
    return this.#withStatus(id, "disabled");
  }

  /**
   * Returns a copy in which the key `id` is enabled, so that it can decrypt records.
   *
   * @throws KeywardError `KEY_UNKNOWN` if the keyring has no such key.
   */
  enable(id: string): Keyring {
    this.#require(id);
    return this.#withStatus(id, "enabled");
  }

  /**
   * Returns a copy without the key `id`. Only an earlier export of the keyring can still decrypt its records.
   *
   * @throws KeywardError `KEY_UNKNOWN` if the keyring has no such key; `KEYRING_INVALID` if the key is the primary.
   */
  remove(id: string): Keyring {
    this.#requireNotPrimary(id, "removed");
    const extensions = new Map(this.#parts.extensions);
    extensions.delete(id);
    return this.#change({ extensions, keys: [...this.#parts.keys.values()].filter((key) => key.id !== id) });
  }

  /**
   * Returns a copy with another name.
   *
   * @throws KeywardError `KEYRING_INVALID` for an empty or ill-formed name.
   */
  rename(name: string): Keyring {
    return this.#change({ name: requireText(name, "its name") });
  }

  /**
   * Returns a copy that lists the stores with these names. `retireKey` counts the records in all listed stores.
   *
   * @throws KeywardError `KEYRING_INVALID` for an empty or ill-formed name.
   */
  withStores(stores: readonly string[]): Keyring {
    return this.#change({ stores: [...new Set(stores.map((store) => requireText(store, "the name of a store")))] });
  }

  /**
   * Returns a copy with which stores refuse plaintext in a namespace, even if `accept` lists `plaintext()`.
   *
   * Prefer the function `forbidPlaintext`, which changes the keyring only if no record of the namespace is plaintext.
   *
   * @param namespace The namespace; "" is the namespace of records without a namespace.
   * @throws KeywardError `KEYRING_INVALID` for a namespace that is not well-formed.
   */
  forbidPlaintext(namespace: string): Keyring {
    // "" is the namespace of records without one.
    if (namespace !== "") requireText(namespace, "the name of a namespace");
    return this.#change({ sealed: [...new Set([...this.encryptedNamespaces, namespace])] });
  }

  /**
   * Derives a keyring for the scope `name`. Its keys have the same ids and statuses, but other material.
   *
   * The derived keyring can decrypt neither records of this keyring nor records of another scope. You can neither
   * change nor save the derived keyring: instead, change this keyring and call `scope` again.
   *
   * @throws KeywardError `KEYRING_INVALID` if the keyring is scoped already, or if the name is empty, ill-formed or
   * longer than 1,000 bytes of UTF-8.
   */
  scope(name: string): Keyring {
    if (this.#parts.scopeName !== undefined) {
      throw invalidKeyring(
        `it is scoped to "${this.#parts.scopeName}" already`,
        "Derive the scope from the unscoped keyring.",
      );
    }
    requireText(name, "the name of a scope");
    if (Buffer.byteLength(name) > maxScopeNameBytes) {
      throw invalidKeyring(`the name of a scope is longer than ${maxScopeNameBytes} bytes`, "Give it a shorter name.");
    }
    const keys = new Map([...this.#parts.keys].map(([id, key]) => [id, { ...key, root: key.root.scoped(name) }]));
    return new Keyring({ ...this.#parts, keys, scopeName: name });
  }

  /** Returns a text with the name and generation number of the keyring, and the ids and statuses of its keys. */
  toString(): string {
    const scope = this.scopeName === undefined ? "" : `, scope ${JSON.stringify(this.scopeName)}`;
    const keys = this.keys.map((key) => `${key.id} ${key.id === this.primary ? "primary" : key.status}`).join(", ");
    return `Keyring ${JSON.stringify(this.name)} generation ${this.generation}${scope}: ${keys || "no keys, plaintext"}`;
  }

  /** Returns the keyring without key material, for `JSON.stringify`. {@link exportKeyring} includes the material. */
  toJSON(): object {
    const { name, generation, primary, keys, scopeName } = this;
    return { name, generation, primary, keys, ...(scopeName === undefined ? {} : { scope: scopeName }) };
  }

  [inspect.custom](): string {
    return this.toString();
  }

  #change(changed: Partial<Omit<KeyringContent, "generation">>): Keyring {
    requireKeys(this, "changed");
    if (this.#parts.scopeName !== undefined) {
      throw invalidKeyring(
        `it is scoped to "${this.#parts.scopeName}" and cannot be changed`,
        "Change the unscoped keyring, and derive the scope from the result.",
      );
    }
    return Keyring.#checked({ ...contentOf(this), ...changed, generation: this.generation + 1 });
  }

  #withStatus(id: string, status: KeyStatus): Keyring {
    return this.#change({
      keys: [...this.#parts.keys.values()].map((key) => (key.id === id ? { ...key, status } : key)),
    });
  }

  #require(id: string): RingKey {
    const key = this.#parts.keys.get(id);
    if (key !== undefined) return key;
    throw new KeywardError("KEY_UNKNOWN", `Keyring ${JSON.stringify(this.name)} has no key ${shownId(id)}`, {
      keyId: isKeyId(id) ? id : undefined,
      hint: `Pass the id of a key that this keyring has: ${[...this.#parts.keys.keys()].join(", ") || "none"}.`,
    });
  }

  #requireNotPrimary(id: string, change: string): void {
    this.#require(id);
    if (id === this.primary) {
      throw invalidKeyring(`its primary "${id}" cannot be ${change}`, "Promote another key first.", id);
    }
  }
}

/** Returns the key `id` with its material; `undefined` if the keyring lacks the key. Not part of the public surface. */
export function keyOf(ring: Keyring, id: string): RingKey | undefined {
  return partsOf(ring).keys.get(id);
}

/** Returns whether the keyring has an enabled key `id`, which can decrypt records. Not part of the public surface. */
export function isEnabled(ring: Keyring, id: string): boolean {
  return keyOf(ring, id)?.status === "enabled";
}

/**
 * Returns a copy in which the enabled key `primary` is the primary, but the generation number is unchanged. For a
 * source that does not raise the generation number. Not part of the public surface.
 */
export function withPrimary(ring: Keyring, primary: string): Keyring {
  return ringOfParts({ ...partsOf(ring.promote(primary)), generation: ring.generation });
}

/** Returns whether two keyrings have equal fields and key material. For authors of a key provider that can save. */
export function sameKeyring(one: Keyring, other: Keyring): boolean {
  return isSameContent(contentOf(one), contentOf(other));
}

/** Returns whether two keyrings share a key: the same id with the same material. Not part of the public surface. */
export function sharesKey(one: Keyring, other: Keyring): boolean {
  for (const [id, { root }] of partsOf(one).keys) {
    if (partsOf(other).keys.get(id)?.root.commitment.equals(root.commitment) === true) return true;
  }
  return false;
}

/**
 * Returns the keyring document, including the key material. To find every place where key material leaves a keyring,
 * search your code for the name of this function.
 *
 * The document of a scoped keyring contains the derived material and the name of the scope. You can give the document
 * to a process that may decrypt only the records of that scope.
 *
 * @throws KeywardError `KEYRING_INVALID` for a keyring without keys.
 * @example
 * await writeFile("production.keyring", exportKeyring(Keyring.generate("2026-11")), { mode: 0o600 });
 */
export function exportKeyring(ring: Keyring): string {
  requireKeys(ring, "exported");
  return writeDocument(contentOf(ring));
}

/**
 * Checks that a keyring may be saved. For authors of a key provider: call this function first in `save` and `create`.
 *
 * @param name The name that the keyring must have. Default: any name is allowed.
 * @throws KeywardError `KEYRING_INVALID` for a keyring that is scoped, has no keys, or has another name than `name`.
 */
export function requireSavable(ring: Keyring, name?: string): void {
  requireKeys(ring, "saved");
  if (ring.scopeName !== undefined) {
    throw invalidKeyring("a scoped keyring cannot be saved", "Save the unscoped keyring that it was derived from.");
  }
  if (name === undefined || ring.name === name) return;
  const names = `${JSON.stringify(ring.name)} instead of ${JSON.stringify(name)}`;
  throw new KeywardError("KEYRING_INVALID", `The keyring to be saved has the wrong name: ${names}`, {
    hint: "Load the keyring, change it, and save the result. Only if the keyring is new, give it the expected name with rename().",
  });
}

function contentOf(ring: Keyring): KeyringContent {
  const parts = partsOf(ring);
  return { ...parts, keys: [...parts.keys.values()] };
}

function requireKeys(ring: Keyring, change: string): void {
  if (partsOf(ring).keys.size > 0) return;
  throw invalidKeyring(
    `a keyring without keys cannot be ${change}`,
    "Begin with Keyring.generate or Keyring.fromKeys.",
  );
}

function now(): string {
  return new Date().toISOString();
}
