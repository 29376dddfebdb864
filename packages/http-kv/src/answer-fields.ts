import { KeywardError, type StoredValue } from "@keyward/core";
import { decodeValue, field } from "./protocol.ts";

/** Reads the fields of a server's answers, which may come from an attacker. */
export class AnswerFields {
  readonly #url: string;

  /** @param url the URL of the server, for error messages. */
  constructor(url: string) {
    this.#url = url;
  }

  /**
   * Reads a list, and each of its elements with `read`.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the answer has no such list; errors of `read`.
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
   * Decodes a value of a record.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` for any other object.
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
      `${this.#url} sent an answer that does not follow the HTTP KV protocol`,
      {
        hint: "Check that the url is the one of a keyward-kv server, and that it has the release of this package.",
      },
    );
  }
}
