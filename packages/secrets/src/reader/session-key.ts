import { HiddenText } from "./hidden-text.ts";

/**
 * The MAC key for session ids, 32 bytes. It is not shown by `console.log`, `JSON.stringify`, templates or `inspect`.
 */
export class SessionKey extends HiddenText {
  constructor(base64: string) {
    super(base64, "[key of sessions]");
  }

  /** Returns the bytes of the key. */
  reveal(): Uint8Array {
    return Buffer.from(this.text, "base64");
  }
}
