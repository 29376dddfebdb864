import fc from "fast-check";
import ipaddr from "ipaddr.js";
import { expect, it } from "vitest";
import { allowance } from "../../src/network/allowed-address.ts";
import { parseAllowedAddress } from "../../src/network/index.ts";
import { addressBytes, isInRange, isWholeRange } from "../../src/network/ip-address.ts";

function mayDial(exceptions: readonly string[], address: string, port: number, isEncrypted = false): boolean {
  const bytes = addressBytes(address);
  if (bytes === undefined) throw new TypeError(`${address} is no address`);
  return allowance(exceptions.map(parseAllowedAddress)).mayDial(bytes, port, isEncrypted);
}

it.each([
  ["127.0.0.1:3000", "127.0.0.1/32", 3000],
  ["10.0.0.0/8:443", "10.0.0.0/8", 443],
  ["0.0.0.0/0:1", "0.0.0.0/0", 1],
  ["[::1]:8080", "::1/128", 8080],
  ["[fd00::/8]:443", "fd00::/8", 443],
  ["[::/0]:65535", "::/0", 65_535],
])("reads %s", (text, cidr, port) => {
  expect(parseAllowedAddress(text)).toEqual({ cidr, port });
});

it.each([
  "",
  "127.0.0.1",
  "127.0.0.1:",
  "127.0.0.1:0",
  "127.0.0.1:080",
  "127.0.0.1:65536",
  "127.0.0.1:http",
  "127.0.0.1:-1",
  "127.0.0.1 :80",
  "127.1:80",
  "0x7f.0.0.1:80",
  "10.0.0.0/33:80",
  "10.0.0.0/08:80",
  "10.0.0.0/:80",
  "10.0.0.0/8/8:80",
  "localhost:80",
  "::1:80",
  "fd00::/8:443",
  "[127.0.0.1]:80",
  "[::1]",
  "[::1]8080",
  "[fd00::/129]:443",
  "[fe80::1%eth0]:80",
  "http://127.0.0.1:80",
])("says how an exception is written when it cannot read %j", (text) => {
  expect(() => parseAllowedAddress(text)).toThrow(
    /is not an address and a port\. Write `127\.0\.0\.1:3000` .*`main\/github=10\.0\.0\.7:443` .* from 1 to 65535/,
  );
});

it.each(["10.1.2.3/8:443", "127.0.0.1/31:80", "[fd00::1/8]:443"])(
  "refuses %s, which has bits after the prefix",
  (text) => {
    expect(() => parseAllowedAddress(text)).toThrow(/Write the first address of the range/);
  },
);

it.each([
  "169.254.169.254:80",
  "169.254.0.0/16:80",
  "169.254.169.0/24:80",
  "168.63.129.16:80",
  "[fd00:ec2::254]:80",
  "[fd00:ec2::/48]:80",
  "[fe80::/10]:80",
  "[64:ff9b::a9fe:a9fe]:80",
])("refuses the metadata address in %s", (text) => {
  expect(() => parseAllowedAddress(text)).toThrow(/never calls metadata services/);
});

it.each(["[::ffff:127.0.0.1]:80", "[::ffff:0:0/96]:80"])("asks for the IPv4 notation instead of %s", (text) => {
  expect(() => parseAllowedAddress(text)).toThrow(/Write it as IPv4/);
});

it("matches ranges as ipaddr.js does", () => {
  const bytesOf = (size: number) => fc.array(fc.integer({ min: 0, max: 255 }), { minLength: size, maxLength: size });
  const pair = fc.oneof(fc.tuple(bytesOf(4), bytesOf(4)), fc.tuple(bytesOf(16), bytesOf(16)));
  fc.assert(
    fc.property(pair, fc.nat(128), fc.nat(128), ([network, other], length, shared) => {
      const bits = length % (network.length * 8 + 1);
      const first = network.map((byte, index) => byte & ~(0xff >> Math.min(8, Math.max(0, bits - index * 8))));
      // The address begins with as many bytes of the network as `shared` says.
      const address = Uint8Array.from(network, (byte, index) => (index * 8 < shared ? byte : (other[index] ?? 0)));
      const range = { bytes: Uint8Array.from(first), bits };
      expect(isWholeRange(range)).toBe(true);
      const text = `${ipaddr.fromByteArray(first)}/${bits}`;
      const matches =
        address.length === 4
          ? ipaddr.IPv4.parse([...address].join(".")).match(ipaddr.IPv4.parseCIDR(text))
          : new ipaddr.IPv6([...address]).match(ipaddr.IPv6.parseCIDR(text));
      expect(isInRange(address, range)).toBe(matches);
    }),
    { numRuns: 5_000 },
  );
});

it("allows an exception at its own port only", () => {
  expect(mayDial(["127.0.0.1:3000"], "127.0.0.1", 3000)).toBe(true);
  expect(mayDial(["127.0.0.1:3000"], "127.0.0.1", 3001, true)).toBe(false);
  expect(mayDial(["127.0.0.1:3000"], "127.0.0.2", 3000)).toBe(false);
  expect(mayDial(["127.0.0.1:3000"], "::1", 3000)).toBe(false);
  expect(mayDial(["[::1]:3000"], "::1", 3000)).toBe(true);
});

it("allows public addresses over https, and over http only by an exception", () => {
  expect(mayDial([], "8.8.8.8", 443, true)).toBe(true);
  expect(mayDial([], "8.8.8.8", 80, false)).toBe(false);
  expect(mayDial(["8.8.8.8:80"], "8.8.8.8", 80, false)).toBe(true);
});

it("does not let a wide exception allow metadata, mapped or translated addresses", () => {
  const all = ["0.0.0.0/0:80", "[::/0]:80"];
  for (const address of [
    "169.254.169.254",
    "168.63.129.16",
    "100.100.100.200",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "::ffff:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
  ]) {
    expect([address, mayDial(all, address, 80, true)]).toEqual([address, false]);
  }
  expect(mayDial(all, "127.0.0.1", 80)).toBe(true);
  expect(mayDial(all, "::1", 80)).toBe(true);
});
