import { randomFillSync } from "node:crypto";

/** A part of a form, by which the form is found. */
export interface Block {
  /** The 16 bytes from the first byte of the block on. Of a narrow block, only the first 8 count. */
  readonly bytes: Uint8Array;
  readonly isWide: boolean;
  readonly form: number;
  /** Where the block begins in the form. */
  readonly offset: number;
}

/** Bytes that a look-up reads. */
export const lookUpBytes = 16;
export const narrowBytes = 8;

/** What a slot has: four words of the block, the mask of the last two, and the index of its entry. */
const slotWords = 8;
const maskWord = 4;
const entryWord = 5;

/** How often a table of one size is tried with other factors before a larger one is tried. */
const triesOfSize = 8;

/** A try fails less often than not, whatever the blocks are. So this bound is practically never reached. */
const mostTries = 5 * triesOfSize;

type Factors = readonly [number, number, number];

/**
 * A set of blocks of 8 or 16 bytes, made to be looked up at each `stride` bytes of a long text.
 *
 * The table is a perfect hash: each block has a slot of its own. A look-up takes the same steps for every text that is not
 * a block, because it compares all bytes before it branches. So the time of a search tells nothing about a part of a block.
 * The only exception: where two wide blocks agree in their first 8 bytes, these 8 bytes count as found.
 */
export class BlockTable {
  readonly #stride: number;
  /** The blocks with the same first 8 bytes, for each such 8 bytes. */
  readonly #entries: readonly (readonly Block[])[];
  #slots = new Int32Array(0);
  /** What the slots of each bucket of entries are combined with, so that each entry has a slot of its own. */
  #shifts = new Int32Array(0);
  /** The first bits of a hash are the bucket, and the bits after them the slot. */
  #bits = 0;
  /** Random for each table, so that nobody outside knows which texts share a slot. */
  #factors: Factors = [1, 1, 1];

