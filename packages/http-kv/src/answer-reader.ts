import { pieceBytes } from "./exchange.ts";
import { type JsonBounds, JsonReader, JsonRefusal } from "./json-reader.ts";
import { maxDepth } from "./protocol.ts";

/** Maximum size of a server's answer in bytes, both as received and as decoded in memory. */
export const maxAnswerBytes = 256 * 2 ** 20;

/**
 * Reads a JSON answer of the server. An attacker may have sent the answer, so the length, nesting depth and number of
 * elements of the answer are checked before it is parsed.
 */
export class AnswerReader {
  readonly #bounds: JsonBounds;
  readonly #short: Uint8Array[] | undefined;
  readonly #long: JsonReader | undefined;
  #shortBytes = 0;
  #weight = 0;

  /**
   * @param maxParts maximum number of brackets, commas and colons in the JSON of the answer.
   * @param announcedBytes the `Content-Length` of the answer; `undefined` for an answer without this header.
   */
  constructor(maxParts: number, announcedBytes: number | undefined) {
    this.#bounds = {
      maxBytes: maxAnswerBytes,
      maxDepth,
      maxParts,
      weigh: (bytes) => {
        this.#weight += bytes;
        if (this.#weight > maxAnswerBytes) throw new JsonRefusal("too large");
      },
    };
    if (announcedBytes !== undefined && announcedBytes <= pieceBytes) this.#short = [];
    else this.#long = new JsonReader(this.#bounds);
  }

  /**
   * Reads the next bytes of the answer.
   *
   * @throws JsonRefusal if the length, the nesting depth or the number of elements exceeds the {@link JsonBounds} of the
   * reader.
   */
  write(piece: Uint8Array): void {
    if (this.#short === undefined) {
      this.#long?.write(piece);
      return;
    }
    this.#shortBytes += piece.length;
    if (this.#shortBytes > pieceBytes) throw new JsonRefusal("too large");
    this.#short.push(piece);
  }

  /**
   * Returns the parsed answer. Call it after the last `write`.
   *
   * @throws JsonRefusal if the answer is not JSON.
   */
  end(): unknown {
    if (this.#short === undefined) return this.#long?.end();
    const [first] = this.#short;
    const whole = first !== undefined && this.#short.length === 1 ? first : Buffer.concat(this.#short);
    return JsonReader.readWhole(whole, this.#bounds);
  }
}
