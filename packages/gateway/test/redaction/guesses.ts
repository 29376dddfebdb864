import fc from "fast-check";
import type { Needles } from "../../src/redaction/needles.ts";
import { Redactor } from "../../src/redaction/redactor.ts";

const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
const valueBytes = 48;

/** How many of the first bytes of a value are known where a guess goes on with them. The middle half begins behind them. */
const knownBytes = 12;

/** How a guess is written in an answer. Each way gives texts of the same length for guesses of the same length. */
const written: Readonly<Record<string, (text: string) => string>> = {
  plain: (text) => text,
  escaped: (text) => text.replace(/[a-m]/g, (letter) => `\\u00${letter.charCodeAt(0).toString(16)}`),
  hex: (text) => Buffer.from(text).toString("hex"),
  base64: (text) => Buffer.from(text).toString("base64"),
};

/** Text around the guesses, without and with escapes. None of it is a part of a value. */
const fillers = ['{"ID":1234567,"TITLE":"A PAGE OF AN ISSUE"},', '{\\"ID\\":1234567,\\"TITLE\\":\\"A PAGE\\n\\"},\n'];

/** A part of a value that a caller guesses: 1 to 7 bytes, or the first 12 bytes of the value and 1 to 7 more. */
export interface Guess {
  readonly value: string;
  readonly isHeadKnown: boolean;
  readonly right: string;
  readonly wrong: string;
  readonly filler: string;
}

export const guesses: fc.Arbitrary<Guess> = fc
  .record({
    value: fc.string({ unit: fc.constantFrom(...letters), minLength: valueBytes, maxLength: valueBytes }),
    isHeadKnown: fc.boolean(),
    start: fc.nat(valueBytes - 7),
    count: fc.integer({ min: 1, max: 7 }),
    // Each byte of the wrong guess is as far from the right one, within the letters that are written in the same way.
    distance: fc.integer({ min: 1, max: 12 }),
    write: fc.constantFrom(...Object.values(written)),
    filler: fc.constantFrom(...fillers),
  })
  .map(({ value, isHeadKnown, start, count, distance, write, filler }) => {
    const [head, from] = isHeadKnown ? [value.slice(0, knownBytes), knownBytes] : ["", start];
    const right = value.slice(from, from + count);
    const wrong = right.replace(/./g, (letter) => otherLetter(letter, distance));
    return { value, isHeadKnown, right: write(head + right), wrong: write(head + wrong), filler };
  });

/** An answer of `size` bytes that is full of a guess. */
export function answerOf(filler: string, guess: string, size: number): Buffer {
  return Buffer.alloc(size, `${filler}${guess}"`);
}

/** Redacts an answer that comes in chunks of `chunkSize`. Returns the sizes of what is passed on, and the number of hits. */
export function passedOn(needles: Needles, answer: Buffer, chunkSize: number, framing: "lines" | "bytes") {
  const redactor = new Redactor(needles, { framing });
  const sizes: number[][] = [];
  for (let from = 0; from < answer.length; from += chunkSize) {
    sizes.push(redactor.write(answer.subarray(from, from + chunkSize)).map(({ length }) => length));
  }
  sizes.push(redactor.end().map(({ length }) => length));
  return { sizes, hits: redactor.hits };
}

/** Another letter of the same half of the alphabet, or another digit. */
function otherLetter(letter: string, distance: number): string {
  const same = ["abcdefghijklm", "nopqrstuvwxyz", "0123456789"].find((some) => some.includes(letter)) ?? "";
  const step = 1 + ((distance - 1) % (same.length - 1));
  return same[(same.indexOf(letter) + step) % same.length] ?? "";
}
