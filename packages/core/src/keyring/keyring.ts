import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { RootKey, rootBytes } from "../envelope/root-key.ts";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireOptions } from "../errors/options.ts";

/** "enabled": opens records. "disabled": opens nothing, as if revoked, but is still in the ring. */
export type KeyStatus = "enabled" | "disabled";

/** What a ring tells about a key. Never its material. */
export interface KeyInfo {
  /** What records name it by. */
  readonly id: string;
  /** Whether it opens. */
  readonly status: KeyStatus;
  /** When the key was made, ISO 8601 in UTC; absent where the source does not say. */
  readonly created?: string;
}

/** A key to put into a ring. */
export interface NewKey {
  /** 1 to 32 of `[A-Za-z0-9_-]`; when absent, "k" and 15 hex digits that follow from the material. */
  readonly id?: string;
  /** 32 bytes; when absent, random. */
  readonly material?: Uint8Array;
  /** Default "enabled". */
  readonly status?: KeyStatus;
  /** ISO 8601 in UTC; when absent and the material is random, now. */
  readonly created?: string;
}

const newKeyOptionNames = {
  id: true,
  material: true,
  status: true,
  created: true,
} as const satisfies OptionNames<NewKey>;

/** A key as the ring keeps it: for this package only. */
export interface RingKey extends KeyInfo {
  readonly root: RootKey;
}

interface RingParts {
  readonly name: string;
  readonly generation: number;
  readonly primary: string;
  readonly keys: ReadonlyMap<string, RingKey>;
  readonly scopeName?: string | undefined;
  readonly stores?: readonly string[] | undefined;
  readonly sealed?: readonly string[] | undefined;
  /** Fields named `x-…`, kept and ignored; on the document (under "") and on each key (under its id). */
  readonly extensions?: ReadonlyMap<string, Readonly<Record<string, unknown>>> | undefined;
}

const keyIdPattern = /^[A-Za-z0-9_-]{1,32}$/;
const exampleDate = "2026-11-01T00:00:00.000Z";
// HKDF in OpenSSL takes 1,024 bytes of context, which holds the name and what stands before it.
const maxScopeNameBytes = 1_000;
const makeAKey = "A new key is made with `openssl rand -base64 32`.";
const restoreKey =
  "If records were written under this key, restore it whole: a new key opens none of them. Only for a first key: `openssl rand -base64 32`.";

let partsOf: (ring: Keyring) => RingParts;

/**
 * A set of keys, of which one, the primary, seals; every enabled one opens. Immutable: each change returns a new ring
 * whose generation is one higher. What a ring shows of itself, in `inspect`, `toString` and `toJSON`, is ids and
 * statuses; material leaves it through {@link exportKeyring} alone.
 */
export class Keyring {
  readonly #parts: RingParts;

  static {
    partsOf = (ring) => ring.#parts;
  }

  private constructor(parts: RingParts) {
    this.#parts = parts;
    Object.freeze(this);
  }

  /**
   * A ring of one new random key.
   *
   * @throws KeywardError `KEY_INVALID` for an id that is not 1 to 32 of `[A-Za-z0-9_-]`.
   */
  static generate(id?: string): Keyring {
    return Keyring.fromKeys([
      { ...(id === undefined ? {} : { id }), material: randomBytes(rootBytes), created: now() },
    ]);
  }

  /**
   * A ring of given keys. The primary is the first key unless named.
   *
   * @throws KeywardError `KEY_INVALID` for a bad id, material, status or date, `KEYRING_INVALID` for duplicates, no keys or a primary
   * that is missing or disabled.
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
    return Keyring.#checked({ name: "keyring", generation: 1, primary: primary ?? first.id }, ringKeys);
  }

  /**
   * Reads a keyring document, as {@link exportKeyring} writes it.
   *
   * @throws KeywardError `KEYRING_INVALID` that says what is wrong and where; `KEY_INVALID` for a key.
   */
  static parse(document: string): Keyring {
    if (typeof document !== "string") {
      throw invalidRing(
        "the document is no text",
        "Give the text that exportKeyring wrote. Is the variable set that it should come from?",
      );
    }
    const { keys, ...parts } = readDocument(document);
    return Keyring.#checked(parts, keys);
  }

