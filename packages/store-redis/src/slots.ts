import type { Buffer } from "node:buffer";

/** Number of slots of a Redis Cluster. */
export const slotCount = 16_384;

/** A set of slots of a Cluster. `toString()` returns Redis' notation, such as `0-5460,9000`. */
export class Slots {
  readonly #has = new Uint8Array(slotCount);

  /**
   * Parses a set of slots in Redis' notation, such as `0-5460,9000`. Returns `undefined` if the text is not a valid set
   * of slots.
   */
  static parse(text: string): Slots | undefined {
    const slots = new Slots();
    for (const range of text === "" ? [] : text.split(",")) {
      const [, from, to = from] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(range) ?? [];
      if (from === undefined || Number(from) > Number(to) || Number(to) >= slotCount) return undefined;
      slots.addRange(Number(from), Number(to));
    }
    return slots;
  }

  /**
   * Divides all slots into `count` sets of about equal size. If `count` is above the number of slots, returns one set
   * per slot.
   */
  static parts(count: number): Slots[] {
    const parts = Math.min(count, slotCount);
    return Array.from({ length: parts }, (_, index) => {
      const slots = new Slots();
      const [first, next] = [index, index + 1].map((bound) => Math.floor((bound * slotCount) / parts));
      slots.addRange(first ?? 0, (next ?? slotCount) - 1);
      return slots;
    });
  }

  addRange(first: number, last: number): void {
    this.#has.fill(1, first, last + 1);
  }

  add(slot: number): void {
    this.#has[slot] = 1;
  }

  delete(slot: number): void {
    this.#has[slot] = 0;
  }

  has(slot: number): boolean {
    return this.#has[slot] === 1;
  }

  /** Number of slots in the set. */
  get size(): number {
    let size = 0;
    for (const has of this.#has) size += has;
    return size;
  }

  get isEmpty(): boolean {
    return !this.#has.includes(1);
  }

  get isFull(): boolean {
    return !this.#has.includes(0);
  }

  *[Symbol.iterator](): Generator<number> {
    for (let slot = this.#has.indexOf(1); slot !== -1; slot = this.#has.indexOf(1, slot + 1)) yield slot;
  }

  toString(): string {
    const ranges: string[] = [];
    for (let first = this.#has.indexOf(1); first !== -1; ) {
      const end = this.#has.indexOf(0, first);
      const last = (end === -1 ? slotCount : end) - 1;
      ranges.push(first === last ? `${first}` : `${first}-${last}`);
      first = end === -1 ? -1 : this.#has.indexOf(1, end);
    }
    return ranges.join(",");
  }
}

/** The CRC16 (XMODEM) of each byte. */
const crcOfByte = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1;
  return crc;
});

/**
 * Returns the slot of a key in Redis: the CRC16 (XMODEM) of the key, modulo 16,384. If the key has a hash tag (text
 * between its first braces), the slot is computed from the hash tag only.
 */
export function slotOf(key: Buffer): number {
  const open = key.indexOf("{");
  const close = open === -1 ? -1 : key.indexOf("}", open + 1);
  const hashed = close > open + 1 ? key.subarray(open + 1, close) : key;
  let crc = 0;
  for (const byte of hashed) crc = ((crc << 8) ^ (crcOfByte[((crc >> 8) ^ byte) & 0xff] ?? 0)) & 0xffff;
  return crc & (slotCount - 1);
}
