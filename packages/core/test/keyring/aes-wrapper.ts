import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { type KeyringWrapper, KeywardError } from "@keyward/core";

/**
 * A key service inside the test: wraps under the newest version of its key, unwraps under every version, and counts its
 * calls.
 */
export class AesWrapper implements KeyringWrapper {
  readonly #versions = [randomBytes(32)];
  /** The number of calls of each method. */
  readonly calls = { wrap: 0, unwrap: 0, rewrap: 0 };
  /** The buffer of every document that was wrapped or unwrapped. */
  readonly documents: Uint8Array[] = [];
  /** Called at the start of each unwrap. */
  beforeUnwrap: () => Promise<void> = async () => undefined;

  async wrap(document: Uint8Array): Promise<string> {
    this.calls.wrap++;
    this.documents.push(document);
    return this.#seal(document);
  }

  async unwrap(wrapped: string): Promise<Uint8Array> {
    this.calls.unwrap++;
    await this.beforeUnwrap();
    const document = this.#open(wrapped);
    this.documents.push(document);
    return document;
  }

  async rewrap(wrapped: string): Promise<string> {
    this.calls.rewrap++;
    return wrapped.startsWith(`v${this.#versions.length}:`) ? wrapped : this.#seal(this.#open(wrapped));
  }

  /** Makes a new version of the key. */
  rotate(): void {
    this.#versions.push(randomBytes(32));
  }

  #seal(document: Uint8Array): string {
    const nonce = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", this.#versions.at(-1) ?? "", nonce);
    const body = Buffer.concat([cipher.update(document), cipher.final()]);
    return `v${this.#versions.length}:${Buffer.concat([nonce, cipher.getAuthTag(), body]).toString("base64url")}`;
  }

  #open(wrapped: string): Uint8Array {
    const [, version, text = ""] = /^v(\d+):(.*)$/.exec(wrapped) ?? [];
    const key = this.#versions[Number(version) - 1];
    const bytes = Buffer.from(text, "base64url");
    try {
      if (key === undefined) throw new Error("no such version");
      const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, 12), { authTagLength: 16 });
      decipher.setAuthTag(bytes.subarray(12, 28));
      return new Uint8Array(Buffer.concat([decipher.update(bytes.subarray(28)), decipher.final()]));
    } catch {
      throw new KeywardError("KEYRING_INVALID", "The text was not wrapped under this key", { hint: "Check the text." });
    }
  }
}
