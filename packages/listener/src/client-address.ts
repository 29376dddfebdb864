import { BlockList, isIP, isIPv4, isIPv6 } from "node:net";
import { KeywardError } from "@keyward/core";

const maxForwarded = 32;

/**
 * Finds the IP address of the client that sent a request. Without a proxy, this is the address of the connection. If the
 * connection comes from a trusted proxy, this is the last address in `X-Forwarded-For` that is not a trusted proxy.
 */
export class ClientAddresses {
  readonly #trusted = new BlockList();
  readonly #trustsAny: boolean;

  /**
   * Reads the addresses of the trusted proxies. The header `X-Forwarded-For` of any other sender is ignored.
   *
   * @throws KeywardError `VALUE_INVALID` if one of `trustProxies` is not an IP address or a CIDR block.
   */
  constructor(trustProxies: readonly string[]) {
    for (const [index, block] of trustProxies.entries()) this.#trust(block, index);
    this.#trustsAny = trustProxies.length > 0;
  }

  /**
   * Returns the client's address.
   *
   * @param connection the address at the other end of the connection.
   * @param forwardedFor the header `X-Forwarded-For`, if the request has one.
   */
  of(connection: string | undefined, forwardedFor: string | undefined): string | undefined {
    let address = connection === undefined ? undefined : plain(connection);
    if (!this.#trustsAny || address === undefined || forwardedFor === undefined) return address;
    const hops = forwardedFor.split(",").slice(-maxForwarded).reverse();
    for (const hop of hops) {
      if (!this.#isTrusted(address)) return address;
      const next = plain(hop.trim());
      if (isIP(next) === 0) return address;
      address = next;
    }
    return address;
  }

  #isTrusted(address: string): boolean {
    return isIP(address) !== 0 && this.#trusted.check(address, isIPv4(address) ? "ipv4" : "ipv6");
  }

  #trust(block: string, index: number): void {
    const [address = "", bits, ...rest] = block.split("/");
    const family = isIPv4(address) ? "ipv4" : "ipv6";
    const most = family === "ipv4" ? 32 : 128;
    const prefix = bits === undefined ? most : /^\d{1,3}$/.test(bits) ? Number(bits) : -1;
    if (isIP(address) === 0 || rest.length > 0 || prefix < 0 || prefix > most) {
      throw new KeywardError("VALUE_INVALID", `trustProxies[${index}] is not an IP address or a CIDR block`, {
        hint: "Write each proxy as an IP address, such as 10.0.0.7, or as a CIDR block, such as 10.0.0.0/8 or fd00::/8.",
      });
    }
    this.#trusted.addSubnet(address, prefix, family);
  }
}

/** Converts an IPv4 address that a dual-stack socket shows as IPv6 (::ffff:…) to IPv4. Returns other addresses unchanged. */
function plain(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  return mapped?.[1] ?? address;
}

/**
 * Returns the first 64 bits of an IPv6 address, because one caller usually has all addresses that begin with them.
 * Returns an IPv4 address unchanged.
 */
export function networkOf(given: string): string {
  const address = plain(given);
  if (!isIPv6(address)) return address;
  const [head = "", tail = ""] = address.split("::");
  const groupsOf = (part: string) => (part === "" ? [] : part.split(":").map((group) => Number.parseInt(group, 16)));
  const [left, right] = [groupsOf(head), groupsOf(tail)];
  const zeros = Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => 0);
  return [...left, ...zeros, ...right].slice(0, 4).join(":");
}
