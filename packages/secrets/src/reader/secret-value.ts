import { inspect } from "node:util";

const hidden = "[value of a secret]";

/** The value of a secret. It is not shown by `console.log`, `JSON.stringify`, templates or `inspect`. */
export class SecretValue {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  /** Returns the value, to be put into the request to its server, or to be searched for in an answer. */
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
