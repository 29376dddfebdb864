import { randomFillSync } from "node:crypto";
import { endianness } from "node:os";

/** A part of a form, by which the form is found. */
export interface Block {
  /** The 16 bytes from the first byte of the block on. Of a narrow block, only the first 8 count. */
  readonly bytes: Uint8Array;
  readonly isWide: boolean;
  readonly form: number;
  /** Where the block begins in the form. */
  readonly offset: number;
}

/** Distance of the blocks that are looked up: how many consecutive blocks of each form a table needs. */
export type Stride = 1 | 4 | 8;

/** Bytes that a look-up reads, some of them perhaps behind the end of the text. */
export const lookUpBytes = 16;
export const narrowBytes = 8;

const isLittleEndian = endianness() === "LE";

/**
 * A set of blocks of 8 or 16 bytes, made to be looked up at each position of a long text.
 *
 * The table is a perfect hash: each block has a slot of its own. A look-up takes the same steps for every text that is not
 * a block, because it compares all bytes before it branches. So the time of a search tells nothing about a part of a block.
 * The only exception: where two wide blocks agree in their first 8 bytes, these 8 bytes count as found.
 */
export class BlockTable {
  readonly #stride: Stride;
  /** The blocks with the same first 8 bytes, for each such 8 bytes. */
  readonly #entries: readonly (readonly Block[])[];
  /** For each slot: four words of the block, the mask of the last two, and the index of its entry. */
  #slots = new Int32Array(0);
  /** How far each bucket of entries is moved, so that each entry has a slot of its own. */
  #shifts = new Int32Array(0);
  #slotMask = 0;
  #bucketShift = 0;
  /** Random for each table, so that nobody outside knows which texts share a slot. */
  #factors: readonly [number, number, number] = [1, 1, 1];

  constructor(blocks: readonly Block[], stride: Stride) {
    this.#stride = isLittleEndian ? stride : 1;
    this.#entries = Object.values(
      Object.groupBy(blocks, ({ bytes }) => Buffer.from(bytes).toString("latin1", 0, narrowBytes)),
    ).filter((entry) => entry !== undefined);
    if (this.#entries.length === 0) return;
    do {
      const [factor0 = 0, factor1 = 0, factor2 = 0] = randomFillSync(new Int32Array(3));
      this.#factors = [factor0 | 1, factor1 | 1, factor2 | 1];
    } while (!this.#place());
  }

  /**
   * Looks for the blocks that begin at `from` or behind, and end at `to` or before. Calls `found` with the position of each block.
   * `bytes` has to begin at a multiple of 4 of its buffer, and to have {@link lookUpBytes} of any content behind `to`.
   */
  find(bytes: Uint8Array, from: number, to: number, found: (block: Block, position: number) => void): void {
    if (this.#entries.length === 0 || to - from < narrowBytes) return;
    const text = new Int32Array(bytes.buffer, bytes.byteOffset, (to + lookUpBytes) >> 2);
    const stride = this.#stride;
    const last = to - narrowBytes;
    let position = Math.ceil(from / stride) * stride;
    while (position <= last) {
      position = stride === 1 ? this.#nextAtEach(bytes, position, last) : this.#nextAtStride(text, position, last);
      if (position > last) return;
      for (const block of this.#entries[this.#entryAt(bytes, position)] ?? []) found(block, position);
      position += stride;
    }
  }

  // The two loops below call nothing, so that they stay as fast as they are: 0.5 ms a MiB at stride 8.

  /** The first position at a multiple of the stride that has a block, or a position behind `last`. */
  #nextAtStride(text: Int32Array, from: number, last: number): number {
    const [slots, shifts, slotMask, bucketShift] = [this.#slots, this.#shifts, this.#slotMask, this.#bucketShift];
    const [factor0, factor1, factor2] = this.#factors;
    const step = this.#stride >> 2;
    const lastWord = last >> 2;
    let word = from >> 2;
    for (; word <= lastWord; word += step) {
      const word0 = text[word] ?? 0;
      const word1 = text[word + 1] ?? 0;
      let hash = (Math.imul(word0, factor0) + Math.imul(word1, factor1)) | 0;
      hash = Math.imul(hash ^ (hash >>> 16), factor2);
      const slot = (((hash ^ (hash >>> 15)) + (shifts[hash >>> bucketShift] ?? 0)) & slotMask) << 3;
      const narrow = (word0 ^ (slots[slot] ?? 0)) | (word1 ^ (slots[slot + 1] ?? 0));
      const rest = ((text[word + 2] ?? 0) ^ (slots[slot + 2] ?? 0)) | ((text[word + 3] ?? 0) ^ (slots[slot + 3] ?? 0));
      if ((narrow | (rest & (slots[slot + 4] ?? 0))) === 0) break;
    }
    return word << 2;
  }

  /** The same for stride 1, where words begin at any byte: each step moves the four words on by one byte. */
  #nextAtEach(bytes: Uint8Array, from: number, last: number): number {
    const [slots, shifts, slotMask, bucketShift] = [this.#slots, this.#shifts, this.#slotMask, this.#bucketShift];
    const [factor0, factor1, factor2] = this.#factors;
    let [word0, word1, word2, word3] = wordsAt(bytes, from);
    let position = from;
    for (; position <= last; position++) {
      let hash = (Math.imul(word0, factor0) + Math.imul(word1, factor1)) | 0;
      hash = Math.imul(hash ^ (hash >>> 16), factor2);
      const slot = (((hash ^ (hash >>> 15)) + (shifts[hash >>> bucketShift] ?? 0)) & slotMask) << 3;
      const narrow = (word0 ^ (slots[slot] ?? 0)) | (word1 ^ (slots[slot + 1] ?? 0));
      const rest = (word2 ^ (slots[slot + 2] ?? 0)) | (word3 ^ (slots[slot + 3] ?? 0));
      if ((narrow | (rest & (slots[slot + 4] ?? 0))) === 0) break;
      word0 = (word0 >>> 8) | (word1 << 24);
      word1 = (word1 >>> 8) | (word2 << 24);
      word2 = (word2 >>> 8) | (word3 << 24);
      word3 = (word3 >>> 8) | ((bytes[position + lookUpBytes] ?? 0) << 24);
    }
    return position;
  }

  /** The index of the entry with the block at a position. */
  #entryAt(bytes: Uint8Array, position: number): number {
    const [word0, word1] = wordsAt(bytes, position);
    const hash = this.#hash(word0, word1);
    const slot = this.#slotOf(hash, this.#shifts[hash >>> this.#bucketShift] ?? 0);
    return this.#slots[(slot << 3) + 5] ?? 0;
  }

  #hash(word0: number, word1: number): number {
    const [factor0, factor1, factor2] = this.#factors;
    const hash = (Math.imul(word0, factor0) + Math.imul(word1, factor1)) | 0;
    return Math.imul(hash ^ (hash >>> 16), factor2);
  }

  #slotOf(hash: number, shift: number): number {
    return ((hash ^ (hash >>> 15)) + shift) & this.#slotMask;
  }

