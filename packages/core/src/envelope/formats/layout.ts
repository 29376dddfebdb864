import { KeywardError } from "../../errors/errors.ts";
import { requireOneOf } from "../../errors/options.ts";
import { beginsLikeObject, textOf } from "../../store-interface/keyv-value.ts";
import type { StoredValue } from "../../store-interface/store-capabilities.ts";
import { asBuffer } from "../../store-interface/stored-bytes.ts";
import { AlteredValue } from "./keyed-format.ts";

/** The encoding of bytes in a stored value. `"raw"` stands for bytes without an encoding. */
export type PartEncoding = "base64" | "base64url" | "hex" | "raw";

/** The type of all orders of some names, joined with "-": for "a" and "b", the strings "a-b" and "b-a". */
export type OrderOf<Names extends string, Name extends string = Names> = Name extends Names
  ? [Exclude<Names, Name>] extends [never]
    ? Name
    : `${Name}-${OrderOf<Exclude<Names, Name>>}`
  : never;

/** The names of the parts of a stored value. */
export type PartName = "salt" | "iv" | "tag" | "mac" | "ciphertext";

/**
 * The parts of a stored value. The lengths of `iv`, `tag` and `mac` have been checked against the lengths that the
 * format allows.
 */
export interface Parts {
  readonly salt?: Uint8Array | undefined;
  readonly iv: Uint8Array;
  readonly tag?: Uint8Array | undefined;
  readonly mac?: Uint8Array | undefined;
  readonly ciphertext: Uint8Array;
}

// The characters of an encoded part. The text between two parts must not contain them.
const alphabets = { base64: /[A-Za-z0-9+/=]/, base64url: /[A-Za-z0-9_=-]/, hex: /[A-Za-z0-9]/ } as const;

/** The options of a format that describe how a stored value is divided into parts. */
export interface LayoutOptions {
  /** The order of the parts, such as "iv-tag-ciphertext". For a JSON object: the name of the field of each part. */
  readonly layout: string | Readonly<Partial<Record<PartName, string>>>;
  readonly joinedBy?: string | undefined;
  readonly encoding?: PartEncoding | undefined;
  /** Fields of the stored JSON object that the format does not read. Re-encryption discards their content. */
  readonly ignoredFields?: readonly string[] | undefined;
}

/**
 * The allowed lengths of each part of a format in bytes, without the ciphertext. "any" allows every length. If the
 * parts are concatenated, only the first length of each list is allowed.
 */
export type PartLengths = Readonly<Partial<Record<PartName, readonly number[] | "any">>>;

/**
 * Returns a function that splits a stored value into its parts, and returns `undefined` for a value of another layout.
 *
 * @param optional the parts that a layout may leave out.
 * @param lengths the allowed lengths of the parts.
 * @throws KeywardError `VALUE_INVALID` for an invalid option.
 */
export function layoutReader(
  { layout, joinedBy, encoding = "base64", ignoredFields = [] }: LayoutOptions,
  optional: readonly PartName[],
  lengths: PartLengths,
): (stored: StoredValue) => Parts | undefined {
  requireOneOf("encoding", encoding, ["base64", "base64url", "hex", "raw"]);
  requireFieldNames(ignoredFields);
  if (typeof layout === "object" && layout !== null) {
    requireParts(Object.keys(layout), optional, lengths);
    if (!Object.values(layout).every((field) => typeof field === "string" && field !== "")) {
      throw invalidLayout(
        "has a field without a name",
        "For each part of the layout, set the name of its field, which is a string.",
      );
    }
    if (encoding === "raw" || joinedBy !== undefined) {
      throw invalidLayout(
        'names the fields of a JSON object, so joinedBy and the encoding "raw" are not allowed',
        'Remove joinedBy, and set encoding to the encoding of the fields: "base64", "base64url" or "hex".',
      );
    }
    const fields = new Set([...Object.values(layout), ...ignoredFields]);
    return (stored) => {
      const object = jsonObjectOf(stored);
      // Any other field would be lost, so an object with such a field is not a value of this format.
      if (object === undefined || !Object.keys(object).every((field) => fields.has(field))) return undefined;
      const fieldTexts = fieldsOf(object, layout);
      const parts = partsOf(fieldTexts, encoding, lengths);
      // Another format, such as plaintext, must not read an altered record of this format.
      const hasAll = [...fieldTexts.values()].every((text) => typeof text === "string");
      if (parts === undefined && hasAll) throw new AlteredValue();
      return parts;
    };
  }
  const order = String(layout).split("-");
  const names = requireParts(order, optional, lengths);
  if (joinedBy === undefined) {
    const packedLengths = names.map((name) => packedLength(lengths[name]));
    return (stored) => {
      const packed = bytesOf(stored, encoding);
      return packed === undefined ? undefined : cut(packed, names, packedLengths);
    };
  }
  if (typeof joinedBy !== "string" || joinedBy === "" || encoding === "raw" || alphabets[encoding].test(joinedBy)) {
    throw new KeywardError(
      "VALUE_INVALID",
      "joinedBy must be text without any character that the encoding of the parts uses",
      {
        hint: 'Set joinedBy to the text between the parts, such as ":" or ".". Omit it for parts that are concatenated.',
      },
    );
  }
  return (stored) => {
    const texts = textOf(stored)?.split(joinedBy, names.length + 1);
    if (texts?.length !== names.length) return undefined;
    return partsOf(new Map(names.map((name, index) => [name, texts[index]])), encoding, lengths);
  };
}

