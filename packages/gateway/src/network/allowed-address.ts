import { isNeverAllowed, isNeverAllowedRange, isPublic } from "./address-rules.ts";
import { type AddressBytes, type AddressRange, addressRange, isInRange, isWholeRange, mapped } from "./ip-address.ts";

/** A range of private addresses, and a port, that the operator allows. */
export interface AllowedAddress {
  /** The range, such as `10.0.0.0/8` or `::1/128`. */
  readonly cidr: string;
  /** The port. */
  readonly port: number;
}

/**
 * Reads an exception of the operator: `127.0.0.1:3000`, `10.0.0.0/8:443`, `[::1]:8080` or `[fd00::/8]:443`.
 *
 * @throws TypeError for another text. The message says how an exception is written.
 */
export function parseAllowedAddress(text: string): AllowedAddress {
  const [, bracketed, plain, digits] = /^(?:\[([^[\]]*)\]|([^:[\]]*)):([1-9]\d{0,4})$/.exec(text) ?? [];
  const port = Number(digits);
  const given = bracketed ?? plain ?? "";
  const range = addressRange(given);
  // IPv6 stands in brackets, IPv4 does not.
  const isWritten = range !== undefined && (bracketed !== undefined) === (range.bytes.length === 16);
  if (!isWritten || port > 65_535) {
    throw new TypeError(
      // Not repeated: an operator may have pasted a credential in the place of the address.
      `The text is not an address and a port. Write \`127.0.0.1:3000\` or \`[::1]:8080\` for an address, \`10.0.0.0/8:443\` or \`[fd00::/8]:443\` for a range, or \`main/github=10.0.0.7:443\` for one server. A port is a number from 1 to 65535.`,
    );
  }
  const problem = problemWith(range);
  if (problem !== undefined) throw new TypeError(`${JSON.stringify(text)} cannot be allowed: ${problem}`);
  return { cidr: given.includes("/") ? given : `${given}/${range.bits}`, port };
}

/** Returns the rule that decides which addresses and ports the gateway may dial. */
export function allowance(allowed: readonly AllowedAddress[]): Allowance {
  const exceptions = allowed.map(({ cidr, port }) => {
    const range = addressRange(cidr);
    const problem = range === undefined ? "it is no address range" : problemWith(range);
    if (range === undefined || problem !== undefined) throw new TypeError(`${cidr} cannot be allowed: ${problem}`);
    return { range, port };
  });
  return {
    mayDial(address, port, isEncrypted) {
      if (isNeverAllowed(address)) return false;
      if (isEncrypted && isPublic(address)) return true;
      return exceptions.some((exception) => exception.port === port && isInRange(address, exception.range));
    },
  };
}

/** The addresses that the gateway may dial for one server. */
export interface Allowance {
  /** Returns true for a public address with an encrypted connection, and for an allowed address and port. */
  mayDial(address: AddressBytes, port: number, isEncrypted: boolean): boolean;
}

/** Returns why an operator cannot allow a range; `undefined` if the range can be allowed. */
function problemWith(range: AddressRange): string | undefined {
  if (!isWholeRange(range)) return "its address has bits after the prefix. Write the first address of the range.";
  if (range.bits >= mapped.bits && isInRange(range.bytes, mapped)) return "it is an IPv4 address. Write it as IPv4.";
  if (!isNeverAllowedRange(range)) return undefined;
  return "the gateway never calls metadata services and link-local addresses. Give the server another address.";
}
