import { randomFillSync } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Block, BlockTable } from "../../src/redaction/block-table.ts";
import { Needles } from "../../src/redaction/needles.ts";
import { redactText } from "../../src/redaction/redactor.ts";

/** How many random cases each property tries. */
const runs = Number(process.env["KEYWARD_REDACTIONS"] ?? 200);

/** More tries than a table needs. The search for a table would otherwise not end where no table exists. */
const manyTries = 25;

function oddNumbers(): [number, number, number] {
  const [one = 0, other = 0, last = 0] = randomFillSync(new Int32Array(3));
  return [one | 1, other | 1, last | 1];
}

function blockOf(bytes: Buffer, form: number): Block {
  return { bytes: Buffer.concat([bytes, Buffer.alloc(8)]), isWide: false, form, offset: 0 };
}

/** Builds a table of blocks of 8 bytes. Throws if that takes many tries. Returns how many tries it took. */
function triesFor(words: readonly Buffer[]): number {
  let tries = 0;
  const table = new BlockTable(words.map(blockOf), 1, () => {
    tries++;
    if (tries > manyTries) throw new Error("The table takes many tries");
    return oddNumbers();
  });
  for (const [index, word] of words.entries()) {
    const found: number[] = [];
    table.find(word, 0, word.length, ({ form }) => found.push(form));
    expect(found).toEqual([index]);
  }
  return tries;
}

/** A copy in which the given bits are flipped. */
function flipped(bytes: Buffer, bits: readonly number[]): Buffer {
  const copy = Buffer.from(bytes);
  for (const bit of bits) copy[bit >> 3] = (copy[bit >> 3] ?? 0) ^ (1 << (bit & 7));
  return copy;
}

/** The block with one or both of its words negated. */
function negated(bytes: Buffer, words: readonly number[]): Buffer {
  const copy = Buffer.from(bytes);
  for (const word of words) copy.writeInt32LE(-bytes.readInt32LE(4 * word) | 0, 4 * word);
  return copy;
}

function distinct(words: readonly Buffer[]): Buffer[] {
  return [...new Map(words.map((word) => [word.toString("latin1"), word])).values()];
}

const eightBytes = fc.uint8Array({ minLength: 8, maxLength: 8 }).map((bytes) => Buffer.from(bytes));

describe("a table of blocks", () => {
  it("is found for two blocks that differ in any two bits", () => {
    const bytes = Buffer.from("abcdefgh");
    for (let one = 0; one < 64; one++) {
      for (let other = one; other < 64; other++)
        triesFor([bytes, flipped(bytes, one === other ? [one] : [one, other])]);
    }
  });

  it("is found for all blocks that differ in one bit, or in any set of the top bits of their bytes", () => {
    const topBits = Array.from({ length: 8 }, (_, byte) => 8 * byte + 7);
    fc.assert(
      fc.property(eightBytes, (bytes) => {
        const single = Array.from({ length: 64 }, (_, bit) => flipped(bytes, [bit]));
        const top = Array.from({ length: 256 }, (_, set) =>
          flipped(
            bytes,
            topBits.filter((_bit, byte) => (set >> byte) & 1),
          ),
        );
        triesFor(distinct([...single, ...top]));
      }),
      { numRuns: Math.min(runs, 500) },
    );
  });

  it("is found for blocks whose words are the negative of each other", () => {
    fc.assert(
      fc.property(fc.array(eightBytes, { minLength: 1, maxLength: 20 }), fc.nat(31), (blocks, zeros) => {
        const words = blocks.flatMap((bytes) => {
          const block = Buffer.from(bytes);
          // The number of zeros at the end of a word decides which bits differ from those of its negative.
          for (const word of [0, 4]) block.writeInt32LE((block.readInt32LE(word) | 1) << zeros, word);
          return [block, negated(block, [0]), negated(block, [1]), negated(block, [0, 1])];
        });
        triesFor(distinct(words));
      }),
      { numRuns: runs },
    );
  });

  it("ends its search with an error if no factors fit", () => {
    const [one, other] = [Buffer.from("abcdefgh"), flipped(Buffer.from("abcdefgh"), [13, 32])];
    let tries = 0;
    const build = () =>
      new BlockTable([one, other].map(blockOf), 1, () => {
        tries++;
        if (tries > 1_000) throw new Error("The search does not end");
        return [1, 1, 1];
      });
    expect(build).toThrow("No table for 2 blocks was found in 40 tries");
  });

  it("is found for two values whose blocks differ only in the top bits of two bytes", () => {
    const values = ["0123456abcdefgh6543210", "0123456abc\u00e4efg\u00e86543210"];
    const needles = new Needles(values.map((value) => ({ value, basic: false })));
    expect(redactText(needles, values.join(" ")).text).toBe("REDACTED REDACTED");
  });
});
