import { type AddressBytes, type AddressRange, addressBytes, isInRange, knownRange, mapped } from "./ip-address.ts";

/** The special-purpose IPv4 ranges in IANA's registry, and the multicast addresses. */
const specialIPv4 = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.31.196.0/24",
  "192.52.193.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "192.175.48.0/24",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4",
  "240.0.0.0/4",
].map(knownRange);

/** The unicast addresses that IANA has given out. Loopback, local, mapped and translated addresses are outside. */
const globalIPv6 = knownRange("2000::/3");

/** The special-purpose ranges inside of {@link globalIPv6}: protocol assignments, documentation, 6to4, AS112. */
const specialIPv6 = ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"].map(knownRange);

/**
 * The addresses at which cloud metadata services give credentials to a machine. No exception allows them: through the gateway,
 * a caller could get the credentials of the gateway's machine.
 */
const metadata = [
  "169.254.169.254", // AWS, Google, Azure, Oracle, OpenStack and others
  "169.254.170.2", // AWS, credentials of containers
  "169.254.170.23", // AWS, credentials of pods
  "169.254.42.42", // Scaleway
  "169.254.0.23", // Tencent
  "168.63.129.16", // Azure
  "100.100.100.200", // Alibaba
  "192.0.0.192", // Oracle
  "fd00:ec2::/32", // AWS
  "fd20:ce::254", // Google
].map(knownRange);

/** Further services of a cloud may answer at each link-local address, so no exception allows one. */
const neverAllowed = [mapped, ...metadata, ...["169.254.0.0/16", "fe80::/10"].map(knownRange)];

const sixToFour = knownRange("2002::/16");
const teredo = knownRange("2001::/32");
const localTranslation = knownRange("64:ff9b:1::/48");

/**
 * Returns true for an address of the public internet. Returns false for every special-purpose address, and for a text
 * that is no address in the usual notation.
 */
export function isPublicAddress(address: string): boolean {
  const bytes = addressBytes(address);
  return bytes !== undefined && isPublic(bytes);
}

export function isPublic(address: AddressBytes): boolean {
  if (address.length === 4) return !specialIPv4.some((range) => isInRange(address, range));
  return isInRange(address, globalIPv6) && !specialIPv6.some((range) => isInRange(address, range));
}

/** Returns true for an address that no exception allows: metadata, link-local, or IPv4 that is written as IPv6. */
export function isNeverAllowed(address: AddressBytes): boolean {
  const isIn = (reached: AddressBytes, ranges: readonly AddressRange[]) =>
    ranges.some((range) => isInRange(reached, range));
  if (isIn(address, neverAllowed)) return true;
  // A network's own NAT64 prefix can be a public address. One in 65,536 public addresses ends like a link-local address.
  return translated(address).some((reached) => isIn(reached, isPublic(address) ? metadata : neverAllowed));
}

/** Returns true if no exception can allow any address of a range. */
export function isNeverAllowedRange({ bytes, bits }: AddressRange): boolean {
  if (bits === bytes.length * 8) return isNeverAllowed(bytes);
  return neverAllowed.some((range) => bits >= range.bits && isInRange(bytes, range));
}

/** Returns the IPv4 addresses to which a network's translator, such as NAT64, could translate an IPv6 address. */
function translated(address: AddressBytes): AddressBytes[] {
  if (address.length === 4) return [];
  // NAT64 with a prefix of 96 bits, well known or the network's own, IPv4-compatible addresses, and ISATAP.
  const found = [address.subarray(12)];
  if (isInRange(address, sixToFour)) found.push(address.subarray(2, 6));
  if (isInRange(address, teredo)) found.push(address.subarray(12).map((byte) => byte ^ 0xff));
  // RFC 6052 leaves out byte 8 where the prefix has 48 bits.
  if (isInRange(address, localTranslation)) {
    found.push(Uint8Array.from([...address.subarray(6, 8), ...address.subarray(9, 11)]));
  }
  return found;
}
