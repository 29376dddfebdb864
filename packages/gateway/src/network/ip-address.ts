import { isIPv4, isIPv6 } from "node:net";

/** The bytes of an IP address: 4 of IPv4, 16 of IPv6. */
export type AddressBytes = Uint8Array;

/** The addresses that begin with the same bits. */
export interface AddressRange {
  readonly bytes: AddressBytes;
  /** The number of bits that the addresses share. */
  readonly bits: number;
}

/**
 * Returns the bytes of an address in its usual notation. Returns `undefined` for every other text: a name, an octal,
 * hexadecimal, decimal or short notation, or an IPv6 address with a zone.
 */
export function addressBytes(text: string): AddressBytes | undefined {
  if (isIPv4(text)) return Uint8Array.from(text.split("."), Number);
  if (!isIPv6(text) || text.includes("%")) return undefined;
  // The URL parser writes an IPv4 tail in hexadecimal.
  const [head = "", tail] = new URL(`http://[${text}]`).hostname.slice(1, -1).split("::");
  const first = groups(head);
  if (tail === undefined) return Uint8Array.from(first);
  const last = groups(tail);
  return Uint8Array.from([...first, ...new Array<number>(16 - first.length - last.length).fill(0), ...last]);
}

function groups(text: string): number[] {
  if (text === "") return [];
  return text.split(":").flatMap((group) => {
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  });
}

/** Returns the range that a text such as `10.0.0.0/8` or `fd00::/8` names, and `undefined` for another text. */
export function addressRange(text: string): AddressRange | undefined {
  const [, address = "", digits] = /^([^/]+)(?:\/(0|[1-9]\d{0,2}))?$/.exec(text) ?? [];
  const bytes = addressBytes(address);
  if (bytes === undefined) return undefined;
  const bits = digits === undefined ? bytes.length * 8 : Number(digits);
  return bits > bytes.length * 8 ? undefined : { bytes, bits };
}

/** Returns true if an address is in a range. Returns false for an IPv4 address and an IPv6 range. */
export function isInRange(address: AddressBytes, { bytes, bits }: AddressRange): boolean {
  if (address.length !== bytes.length) return false;
  const whole = bits >> 3;
  for (let index = 0; index < whole; index++) if (address[index] !== bytes[index]) return false;
  const rest = bits & 7;
  return rest === 0 || ((address[whole] ?? 0) ^ (bytes[whole] ?? 0)) >> (8 - rest) === 0;
}

/** Returns true if no bit after the prefix of a range is set. */
export function isWholeRange({ bytes, bits }: AddressRange): boolean {
  return bytes.every((byte, index) => (byte & (0xff >> Math.min(8, Math.max(0, bits - index * 8)))) === 0);
}

/** Returns the IPv4 address in an IPv4-mapped IPv6 address, and every other address as it is. */
export function withoutMapping(address: AddressBytes): AddressBytes {
  return isInRange(address, mapped) ? address.subarray(12) : address;
}

/** The IPv6 addresses `::ffff:a.b.c.d`. A system dials the IPv4 address in them. */
export const mapped: AddressRange = knownRange("::ffff:0:0/96");

/** Returns the range of a constant text in this package. @throws TypeError if the text is not a range. */
export function knownRange(text: string): AddressRange {
  const range = addressRange(text);
  if (range === undefined) throw new TypeError(`${text} is no address range`);
  return range;
}
