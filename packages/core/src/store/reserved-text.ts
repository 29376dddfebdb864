import { KeywardError } from "../errors/errors.ts";
import { isKeyId } from "../keyring/key.ts";

/** What Keyward keeps in the reserved space of a store, as errors call it. */
export type ReservedKind = "heartbeat" | "check record" | "record of the last rotation";

// Far more than Keyward ever writes there.
const maxLength = 16_384;

/**
 * The text of a record in the reserved space, read as a stranger's: whoever holds the keyring of one scope can encrypt any
 * text for that scope. All such texts are read here.
 */
export class ReservedText {
  readonly #kind: ReservedKind;
  readonly #fields: object;

  private constructor(kind: ReservedKind, fields: object) {
    this.#kind = kind;
    this.#fields = fields;
  }

  /**
   * What `read` makes of a text; the error where the record could not be decrypted, or says what Keyward does not write.
   */
  static read<Said>(
    kind: ReservedKind,
    text: string | KeywardError,
    read: (said: ReservedText) => Said,
  ): Said | KeywardError {
    if (text instanceof KeywardError) return text;
    try {
      return read(new ReservedText(kind, parse(kind, text)));
    } catch (error) {
      if (error instanceof KeywardError) return error;
      throw error;
    }
  }

  /** @throws KeywardError `RECORD_MALFORMED` for anything but a whole number within the bounds. */
  amount(field: string, { least, most }: { readonly least: number; readonly most?: number }): number {
    const value = this.#value(field);
    const within = typeof value === "number" && Number.isSafeInteger(value) && value >= least;
    if (within && value <= (most ?? value)) return value;
    throw malformed(this.#kind, field);
  }

  /** As {@link ReservedText.amount}; `undefined` where the field is absent. */
  amountIfAny(field: string, bounds: { readonly least: number }): number | undefined {
    return this.#value(field) === undefined ? undefined : this.amount(field, bounds);
  }

  /** @throws KeywardError `RECORD_MALFORMED` for anything but a text that passes. */
  text(field: string, isAllowed: (text: string) => boolean): string {
    const value = this.#value(field);
    if (typeof value === "string" && isAllowed(value)) return value;
    throw malformed(this.#kind, field);
  }

  /** @throws KeywardError `RECORD_MALFORMED` for anything but an id of a key. */
  keyId(field: string): string {
    return this.text(field, isKeyId);
  }

  /** @throws KeywardError `RECORD_MALFORMED` for anything but one of these. */
  oneOf<Choice extends string>(field: string, choices: readonly Choice[]): Choice {
    const value = this.#value(field);
    const found = choices.find((choice) => choice === value);
    if (found !== undefined) return found;
    throw malformed(this.#kind, field);
  }

  /** As {@link ReservedText.oneOf}; `undefined` where the field is absent. */
  oneOfIfAny<Choice extends string>(field: string, choices: readonly Choice[]): Choice | undefined {
    return this.#value(field) === undefined ? undefined : this.oneOf(field, choices);
  }

  #value(field: string): unknown {
    return Object.hasOwn(this.#fields, field) ? Reflect.get(this.#fields, field) : undefined;
  }
}

function parse(kind: ReservedKind, text: string): object {
  if (text.length > maxLength) throw malformed(kind, "its length");
  let said: unknown;
  try {
    said = JSON.parse(text);
  } catch {
    // The parser's own message quotes the text.
    throw malformed(kind, "its form");
  }
  if (typeof said === "object" && said !== null && !Array.isArray(said)) return said;
  throw malformed(kind, "its form");
}

function malformed(kind: ReservedKind, what: string): KeywardError {
  return new KeywardError(
    "RECORD_MALFORMED",
    `The ${kind} in the reserved space of the store is not what Keyward writes there: ${what} is wrong`,
    {
      hint:
        "A later release may have written it: update this process. Otherwise find out who has a key of this ring, or of " +
        "one of its scopes, and writes to the store.",
    },
  );
}
