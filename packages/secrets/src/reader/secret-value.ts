import { HiddenText } from "./hidden-text.ts";

/** The value of a secret. It is not shown by `console.log`, `JSON.stringify`, templates or `inspect`. */
export class SecretValue extends HiddenText {
  constructor(value: string) {
    super(value, "[value of a secret]");
  }

  /** Returns the value. Use it only to make the request to the server of the secret, and to search the answer for the value. */
  reveal(): string {
    return this.text;
  }
}
