import { pieceBytes } from "./exchange.ts";
import { type JsonBounds, JsonReader, JsonRefusal } from "./json-reader.ts";
import { maxDepth } from "./protocol.ts";

/** The most that an answer may need in memory, and the most bytes that it may have on its way there. */
export const mostAnswerBytes = 256 * 2 ** 20;

/** Reads an answer of JSON, which may come from an attacker, within bounds that are checked before anything is made of it. */
export class AnswerReader {
  readonly #bounds: JsonBounds;
  readonly #short: Uint8Array[] | undefined;
  readonly #long: JsonReader | undefined;
  #shortBytes = 0;
  #weight = 0;

  /**
   * @param maxParts how many brackets, commas and colons it may have.
   * @param announcedBytes its length, if it says so.
   */
  constructor(maxParts: number, announcedBytes: number | undefined) {
    this.#bounds = {
      maxBytes: mostAnswerBytes,
      maxDepth,
      maxParts,
      weigh: (bytes) => {
        this.#weight += bytes;
        if (this.#weight > mostAnswerBytes) throw new JsonRefusal("too large");
      },
    };
    if (announcedBytes !== undefined && announcedBytes <= pieceBytes) this.#short = [];
    else this.#long = new JsonReader(this.#bounds);
  }

  /**
   * @throws JsonRefusal what is beyond a bound.
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
   * The answer.
   *
   * @throws JsonRefusal where it is no JSON.
   */
  end(): unknown {
    if (this.#short === undefined) return this.#long?.end();
    const [first] = this.#short;
    const whole = first !== undefined && this.#short.length === 1 ? first : Buffer.concat(this.#short);
    return JsonReader.readWhole(whole, this.#bounds);
  }
}