/** Decodes text, and returns `undefined` for text that is not in the encoding. Base64 may lack its padding. */
export function decodeText(text: string, encoding: "base64" | "base64url" | "hex"): Buffer | undefined {
  const bytes = Buffer.from(text, encoding);
  const written = bytes.toString(encoding);
  const same =
    encoding === "hex" ? written === text.toLowerCase() : written.replace(/=+$/, "") === text.replace(/={1,2}$/, "");
  return same ? bytes : undefined;
}

/** Returns the bytes of a stored value; `undefined` for a value that is not in the encoding. */
export function bytesOf(stored: StoredValue, encoding: PartEncoding): Buffer | undefined {
  if (encoding === "raw") return typeof stored === "string" ? undefined : asBuffer(stored);
  const text = textOf(stored);
  return text === undefined ? undefined : decodeText(text, encoding);
}

function requireParts(given: readonly string[], optional: readonly PartName[], lengths: PartLengths): PartName[] {
  const known: readonly PartName[] = ["salt", "iv", "tag", "mac", "ciphertext"];
  const names = known.filter((name) => name === "ciphertext" || lengths[name] !== undefined);
  const ordered = given.flatMap((part) => names.filter((name) => name === part));
  const needed = names.filter((name) => !optional.includes(name));
  const sound = ordered.length === given.length && new Set(given).size === given.length;
  if (sound && needed.every((name) => ordered.includes(name))) return ordered;
  throw invalidLayout(
    `does not consist of the parts ${names.join(", ")}`,
    `Write each part once, joined by "-", in any order, such as ${names.join("-")}. Or, if the parts are fields of a JSON object, pass { ${names.map((name) => `${name}: "…"`).join(", ")} } with the name of each field.`,
  );
}

function fieldsOf(object: object, layout: Readonly<Partial<Record<PartName, string>>>): Map<string, unknown> {
  const fields = new Map<string, unknown>();
  for (const [part, field] of Object.entries(layout)) {
    fields.set(part, Object.hasOwn(object, field) ? Reflect.get(object, field) : undefined);
  }
  return fields;
}

/** Parses a stored value that is a JSON object. Returns `undefined` for any other value. */
export function jsonObjectOf(stored: StoredValue): object | undefined {
  const text = textOf(stored);
  if (text === undefined || !beginsLikeObject(text)) return undefined;
  try {
    const parsed: unknown = JSON.parse(text);
    return typeof parsed === "object" && parsed !== null ? parsed : undefined;
  } catch {
    return undefined;
  }
}

function partsOf(
  texts: ReadonlyMap<string, unknown>,
  encoding: "base64" | "base64url" | "hex",
  lengths: PartLengths,
): Parts | undefined {
  const parts: Partial<Record<PartName, Uint8Array>> = {};
  for (const name of ["salt", "iv", "tag", "mac", "ciphertext"] as const) {
    if (!texts.has(name)) continue;
    const text = texts.get(name);
    const bytes = typeof text === "string" ? decodeText(text, encoding) : undefined;
    if (bytes === undefined || !isAllowed(bytes.length, lengths[name])) return undefined;
    parts[name] = bytes;
  }
  return complete(parts);
}

function isAllowed(length: number, allowed: readonly number[] | "any" | undefined): boolean {
  return allowed === undefined || allowed === "any" || allowed.includes(length);
}

/**
 * Returns the length in bytes of a part in a value of concatenated parts; `undefined` for a part of any length, such as
 * the ciphertext.
 */
function packedLength(allowed: readonly number[] | "any" | undefined): number | undefined {
  return allowed === "any" ? undefined : allowed?.[0];
}

function cut(
  packed: Uint8Array,
  names: readonly PartName[],
  lengths: readonly (number | undefined)[],
): Parts | undefined {
  const fixed = lengths.reduce((sum: number, length) => sum + (length ?? 0), 0);
  if (packed.length < fixed) return undefined;
  const parts: Partial<Record<PartName, Uint8Array>> = {};
  let start = 0;
  for (const [index, name] of names.entries()) {
    const end = start + (lengths[index] ?? packed.length - fixed);
    parts[name] = packed.subarray(start, end);
    start = end;
  }
  return complete(parts);
}

function complete({ iv, ciphertext, ...others }: Partial<Record<PartName, Uint8Array>>): Parts | undefined {
  return iv === undefined || ciphertext === undefined ? undefined : { ...others, iv, ciphertext };
}

function requireFieldNames(given: unknown): void {
  if (Array.isArray(given) && given.every((name) => typeof name === "string" && name !== "")) return;
  throw new KeywardError("VALUE_INVALID", "The option ignoredFields is not a list of field names", {
    hint: 'Set ignoredFields to a list of names, such as ["version"].',
  });
}

function invalidLayout(problem: string, hint: string): KeywardError {
  return new KeywardError("VALUE_INVALID", `The option layout ${problem}`, { hint });
}
