import type { RootKey } from "../envelope/root-key.ts";
import { KeywardError } from "../errors/errors.ts";
import { exampleDate, isDate, isKeyId, isKeyStatus, type RingKey, requireKeyId, toRingKey } from "./key.ts";

// The keyring document is specified in docs/keyring.md.

/** The content of a keyring document, with the field names that the class Keyring uses. */
export interface KeyringContent {
  readonly name: string;
  readonly generation: number;
  /** The id of the primary; "" in a keyring without keys. */
  readonly primary: string;
  readonly keys: readonly RingKey[];
  readonly scopeName?: string | undefined;
  readonly stores?: readonly string[] | undefined;
  readonly sealed?: readonly string[] | undefined;
  /**
   * The fields whose names begin with `x-`. Keyward keeps them, but does not use them. The map has the fields of the
   * document under "", and the fields of each key under the id of that key.
   */
  readonly extensions?: ReadonlyMap<string, Extension> | undefined;
}

type Fields = Readonly<Record<string, unknown>>;
type Extension = Fields;

const documentFields = new Set(["keyward", "name", "generation", "primary", "keys", "scope", "stores", "sealed"]);
const keyFields = new Set(["id", "status", "created", "material"]);
const fixTheDocument =
  "Restore the keyring document from a copy that exportKeyring wrote. If there is no copy, correct the document.";

/**
 * Reads a keyring document, and checks each field by itself. The class Keyring checks the rules that concern several
 * keys, such as that ids are unique.
 *
 * @throws KeywardError `KEYRING_INVALID` if a field is not valid; the message names the field. `KEY_INVALID` if the id
 * or the material of a key is not valid.
 */
export function readDocument(document: string): KeyringContent {
  const fields = fieldsOf(parseJson(document), "the document");
  requireVersion(fields);
  const extensions = new Map([["", readExtension(fields, documentFields, "the document")]]);
  const generation = fields["generation"];
  if (typeof generation !== "number" || !Number.isSafeInteger(generation) || generation < 1) {
    throw invalidKeyring('its field "generation" is not an integer of at least 1', fixTheDocument);
  }
  const entries = fields["keys"];
  if (!Array.isArray(entries)) throw invalidKeyring('its field "keys" is not an array', fixTheDocument);
  const keys = entries.map((entry: unknown, index) => {
    const at = `keys[${index}]`;
    const keyEntry = fieldsOf(entry, at);
    const extension = readExtension(keyEntry, keyFields, at);
    const key = readKey(keyEntry, at);
    extensions.set(key.id, extension);
    return key;
  });
  return {
    name: requireText(fields["name"], "its name", fixTheDocument),
    generation,
    primary: requireText(fields["primary"], "its primary", fixTheDocument),
    keys,
    scopeName: fields["scope"] === undefined ? undefined : requireText(fields["scope"], "its scope", fixTheDocument),
    stores: readStrings(fields["stores"], "stores"),
    sealed: readStrings(fields["sealed"], "sealed"),
    extensions,
  };
}

/** Returns the text of the keyring document, including the key material. Only `exportKeyring` calls this function. */
export function writeDocument(content: KeyringContent): string {
  const { name, generation, primary, keys, scopeName, stores, sealed, extensions } = content;
  const fields = {
    keyward: 1,
    name,
    generation,
    primary,
    keys: keys.map(({ id, status, created, root }) => ({
      id,
      status,
      created,
      material: root.material().toString("base64url"),
      ...extensions?.get(id),
    })),
    scope: scopeName,
    stores,
    sealed,
    ...extensions?.get(""),
  };
  return JSON.stringify(fields, null, 2);
}

/**
 * Returns whether {@link writeDocument} would write the same text for both keyrings. Instead of the key material,
 * compares the commitments of the keys, which are hashes of the key material.
 */
export function isSameContent(one: KeyringContent, other: KeyringContent): boolean {
  return (
    withoutMaterial(one) === withoutMaterial(other) &&
    one.keys.every(({ root }, index) => isSameRoot(root, other.keys[index]?.root))
  );
}

/** Returns a text that contains everything in a keyring except its key material, to compare keyrings. */
function withoutMaterial({ keys, extensions, ...rest }: KeyringContent): string {
  const { name, generation, primary, scopeName, stores, sealed } = rest;
  return JSON.stringify([
    [name, generation, primary],
    // JSON.stringify writes undefined in an array as null. None of these fields can be null, so two different keyrings
    // never result in the same text.
    [scopeName, stores, sealed],
    keys.map(({ id, status, created }) => [id, status, created, extensions?.get(id) ?? {}]),
    extensions?.get("") ?? {},
  ]);
}

