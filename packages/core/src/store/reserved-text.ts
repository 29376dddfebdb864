import { KeywardError } from "../errors/errors.ts";
import { isKeyId } from "../keyring/key.ts";

/** The name of a kind of record in the reserved space, which error messages contain. */
export type ReservedKind = "heartbeat" | "check record" | "record of the last rotation";

// Maximum length of the text. Keyward writes much shorter texts.
const maxLength = 16_384;

/**
 * Parses the JSON text of a record in the reserved space, and checks every field. The text is not trusted, because a
 * process that has only the keyring of a scope can encrypt any text for this scope.
 */
export class ReservedText {
  readonly #kind: ReservedKind;
  readonly #fields: object;

  private constructor(kind: ReservedKind, fields: object) {
    this.#kind = kind;
    this.#fields = fields;
  }

  /**
   * Parses the text of a record in the reserved space, and returns the result of `parseFields`. If the text is not
   * valid, returns the error `RECORD_MALFORMED`. If `text` is an error, because the record could not be decrypted,
   * returns this error.
   */
  static read<Content>(
    kind: ReservedKind,
    text: string | KeywardError,
    parseFields: (fields: ReservedText) => Content,
  ): Content | KeywardError {
    if (text instanceof KeywardError) return text;
    try {
      return parseFields(new ReservedText(kind, parse(kind, text)));
    } catch (error) {
      if (error instanceof KeywardError) return error;
      throw error;
    }
  }

  /**
   * Returns the integer in a field.
   *
   * @throws KeywardError `RECORD_MALFORMED` if the field contains anything but an integer between `least` and `most`.
   */
  amount(field: string, { least, most }: { readonly least: number; readonly most?: number }): number {
    const value = this.#value(field);
    const within = typeof value === "number" && Number.isSafeInteger(value) && value >= least;
    if (within && value <= (most ?? value)) return value;
    throw malformed(this.#kind, `the field "${field}"`);
  }

  /**
   * Returns the integer in a field, like {@link ReservedText.amount}. Returns `undefined` if the text has no such
   * field.
   */
  amountIfAny(field: string, bounds: { readonly least: number }): number | undefined {
    return this.#value(field) === undefined ? undefined : this.amount(field, bounds);
  }

  /**
   * Returns the string in a field.
   *
   * @throws KeywardError `RECORD_MALFORMED` if the field contains anything but a string that `isAllowed` accepts.
   */
  text(field: string, isAllowed: (text: string) => boolean): string {
    const value = this.#value(field);
    if (typeof value === "string" && isAllowed(value)) return value;
    throw malformed(this.#kind, `the field "${field}"`);
  }

  /**
   * Returns the id of an encryption key that a field contains.
   *
   * @throws KeywardError `RECORD_MALFORMED` if the field contains anything but a valid key id.
   */
  keyId(field: string): string {
    return this.text(field, isKeyId);
  }

  /**
   * Returns the texts that a field contains as an array. Returns `undefined` if the text has no such field.
   *
   * @throws KeywardError `RECORD_MALFORMED` if the field contains anything but an array of at most `most` texts that
   * `isAllowed` accepts.
   */
  textsIfAny(
    field: string,
    { most, isAllowed }: { readonly most: number; readonly isAllowed: (text: string) => boolean },
  ): readonly string[] | undefined {
    const value = this.#value(field);
    if (value === undefined) return undefined;
    if (Array.isArray(value) && value.length <= most) {
      const texts = value.filter((text) => typeof text === "string" && isAllowed(text));
      if (texts.length === value.length) return texts;
    }
    throw malformed(this.#kind, `the field "${field}"`);
  }

  /**
   * Returns the string in a field that may contain only one of `choices`.
   *
   * @throws KeywardError `RECORD_MALFORMED` if the field contains anything but one of `choices`.
   */
  oneOf<Choice extends string>(field: string, choices: readonly Choice[]): Choice {
    const value = this.#value(field);
    const found = choices.find((choice) => choice === value);
    if (found !== undefined) return found;
    throw malformed(this.#kind, `the field "${field}"`);
  }

  /**
   * Returns the string in a field, like {@link ReservedText.oneOf}. Returns `undefined` if the text has no such field.
   */
  oneOfIfAny<Choice extends string>(field: string, choices: readonly Choice[]): Choice | undefined {
    return this.#value(field) === undefined ? undefined : this.oneOf(field, choices);
  }

  #value(field: string): unknown {
    return Object.hasOwn(this.#fields, field) ? Reflect.get(this.#fields, field) : undefined;
  }
}

function parse(kind: ReservedKind, text: string): object {
  if (text.length > maxLength) throw malformed(kind, "its length");
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    // The message of the parser quotes the text, which is confidential.
    throw malformed(kind, "its form");
  }
  if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed)) return parsed;
  throw malformed(kind, "its form");
}

function malformed(kind: ReservedKind, what: string): KeywardError {
  return new KeywardError(
    "RECORD_MALFORMED",
    `The ${kind} in the reserved space of the store was not written by this release of Keyward: ${what} is wrong`,
    {
      hint: "If another process runs a later release of Keyward, update this process. Otherwise another program wrote the record, and encrypted it with a key of this keyring or of one of its scopes. Find that program.",
    },
  );
}