  /** Gives each entry a slot. Returns false if no slots were found under these factors. */
  #place(): boolean {
    const size = 1 << Math.ceil(Math.log2(2 * this.#entries.length));
    const buckets: { readonly entry: number; readonly hash: number; readonly words: Words }[][] = [];
    this.#bucketShift = 32 - Math.log2(size);
    this.#slotMask = size - 1;
    for (const [entry, [block]] of this.#entries.entries()) {
      if (block === undefined) continue;
      const words = wordsAt(block.bytes, 0);
      const hash = this.#hash(words[0], words[1]);
      const bucket = buckets[hash >>> this.#bucketShift] ?? [];
      bucket.push({ entry, hash, words });
      buckets[hash >>> this.#bucketShift] = bucket;
    }
    // An entry that belongs to another slot fills the empty slots: no text that is looked up there equals it.
    const isTaken = new Uint8Array(size);
    this.#shifts = new Int32Array(size);
    this.#slots = new Int32Array(size << 3);
    const order = [...buckets.keys()].sort((a, b) => (buckets[b]?.length ?? 0) - (buckets[a]?.length ?? 0));
    for (const index of order) {
      const bucket = buckets[index] ?? [];
      const shift = this.#shiftFor(
        bucket.map(({ hash }) => hash),
        isTaken,
      );
      if (shift === undefined) return false;
      this.#shifts[index] = shift;
      for (const { entry, hash, words } of bucket) {
        const slot = this.#slotOf(hash, shift);
        isTaken[slot] = 1;
        this.#slots.set([...words, hasOneWideBlock(this.#entries[entry] ?? []) ? -1 : 0, entry], slot << 3);
      }
    }
    const foreign = this.#slots.slice(isTaken.indexOf(1) << 3, (isTaken.indexOf(1) + 1) << 3);
    for (let slot = 0; slot < size; slot++) if (isTaken[slot] === 0) this.#slots.set(foreign, slot << 3);
    return true;
  }

  /** A shift that gives all hashes free and different slots. */
  #shiftFor(hashes: readonly number[], isTaken: Uint8Array): number | undefined {
    for (let shift = 0; shift < isTaken.length; shift++) {
      const slots = hashes.map((hash) => this.#slotOf(hash, shift));
      if (slots.every((slot, index) => isTaken[slot] === 0 && slots.indexOf(slot) === index)) return shift;
    }
    return undefined;
  }
}

type Words = readonly [number, number, number, number];

/** 16 bytes as little-endian words. Bytes that are absent count as 0. */
function wordsAt(bytes: Uint8Array, position: number): Words {
  const word = (first: number) => {
    let value = 0;
    for (let byte = 3; byte >= 0; byte--) value = (value << 8) | (bytes[first + byte] ?? 0);
    return value;
  };
  return [word(position), word(position + 4), word(position + 8), word(position + 12)];
}

/** Whether all blocks are wide and the same. Otherwise only their first 8 bytes can be compared. */
function hasOneWideBlock(blocks: readonly Block[]): boolean {
  return blocks.every(({ bytes, isWide }) => isWide && Buffer.compare(bytes, blocks[0]?.bytes ?? bytes) === 0);
}