/**
 * Returns whether two keys have the same key material. Compares their commitments, which are hashes of the key
 * material.
 */
function isSameRoot(one: RootKey, other: RootKey | undefined): boolean {
  return other !== undefined && one.commitment.equals(other.commitment);
}

function parseJson(document: string): unknown {
  try {
    return JSON.parse(document);
  } catch {
    // The error of the parser quotes the document, which contains key material. So the parser's error must not become
    // the cause.
    if (document.startsWith("\uFEFF")) {
      throw invalidKeyring(
        "the document begins with a byte order mark",
        "Store the document as UTF-8 without a byte order mark.",
      );
    }
    throw invalidKeyring("the document is not JSON", fixTheDocument);
  }
}

function requireVersion(fields: Fields): void {
  if (!Object.hasOwn(fields, "keyward")) {
    throw invalidKeyring(
      'the document has no field "keyward", so it is not a keyring document',
      "Store the document exactly as exportKeyring wrote it, and not as a field of another object.",
    );
  }
  if (fields["keyward"] !== 1) {
    throw invalidKeyring(
      'its field "keyward" is not 1, the only version that this release reads',
      "If a later release of Keyward wrote the document, update Keyward. Otherwise check that the document is a keyring document.",
    );
  }
}

function readKey(fields: Fields, at: string): RingKey {
  const { id, status, created, material } = fields;
  if (typeof id !== "string") throw invalidKeyring(`${at}.id is not a string`, fixTheDocument);
  requireKeyId(id, `The keyring's ${at}.id`);
  if (!isKeyStatus(status)) {
    throw invalidKeyring(`${at}.status is neither "enabled" nor "disabled"`, fixTheDocument);
  }
  if (created !== undefined && !isDate(created)) {
    throw invalidKeyring(`${at}.created is not a date such as ${exampleDate}`, fixTheDocument);
  }
  const bytes = Buffer.from(typeof material === "string" ? material : "", "base64url");
  try {
    if (bytes.toString("base64url") !== material) {
      throw invalidKeyring(`${at}.material is not base64url without padding`, fixTheDocument);
    }
    return toRingKey({ id, status, material: bytes, ...(created === undefined ? {} : { created }) });
  } finally {
    // These bytes are in Node's buffer pool, which the `buffer` of any other small Buffer gives access to.
    bytes.fill(0);
  }
}

function fieldsOf(value: unknown, what: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalidKeyring(`${what} is not a JSON object`, fixTheDocument);
  }
  return Object.fromEntries(Object.entries(value));
}

function readExtension(fields: Fields, known: ReadonlySet<string>, what: string): Extension {
  const others = Object.entries(fields).filter(([field]) => !known.has(field));
  for (const [field] of others) {
    if (!field.startsWith("x-")) {
      throw invalidKeyring(
        `${what} has an unknown field ${shownField(field)}`,
        "If a later release of Keyward wrote the document, update Keyward. Otherwise remove the field. To keep a field of your own, begin its name with x-.",
      );
    }
  }
  return Object.fromEntries(others);
}

/**
 * Returns the name of a field for an error message. If the name may be misplaced key material, returns only its length.
 */
function shownField(field: string): string {
  return isKeyId(field) ? `"${field}"` : `whose name has ${field.length} characters`;
}

function readStrings(value: unknown, field: string): readonly string[] | undefined {
  if (value === undefined) return undefined;
  if (
    !Array.isArray(value) ||
    !value.every((item): item is string => typeof item === "string" && item.isWellFormed())
  ) {
    throw invalidKeyring(`its field "${field}" is not an array of strings`, fixTheDocument);
  }
  return value;
}

/**
 * Checks a name in a keyring, such as the name of a scope, and returns it.
 *
 * @param what The subject of the error message, such as "the name of a scope".
 * @throws KeywardError `KEYRING_INVALID` if the name is not a string, is empty, or contains a lone surrogate.
 */
export function requireText(text: unknown, what: string, hint = 'Pass a name such as "production".'): string {
  if (typeof text !== "string" || text === "" || !text.isWellFormed()) {
    throw invalidKeyring(`${what} must be a non-empty, well-formed string`, hint);
  }
  return text;
}

/**
 * Returns the error `KEYRING_INVALID`. `problem` is the end of its message, such as: its field "keys" is not an array.
 */
export function invalidKeyring(problem: string, hint: string, keyId?: string): KeywardError {
  return new KeywardError("KEYRING_INVALID", `The keyring is not valid: ${problem}`, { hint, keyId });
}