  /**
   * A ring without keys: what is written through it is written in the clear, what is not sealed is read, and sealed
   * records throw `KEY_UNKNOWN`. For development only; the name is there to be searched for.
   */
  static dangerouslyPlaintext(): Keyring {
    return new Keyring({ name: "keyring", generation: 1, primary: "", keys: new Map() });
  }

  static #checked(parts: Omit<RingParts, "keys">, keys: readonly RingKey[]): Keyring {
    const byId = new Map<string, RingKey>();
    const byCommitment = new Map<string, string>();
    for (const key of keys) {
      if (byId.has(key.id))
        throw invalidRing(
          `two keys have the id "${key.id}"`,
          "Give the newer of the two another id: records name their key by its id.",
          key.id,
        );
      const commitment = key.root.commitment.toString("hex");
      const twin = byCommitment.get(commitment);
      if (twin !== undefined) {
        throw invalidRing(
          `keys "${twin}" and "${key.id}" hold the same material`,
          `Give the newer of the two material of its own: changing from one to the other would rotate nothing. ${makeAKey}`,
          key.id,
        );
      }
      byId.set(key.id, key);
      byCommitment.set(commitment, key.id);
    }
    const primary = byId.get(parts.primary);
    if (primary === undefined) {
      throw invalidRing(
        `the primary ${shownId(parts.primary)} is not among its keys`,
        "Restore the key that is missing, if records were written under it; or name one of the keys that are there as primary.",
      );
    }
    if (primary.status !== "enabled") {
      throw invalidRing(
        `the primary "${primary.id}" is disabled`,
        "Name an enabled key as primary. Enable this one only if it was not disabled for being compromised.",
        primary.id,
      );
    }
    return new Keyring({ ...parts, keys: byId });
  }

  /** Which ring this is, through all its generations. */
  get name(): string {
    return this.#parts.name;
  }

  /** Grows by one with each change. */
  get generation(): number {
    return this.#parts.generation;
  }

  /** The id of the key that seals; "" in a ring without keys, which seals nothing. */
  get primary(): string {
    return this.#parts.primary;
  }

  /** Ids, statuses and dates of the keys. */
  get keys(): readonly KeyInfo[] {
    return [...this.#parts.keys.values()].map(({ id, status, created }) => ({
      id,
      status,
      ...(created === undefined ? {} : { created }),
    }));
  }

  /** The backends this ring serves, by name, if the ring was told: a retirement asks all of them. */
  get stores(): readonly string[] {
    return this.#parts.stores ?? [];
  }

  /** Namespaces in which plaintext is refused for good. */
  get encryptedNamespaces(): readonly string[] {
    return this.#parts.sealed ?? [];
  }

  /** The name this ring was scoped to, if it was. */
  get scopeName(): string | undefined {
    return this.#parts.scopeName;
  }

  /**
   * Adds a key, random unless material is given: it opens from now on, and seals once promoted.
   *
   * @throws KeywardError `KEY_INVALID`, or `KEYRING_INVALID` when the id or the material is there already.
   */
  add(key: NewKey = {}): Keyring {
    requireOptions("A new key", key, newKeyOptionNames);
    const created = key.material === undefined ? now() : undefined;
    return this.#change({}, [
      ...this.#parts.keys.values(),
      toRingKey({
        ...(created === undefined ? {} : { created }),
        ...key,
        material: key.material ?? randomBytes(rootBytes),
      }),
    ]);
  }

  /**
   * Makes an enabled key the one that seals.
   *
   * @throws KeywardError `KEY_UNKNOWN` or `KEY_DISABLED`.
   */
  promote(id: string): Keyring {
    const key = this.#require(id);
    if (key.status === "disabled") {
      throw new KeywardError("KEY_DISABLED", `Key "${id}" is disabled and cannot become primary`, {
        keyId: id,
        hint: `Promote another key. If this one was not disabled for being compromised, enable it first: ring.enable("${id}").`,
      });
    }
    return this.#change({ primary: id });
  }

  /**
   * Revokes a key: it opens nothing any more. `retireKey` does this only when no record needs the key.
   *
   * @throws KeywardError `KEY_UNKNOWN`, or `KEYRING_INVALID` for the primary.
   */
  disable(id: string): Keyring {
    this.#requireNotPrimary(id, "disabled");
    return this.#withStatus(id, "disabled");
  }

  /**
   * Lets a disabled key open again.
   *
   * @throws KeywardError `KEY_UNKNOWN`.
   */
  enable(id: string): Keyring {
    this.#require(id);
    return this.#withStatus(id, "enabled");
  }

  /**
   * Takes a key out of the ring. What is sealed under it can then be opened only with an older export of the ring.
   *
   * @throws KeywardError `KEY_UNKNOWN`, or `KEYRING_INVALID` for the primary.
   */
  remove(id: string): Keyring {
    this.#requireNotPrimary(id, "removed");
    const extensions = new Map(this.#parts.extensions);
    extensions.delete(id);
    return this.#change(
      { extensions },
      [...this.#parts.keys.values()].filter((key) => key.id !== id),
    );
  }

  /**
   * Gives the ring another name.
   *
   * @throws KeywardError `KEYRING_INVALID` for an empty or ill-formed name.
   */
  rename(name: string): Keyring {
    return this.#change({ name: requireText(name, "its name") });
  }

  /**
   * Names every backend the ring serves, so that no key is retired before all of them were asked.
   *
   * @throws KeywardError `KEYRING_INVALID` for an empty or ill-formed name.
   */
  withStores(stores: readonly string[]): Keyring {
    return this.#change({ stores: [...new Set(stores.map((store) => requireText(store, "the name of a store")))] });
  }

  /**
   * Refuses plaintext in a namespace from now on, whatever a store's `accept` says. `forbidPlaintext` does this only
   * after a census.
   *
   * @throws KeywardError `KEYRING_INVALID` for an ill-formed name.
   */
  forbidPlaintext(namespace: string): Keyring {
    // "" is the namespace of records without one.
    if (namespace !== "") requireText(namespace, "the name of a namespace");
    return this.#change({ sealed: [...new Set([...this.encryptedNamespaces, namespace])] });
  }

  /**
   * The same ids over roots derived for `name`: whoever holds the scoped ring can neither read nor write under the
   * unscoped one or under another name. A scoped ring can be neither changed nor saved.
   *
   * @throws KeywardError `KEYRING_INVALID` when the ring is scoped already or the name is empty, ill-formed or longer
   * than 1,000 bytes of UTF-8.
   */
  scope(name: string): Keyring {
    if (this.#parts.scopeName !== undefined) {
      throw invalidRing(`it is scoped to "${this.#parts.scopeName}" already`, "Scope the ring it was derived from.");
    }
    requireText(name, "the name of a scope");
    if (Buffer.byteLength(name) > maxScopeNameBytes) {
      throw invalidRing(`the name of a scope is longer than ${maxScopeNameBytes} bytes`, "Give it a shorter name.");
    }
    const keys = new Map([...this.#parts.keys].map(([id, key]) => [id, { ...key, root: key.root.scoped(name) }]));
    return new Keyring({ ...this.#parts, keys, scopeName: name });
  }

  /** Ids and statuses, for a person. */
  toString(): string {
    const scope = this.scopeName === undefined ? "" : `, scope ${JSON.stringify(this.scopeName)}`;
    const keys = this.keys.map((key) => `${key.id} ${key.id === this.primary ? "primary" : key.status}`).join(", ");
    return `Keyring ${JSON.stringify(this.name)} generation ${this.generation}${scope}: ${keys || "no keys, plaintext"}`;
  }

  /** Ids and statuses, as data. Not the keyring document: see {@link exportKeyring}. */
  toJSON(): object {
    const { name, generation, primary, keys, scopeName } = this;
    return { name, generation, primary, keys, ...(scopeName === undefined ? {} : { scope: scopeName }) };
  }

  [inspect.custom](): string {
    return this.toString();
  }

  #change(change: Partial<RingParts>, keys: Iterable<RingKey> = this.#parts.keys.values()): Keyring {
    requireKeys(this.#parts, "changed");
    if (this.#parts.scopeName !== undefined) {
      throw invalidRing(
        `it is scoped to "${this.#parts.scopeName}" and cannot be changed`,
        "Change the ring it was derived from.",
      );
    }
    return Keyring.#checked({ ...this.#parts, ...change, generation: this.generation + 1 }, [...keys]);
  }

  #withStatus(id: string, status: KeyStatus): Keyring {
    return this.#change(
      {},
      [...this.#parts.keys.values()].map((key) => (key.id === id ? { ...key, status } : key)),
    );
  }

  #require(id: string): RingKey {
    const key = this.#parts.keys.get(id);
    if (key !== undefined) return key;
    throw new KeywardError("KEY_UNKNOWN", `Keyring ${JSON.stringify(this.name)} has no key ${shownId(id)}`, {
      keyId: isKeyId(id) ? id : undefined,
      hint: `Name a key that it has: ${[...this.#parts.keys.keys()].join(", ") || "none"}.`,
    });
  }

  #requireNotPrimary(id: string, change: string): void {
    this.#require(id);
    if (id === this.primary) {
      throw invalidRing(`its primary "${id}" cannot be ${change}`, "Promote another key first.", id);
    }
  }
}

const mostShownKeys = 5;

/** What a process with this ring has, as errors say it: no key, or the ids of the only ones. */
export function keysIn(ring: Keyring): string {
  const ids = ring.keys.map(({ id }) => `"${id}"`);
  if (ids.length === 0) return "no key";
  const more = ids.length > mostShownKeys ? ` and ${ids.length - mostShownKeys} more` : "";
  return `only ${ids.length === 1 ? "key" : "the keys"} ${ids.slice(0, mostShownKeys).join(", ")}${more}`;
}

/** The key with this id, for sealing and opening. Not part of the public surface. */
export function keyOf(ring: Keyring, id: string): RingKey | undefined {
  return partsOf(ring).keys.get(id);
}

/** Whether the ring has the key, and it opens. Not part of the public surface. */
export function isEnabled(ring: Keyring, id: string): boolean {
  return keyOf(ring, id)?.status === "enabled";
}

/** Whether two rings are the same in everything, material included. Not part of the public surface. */
export function sameRing(one: Keyring, other: Keyring): boolean {
  return fingerprint(one) === fingerprint(other);
}

/** Whether a key is in both rings: the same id and the same material. Not part of the public surface. */
export function sharesKey(one: Keyring, other: Keyring): boolean {
  for (const [id, { root }] of partsOf(one).keys) {
    if (partsOf(other).keys.get(id)?.root.commitment.equals(root.commitment) === true) return true;
  }
  return false;
}

function fingerprint(ring: Keyring): string {
  return writeDocument(ring, (root) => root.commitment);
}

/**
 * The keyring document, key material included: the only way material leaves a ring. Search for this name to find
 * every place where it does.
 *
 * An exported scoped ring holds the derived roots, and says so: it can be handed to whoever may see that scope only.
 */
export function exportKeyring(ring: Keyring): string {
  requireKeys(partsOf(ring), "exported");
  return writeDocument(ring, (root) => root.material());
}

/**
 * Refuses a ring that no source may hold in place of the one it has, for those who write a key provider.
 *
 * @param name that the ring must have. Default: whatever it has.
 * @throws KeywardError `KEYRING_INVALID` for a ring that is scoped, has no keys or another name.
 */
export function requireSavable(ring: Keyring, name = ring.name): void {
  requireKeys(partsOf(ring), "saved");
  if (ring.scopeName !== undefined) {
    throw invalidRing("a scoped ring cannot be changed or saved", "Use the ring that it was derived from.");
  }
  if (ring.name === name) return;
  const names = `${JSON.stringify(ring.name)} where ${JSON.stringify(name)} is expected`;
  throw new KeywardError("KEYRING_INVALID", `The ring to be saved is named ${names}`, {
    hint: "Save a ring that came from load, changed; or rename a new one: ring.rename(…).",
  });
}

function writeDocument(ring: Keyring, materialOf: (root: RootKey) => Buffer): string {
  const parts = partsOf(ring);
  return JSON.stringify(
    {
      keyward: 1,
      name: parts.name,
      generation: parts.generation,
      primary: parts.primary,
      keys: [...parts.keys.values()].map(({ id, status, created, root }) => ({
        id,
        status,
        created,
        material: materialOf(root).toString("base64url"),
        ...parts.extensions?.get(id),
      })),
      scope: parts.scopeName,
      stores: parts.stores,
      sealed: parts.sealed,
      ...parts.extensions?.get(""),
    },
    null,
    2,
  );
}

function requireKeys({ keys }: Pick<RingParts, "keys">, change: string): void {
  if (keys.size > 0) return;
  throw invalidRing(`a ring without keys cannot be ${change}`, "Begin with Keyring.generate or Keyring.fromKeys.");
}

function toRingKey(key: NewKey & { readonly material: Uint8Array }): RingKey {
  const { material, status = "enabled", created } = key;
  if (key.id !== undefined) requireId(key.id, "The id of a key");
  const name = key.id === undefined ? "A key" : `Key "${key.id}"`;
  if (!(material instanceof Uint8Array) || material.length !== rootBytes) {
    const found = material instanceof Uint8Array ? `${material.length} bytes` : `a ${typeof material}`;
    throw new KeywardError("KEY_INVALID", `${name} has material of ${found} where ${rootBytes} bytes are expected`, {
      keyId: key.id,
      hint: restoreKey,
    });
  }
  if (material.every((byte) => byte === material[0])) {
    throw new KeywardError("KEY_INVALID", `${name} is one byte ${rootBytes} times: a placeholder, not a key`, {
      keyId: key.id,
      hint: makeAKey,
    });
  }
  if (status !== "enabled" && status !== "disabled") {
    throw new KeywardError("KEY_INVALID", `${name} has a status that is neither "enabled" nor "disabled"`, {
      keyId: key.id,
      hint: 'Correct it. A key that was disabled on purpose stays "disabled".',
    });
  }
  if (created !== undefined && !isDate(created)) {
    throw new KeywardError("KEY_INVALID", `${name} has a creation date that is not one`, {
      keyId: key.id,
      hint: `Write it as ${exampleDate}.`,
    });
  }
  const root = new RootKey(material);
  return { id: key.id ?? root.defaultId, status, ...(created === undefined ? {} : { created }), root };
}

function now(): string {
  return new Date().toISOString();
}

function isDate(text: unknown): text is string {
  return typeof text === "string" && !Number.isNaN(Date.parse(text));
}

/** Whether this can be the id of a key. Not part of the public surface. */
export function isKeyId(id: unknown): boolean {
  return typeof id === "string" && keyIdPattern.test(id);
}

function requireId(id: unknown, what: string): void {
  if (isKeyId(id)) return;
  const found = typeof id === "string" ? `${id.length} characters` : `a ${typeof id}`;
  throw new KeywardError("KEY_INVALID", `${what} is not 1 to 32 of A-Z a-z 0-9 _ -, but ${found}`, {
    hint: "Choose an id such as 2026-11.",
  });
}

/** An id for a message. What is none may be key material in the wrong place, and is not repeated. */
export function shownId(id: unknown): string {
  if (typeof id !== "string") return "of that kind: an id is a text";
  return isKeyId(id) ? `"${id}"` : `of ${id.length} characters`;
}

function invalidRing(problem: string, hint: string, keyId?: string): KeywardError {
  return new KeywardError("KEYRING_INVALID", `Keyring not valid: ${problem}`, { hint, keyId });
}

function requireText(text: unknown, what: string): string {
  if (typeof text !== "string" || text === "" || !text.isWellFormed()) {
    throw invalidRing(`${what} is not a non-empty, well-formed string`, 'Give it a name such as "production".');
  }
  return text;
}

const fixTheDocument = "Restore the document from a copy that exportKeyring wrote, or correct it.";
const documentFields = new Set(["keyward", "name", "generation", "primary", "keys", "scope", "stores", "sealed"]);
const keyFields = new Set(["id", "status", "created", "material"]);

function readDocument(document: string): Omit<RingParts, "keys"> & { readonly keys: readonly RingKey[] } {
  let parsed: unknown;
  try {
    parsed = JSON.parse(document);
  } catch {
    // The parser's own message quotes the text, which is key material: it goes no further.
    if (document.startsWith("\uFEFF")) {
      throw invalidRing("the document begins with a byte order mark", "Store it as UTF-8 without one.");
    }
    throw invalidRing("the document is not JSON", fixTheDocument);
  }
  const fields = requireObject(parsed, "the document");
  if (!Object.hasOwn(fields, "keyward")) {
    throw invalidRing(
      'the document has no field "keyward", so it is JSON of another kind',
      "Put the document that exportKeyring writes there, whole, and not into a field of another object.",
    );
  }
  if (fields["keyward"] !== 1) {
    throw invalidRing(
      'its "keyward" is not 1, the version this release reads',
      "Check that this is a keyring document. A later version needs a later release of Keyward.",
    );
  }
  const extensions = new Map([["", readExtensions(fields, documentFields, "the document")]]);
  const generation = fields["generation"];
  if (typeof generation !== "number" || !Number.isSafeInteger(generation) || generation < 1) {
    throw invalidRing("its generation is not a whole number from 1", fixTheDocument);
  }
  const keys = fields["keys"];
  if (!Array.isArray(keys)) throw invalidRing("its keys are not an array", fixTheDocument);
  const ringKeys = keys.map((entry: unknown, index) => {
    const at = `keys[${index}]`;
    const key = requireObject(entry, at);
    const extension = readExtensions(key, keyFields, at);
    const ringKey = readKey(key, at);
    extensions.set(ringKey.id, extension);
    return ringKey;
  });
  return {
    name: requireText(fields["name"], "its name"),
    generation,
    primary: requireText(fields["primary"], "its primary"),
    keys: ringKeys,
    scopeName: fields["scope"] === undefined ? undefined : requireText(fields["scope"], "its scope"),
    stores: readStrings(fields["stores"], "stores"),
    sealed: readStrings(fields["sealed"], "sealed"),
    extensions,
  };
}

function readKey(key: Readonly<Record<string, unknown>>, at: string): RingKey {
  const { id, status, created, material } = key;
  if (typeof id !== "string") throw invalidRing(`${at}.id is not a string`, fixTheDocument);
  requireId(id, `The keyring's ${at}.id`);
  if (status !== "enabled" && status !== "disabled") {
    throw invalidRing(`${at}.status is neither "enabled" nor "disabled"`, fixTheDocument);
  }
  if (created !== undefined && !isDate(created)) {
    throw invalidRing(`${at}.created is not a date such as ${exampleDate}`, fixTheDocument);
  }
  const bytes = Buffer.from(typeof material === "string" ? material : "", "base64url");
  try {
    if (bytes.toString("base64url") !== material) {
      throw invalidRing(`${at}.material is not base64url without padding`, fixTheDocument);
    }
    return toRingKey({ id, status, material: bytes, ...(created === undefined ? {} : { created }) });
  } finally {
    // They lie in Node's buffer pool, which whoever is given any small Buffer can reach through its `buffer`.
    bytes.fill(0);
  }
}

function requireObject(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalidRing(`${what} is not a JSON object`, fixTheDocument);
  }
  return Object.fromEntries(Object.entries(value));
}

function readExtensions(
  fields: Readonly<Record<string, unknown>>,
  known: ReadonlySet<string>,
  what: string,
): Readonly<Record<string, unknown>> {
  const others = Object.entries(fields).filter(([field]) => !known.has(field));
  for (const [field] of others) {
    if (!field.startsWith("x-")) {
      throw invalidRing(
        `${what} has an unknown field ${shownField(field)}`,
        "Update Keyward, if a later release wrote the document. Otherwise remove the field, or begin its name with x-.",
      );
    }
  }
  return Object.fromEntries(others);
}

/** The name of a field for a message, unless it may be key material in the wrong place. */
function shownField(field: string): string {
  return isKeyId(field) ? `"${field}"` : `whose name has ${field.length} characters`;
}

function readStrings(value: unknown, field: string): readonly string[] | undefined {
  if (value === undefined) return undefined;
  if (
    !Array.isArray(value) ||
    !value.every((item): item is string => typeof item === "string" && item.isWellFormed())
  ) {
    throw invalidRing(`its ${field} is not an array of strings`, fixTheDocument);
  }
  return value;
}
