import { KeywardError, type StoredValue } from "@keyward/core";
import { decodeValue, field } from "./protocol.ts";

/** Reads and checks the fields of a server's answers. An attacker may have sent the answer. */
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
   * Decodes the value of a record from JSON.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the JSON is not an encoded value.
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
        hint: "Check that the option `url` is the address of a keyward-kv server, and that the server has the same version of @keyward/http-kv as this client.",
      },
    );
  }
}
