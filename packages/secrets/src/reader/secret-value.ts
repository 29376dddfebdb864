import { inspect } from "node:util";

const hidden = "[value of a secret]";

/** The value of a secret. It is not shown by `console.log`, `JSON.stringify`, templates or `inspect`. */
export class SecretValue {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  /** Returns the value. Use it only to make the request to the server of the secret, and to search the answer for the value. */
  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return hidden;
  }

  toJSON(): string {
    return hidden;
  }

  [inspect.custom](): string {
    return hidden;
  }
}
