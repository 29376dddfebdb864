import fc from "fast-check";
import ipaddr from "ipaddr.js";
import { expect, it } from "vitest";
import { isNeverAllowed } from "../../src/network/address-rules.ts";
import { isPublicAddress } from "../../src/network/index.ts";
import { addressBytes } from "../../src/network/ip-address.ts";

/** The answer of the oracle: of IPv6, only 2000::/3 is public. */
function isPublicFor(text: string): boolean {
  const address = ipaddr.parse(text);
  const isGiven = address.kind() === "ipv4" || (address.toByteArray()[0] ?? 0) >> 5 === 1;
  return isGiven && address.range() === "unicast";
}

function never(text: string): boolean {
  const bytes = addressBytes(text);
  if (bytes === undefined) throw new TypeError(`${text} is no address`);
  return isNeverAllowed(bytes);
}

const ipv4 = fc.oneof(
  fc.ipV4(),
  // The first and the last address of each /24 in which a special-purpose range begins or ends.
  fc
    .tuple(
      fc.constantFrom(0, 9, 10, 11, 100, 126, 127, 128, 169, 172, 191, 192, 193, 198, 203, 223, 224, 239, 240, 255),
      fc.constantFrom(0, 2, 15, 16, 17, 18, 19, 20, 31, 32, 51, 52, 63, 64, 88, 127, 128, 167, 168, 175, 253, 254, 255),
      fc.constantFrom(0, 1, 2, 3, 47, 48, 49, 98, 99, 100, 112, 113, 114, 192, 193, 195, 196, 197, 255),
      fc.constantFrom(0, 1, 254, 255),
    )
    .map((bytes) => bytes.join(".")),
);

const group = (...often: number[]) =>
  fc.oneof(fc.constantFrom(...often), fc.integer({ min: 0, max: 0xffff })).map((value) => value.toString(16));

const ipv6 = fc.oneof(
  fc.ipV6(),
  fc
    .tuple(
      group(0, 0x64, 0x100, 0x2000, 0x2001, 0x2002, 0x2620, 0x3fff, 0x3ffe, 0x4000, 0xfc00, 0xfe80, 0xfec0, 0xff02),
      group(0, 1, 2, 3, 4, 0x10, 0x1f, 0x20, 0x2f, 0x30, 0x1ff, 0x200, 0xdb8, 0x4f, 0xfff, 0x1000, 0xff9b),
      group(0, 1, 0x112, 0x8000, 0x8001),
      group(0),
      group(0, 0xffff),
      group(0, 0xffff),
      group(0, 0x7f00),
      group(0, 1),
    )
    .map((groups) => groups.join(":")),
);

it("agrees with ipaddr.js on which addresses are public", () => {
  fc.assert(
    fc.property(fc.oneof(ipv4, ipv6), (text) => {
      expect(isPublicAddress(text)).toBe(isPublicFor(text));
    }),
    { numRuns: 20_000 },
  );
});

it("reads the bytes of every notation of IPv6 as ipaddr.js does", () => {
  fc.assert(
    fc.property(fc.oneof(ipv4, ipv6), (text) => {
      // ipaddr.js takes the IPv4-compatible `::1.2.3.4` for the IPv4-mapped `::ffff:1.2.3.4`.
      fc.pre(!/^::\d+\./.test(text));
      const address = ipaddr.parse(text);
      for (const written of [text, text.toUpperCase(), address.toString(), address.toNormalizedString()]) {
        expect([...(addressBytes(written) ?? [])]).toEqual(address.toByteArray());
      }
    }),
    { numRuns: 2_000 },
  );
});

it.each(["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450:4001::200e"])(
  "treats %s as public",
  (text) => {
    expect(isPublicAddress(text)).toBe(true);
  },
);

it.each([
  "localhost",
  "",
  "2130706433",
  "0x7f000001",
  "0x7f.1",
  "0177.0.0.1",
  "127.1",
  "127.0.1",
  "127.0.0.1.",
  "8.8.8.8.",
  " 8.8.8.8",
  "8.8.8.8:80",
  "008.8.8.8",
  "[2606:4700:4700::1111]",
  "2606:4700:4700::1111%eth0",
  "fe80::1%1",
  "::",
  "::1",
  "0:0:0:0:0:0:0:1",
  "::127.0.0.1",
  "::ffff:127.0.0.1",
  "::ffff:7f00:1",
  "::ffff:8.8.8.8",
  "::ffff:0:127.0.0.1",
  "64:ff9b::127.0.0.1",
  "64:ff9b::8.8.8.8",
  "64:ff9b:1::1",
  "2002:7f00:1::",
  "2002:808:808::1",
  "2001:0:808:808::1",
  "fd00::1",
  "fec0::1",
  "ff02::1",
])("does not treat %j as public", (text) => {
  expect(isPublicAddress(text)).toBe(false);
});

it.each([
  "169.254.169.254",
  "169.254.170.2",
  "169.254.0.1",
  "168.63.129.16",
  "100.100.100.200",
  "192.0.0.192",
  "fd00:ec2::254",
  "fd00:ec2::23",
  "fd20:ce::254",
  "fe80::a9fe:a9fe",
  "::ffff:169.254.169.254",
  "::ffff:8.8.8.8",
  "::169.254.169.254",
  "64:ff9b::169.254.169.254",
  "64:ff9b::168.63.129.16",
  "64:ff9b:1:a9fe:a9:fe00::",
  "64:ff9b:1::100.100.100.200",
  "2002:a9fe:a9fe::1",
  "2001:0:1::5601:5601",
  "fd12:3456::169.254.169.254",
  "2606:4700::169.254.169.254",
  "fd00::5efe:169.254.169.254",
])("never allows %s, not even by an exception", (text) => {
  expect(never(text)).toBe(true);
});

it.each(["127.0.0.1", "10.0.0.1", "8.8.8.8", "::1", "fd00::1", "2606:4700::a9fe:1234", "100.100.100.201"])(
  "lets an exception allow %s",
  (text) => {
    expect(never(text)).toBe(false);
  },
);
