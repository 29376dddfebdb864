import { inspect } from "node:util";

const hidden = "[key of sessions]";

/** The key of the MAC of session ids, 32 bytes. It is not shown by `console.log`, `JSON.stringify`, templates or `inspect`. */
export class SessionKey {
  readonly #base64: string;

  constructor(base64: string) {
    this.#base64 = base64;
  }

  /** Returns the bytes of the key. */
  reveal(): Uint8Array {
    return Buffer.from(this.#base64, "base64");
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
