import { type AllowedAddress, parseAllowedAddress } from "../network/index.ts";

/** A private address that the operator allows, for one server or for all servers. */
export interface AddressException extends AllowedAddress {
  /** The workspace and the slug of the one server that may have the address, such as `main/github`. Default: every server. */
  readonly server?: string | undefined;
}

const ofServer = /^([a-z0-9-]+\/[a-z0-9-]+)=(.*)$/;

/**
 * Reads an exception as an operator writes it: an address or a range with a port, such as `127.0.0.1:3000` or
 * `10.0.0.0/8:443`; for one server, after its name, such as `main/github=10.0.0.7:443`.
 *
 * @throws TypeError for another text. The message says how an exception is written.
 * @example
 * console.log(parseAddressException("main/github=10.0.0.7:443")); // { cidr: "10.0.0.7/32", port: 443, server: "main/github" }
 */
export function parseAddressException(text: string): AddressException {
  const [, server, address] = ofServer.exec(text) ?? [];
  if (server === undefined || address === undefined) return parseAllowedAddress(text);
  return { ...parseAllowedAddress(address), server };
}

/** Returns the exceptions that apply to one server. */
export function exceptionsOf(exceptions: readonly AddressException[], name: string): readonly AllowedAddress[] {
  return exceptions.filter(({ server }) => server === undefined || server === name);
}
