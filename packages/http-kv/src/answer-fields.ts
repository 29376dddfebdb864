import { KeywardError, type StoredValue } from "@keyward/core";
import { decodeValue, field } from "./protocol.ts";

/**
 * Reads the fields of the JSON answers of an HTTP KV server. Checks the type of each field, because an attacker may have
 * sent the answer.
 */
export class AnswerFields {
  readonly #url: string;

  /** @param url the URL of the server, which error messages quote. */
  constructor(url: string) {
    this.#url = url;
  }

  /**
   * Calls `read` with each element of the list in the field `name` of an answer, and returns the results.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if this field is not a list; an error that `read` throws.
   */
  list<Result>(answer: unknown, name: string, read: (value: unknown) => Result): Result[] {
    const values = field(answer, name);
    if (Array.isArray(values)) return values.map((value: unknown) => read(value));
    throw this.malformed();
  }

  /**
   * Returns the value if it is a boolean.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` for any other value.
   */
  readonly boolean = (value: unknown): boolean => {
    if (typeof value === "boolean") return value;
    throw this.malformed();
  };

  /**
   * Returns the value if it is a string.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` for any other value.
   */
  readonly text = (value: unknown): string => {
    if (typeof value === "string") return value;
    throw this.malformed();
  };

  /**
   * Decodes the value of a record from JSON.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if `encoded` is not the JSON form of a value.
   */
  readonly value = (encoded: unknown): StoredValue => {
    try {
      return decodeValue(encoded);
    } catch {
      throw this.malformed();
    }
  };

  /** Returns the error for an answer that does not follow the protocol. */
  malformed(): KeywardError {
    return new KeywardError(
      "STORE_UNAVAILABLE",
      `The HTTP KV server ${this.#url} sent an answer that does not follow the HTTP KV protocol`,
      {
        hint: "Check that the option `url` is the address of a keyward-kv server, and that the server has the same version of @keyward/http-kv as this client.",
      },
    );
  }
}