  /**
   * @param drawFactors returns three odd numbers. Called for each try to find a table. Default: random numbers.
   * @throws Error if no table is found, which needs factors that are not random.
   */
  constructor(blocks: readonly Block[], stride: number, drawFactors = randomFactors) {
    this.#stride = stride;
    const entries = new Map<string, Block[]>();
    for (const block of blocks) {
      const key = Buffer.from(block.bytes.buffer, block.bytes.byteOffset, narrowBytes).toString("latin1");
      const entry = entries.get(key);
      if (entry === undefined) entries.set(key, [block]);
      else entry.push(block);
    }
    this.#entries = [...entries.values()];
    if (this.#entries.length === 0) return;
    const bits = Math.ceil(Math.log2(2 * this.#entries.length));
    for (let tries = 0; tries < mostTries; tries++) {
      this.#factors = drawFactors();
      if (this.#place(bits + Math.floor(tries / triesOfSize))) return;
    }
    throw new Error(`No table for ${this.#entries.length} blocks was found in ${mostTries} tries`);
  }

  /**
   * Looks for the blocks that begin at `from` or behind, and end at `to` or before. Calls `found` with the position of each block
   * that a look-up meets. The first look-up is at `from`.
   */
  find(bytes: Uint8Array, from: number, to: number, found: (block: Block, position: number) => void): void {
    if (this.#entries.length === 0) return;
    const last = to - narrowBytes;
    const next = this.#findUntil(bytes, from, Math.min(last, bytes.length - lookUpBytes), 0, found);
    if (next > last) return;
    // A look-up would read bytes behind the end of the buffer.
    const end = new Uint8Array(2 * lookUpBytes);
    end.set(bytes.subarray(next, to));
    this.#findUntil(end, 0, last - next, next, found);
  }

  /** Returns the first position behind `last` that is to be looked up. `offset` is added to the positions that are found. */
  #findUntil(
    bytes: Uint8Array,
    from: number,
    last: number,
    offset: number,
    found: (block: Block, position: number) => void,
  ): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let position = from;
    while (position <= last) {
      position = this.#next(view, position, last);
      if (position > last) break;
      for (const block of this.#entries[this.#entryAt(view, position)] ?? []) found(block, position + offset);
      position += this.#stride;
    }
    return position;
  }

  /** The first position with a block, or a position behind `last`. The loop calls nothing, so that it stays as fast as it is. */
  #next(view: DataView, from: number, last: number): number {
    const [slots, shifts, stride] = [this.#slots, this.#shifts, this.#stride];
    const [factor0, factor1, factor2] = this.#factors;
    const mask = shifts.length - 1;
    const bucketShift = 32 - this.#bits;
    const slotShift = Math.max(0, bucketShift - this.#bits);
    let position = from;
    for (; position <= last; position += stride) {
      const word0 = view.getInt32(position, true);
      const word1 = view.getInt32(position + 4, true);
      const product = Math.imul(word1, factor1);
      const hash = Math.imul(Math.imul(word0, factor0) ^ ((product << 13) | (product >>> 19)), factor2);
      const slot = (((hash >>> slotShift) ^ (shifts[hash >>> bucketShift] ?? 0)) & mask) * slotWords;
      const narrow = (word0 ^ (slots[slot] ?? 0)) | (word1 ^ (slots[slot + 1] ?? 0));
      const rest =
        (view.getInt32(position + 8, true) ^ (slots[slot + 2] ?? 0)) |
        (view.getInt32(position + 12, true) ^ (slots[slot + 3] ?? 0));
      if ((narrow | (rest & (slots[slot + maskWord] ?? 0))) === 0) break;
    }
    return position;
  }

  /** The index of the entry with the block at a position. */
  #entryAt(view: DataView, position: number): number {
    const hash = this.#hash(view.getInt32(position, true), view.getInt32(position + 4, true));
    return this.#slots[this.#slotOf(hash, this.#shifts[this.#bucketOf(hash)] ?? 0) * slotWords + entryWord] ?? 0;
  }

  /**
   * No two blocks have the same hash under all factors. The top bit of a product is that of its word, and the product of `-word`
   * is the complement. So without the rotation, such differences of both words would cancel out under all factors. The last
   * factor lets the first bits, which choose a bucket and a slot, depend on all bits.
   */
  #hash(word0: number, word1: number): number {
    const product = Math.imul(word1, this.#factors[1]);
    const both = Math.imul(word0, this.#factors[0]) ^ ((product << 13) | (product >>> 19));
    return Math.imul(both, this.#factors[2]);
  }

  #bucketOf(hash: number): number {
    return hash >>> (32 - this.#bits);
  }

  #slotOf(hash: number, shift: number): number {
    return ((hash >>> Math.max(0, 32 - 2 * this.#bits)) ^ shift) & (this.#shifts.length - 1);
  }

  /** Gives each entry one of 2^`bits` slots. Returns false if no slots were found under the factors of now. */
  #place(bits: number): boolean {
    this.#bits = bits;
    const size = 1 << bits;
    this.#shifts = new Int32Array(size);
    this.#slots = new Int32Array(size * slotWords);
    const buckets = new Map<number, { readonly entry: number; readonly hash: number; readonly words: Words }[]>();
    for (const [entry, [block]] of this.#entries.entries()) {
      if (block === undefined) continue;
      const words = wordsOf(block.bytes);
      const hash = this.#hash(words[0], words[1]);
      const bucket = buckets.get(this.#bucketOf(hash));
      if (bucket === undefined) buckets.set(this.#bucketOf(hash), [{ entry, hash, words }]);
      else bucket.push({ entry, hash, words });
    }
    const isTaken = new Uint8Array(size);
    for (const [index, bucket] of [...buckets].sort(([, one], [, other]) => other.length - one.length)) {
      const hashes = bucket.map(({ hash }) => hash);
      const shift = this.#shiftFor(hashes, isTaken);
      if (shift === undefined) return false;
      this.#shifts[index] = shift;
      for (const { entry, hash, words } of bucket) {
        const slot = this.#slotOf(hash, shift);
        isTaken[slot] = 1;
        this.#slots.set([...words, hasOneWideBlock(this.#entries[entry] ?? []) ? -1 : 0, entry], slot * slotWords);
      }
    }
    // An entry that belongs to another slot fills the empty slots: no text that is looked up there equals it.
    const first = isTaken.indexOf(1) * slotWords;
    const foreign = this.#slots.slice(first, first + slotWords);
    for (let slot = 0; slot < size; slot++) if (isTaken[slot] === 0) this.#slots.set(foreign, slot * slotWords);
    return true;
  }

  /** A shift that gives all hashes free and different slots. */
  #shiftFor(hashes: readonly number[], isTaken: Uint8Array): number | undefined {
    const own = hashes.map((hash) => this.#slotOf(hash, 0));
    if (new Set(own).size < own.length) return undefined;
    for (let shift = 0; shift < isTaken.length; shift++) {
      if (own.every((slot) => isTaken[slot ^ shift] === 0)) return shift;
    }
    return undefined;
  }
}

function randomFactors(): Factors {
  const [factor0 = 0, factor1 = 0, factor2 = 0] = randomFillSync(new Int32Array(3));
  return [factor0 | 1, factor1 | 1, factor2 | 1];
}

type Words = readonly [number, number, number, number];

/** 16 bytes as little-endian words. Bytes that are absent count as 0. */
function wordsOf(bytes: Uint8Array): Words {
  const padded = Buffer.alloc(lookUpBytes);
  padded.set(bytes.subarray(0, lookUpBytes));
  return [padded.readInt32LE(0), padded.readInt32LE(4), padded.readInt32LE(8), padded.readInt32LE(12)];
}

/** Whether all blocks are wide and the same. Otherwise only their first 8 bytes can be compared. */
function hasOneWideBlock(blocks: readonly Block[]): boolean {
  return blocks.every(({ bytes, isWide }) => isWide && Buffer.compare(bytes, blocks[0]?.bytes ?? bytes) === 0);
}
