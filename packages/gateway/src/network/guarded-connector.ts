import { lookup } from "node:dns/promises";
import { Socket } from "node:net";
import { buildConnector } from "undici";
import type { Allowance } from "./allowed-address.ts";
import { type AddressBytes, addressBytes, withoutMapping } from "./ip-address.ts";
import { NetworkError } from "./network-error.ts";

/** Returns all addresses of a host. */
export type ResolveHost = (host: string) => Promise<readonly string[]>;

export interface GuardedConnectorOptions {
  readonly allowance: Allowance;
  readonly resolve: ResolveHost;
  readonly connectTimeoutMs: number;
  readonly certificateAuthorities: string | undefined;
}

/** One attempt to connect: the host and port of the URL, and the time limit. */
interface Attempt {
  readonly host: string;
  readonly port: number;
  readonly isEncrypted: boolean;
  readonly endsAt: number;
}

/** An address that was checked and may be dialled. */
interface Checked {
  readonly text: string;
  readonly bytes: AddressBytes;
}

/** Resolves a host with the operating system, which also reads `/etc/hosts`. */
export const resolveHost: ResolveHost = async (host) => {
  const found = await lookup(host, { all: true });
  return found.map(({ address }) => address);
};

/**
 * Makes the function with which undici connects. The function resolves the host once, refuses it if any of its addresses is
 * not allowed, and dials only the checked addresses. So a DNS answer that changes afterwards cannot lead to another address.
 */
export function guardedConnector(options: GuardedConnectorOptions): buildConnector.connector {
  const { allowance, resolve, connectTimeoutMs, certificateAuthorities } = options;
  const dial = buildConnector({
    // The deadline below also covers the resolver.
    timeout: 0,
    allowH2: false,
    ...(certificateAuthorities === undefined ? {} : { ca: certificateAuthorities }),
  });

  const connect = async ({ hostname, port, protocol }: buildConnector.Options): Promise<Socket> => {
    const isEncrypted = protocol === "https:";
    const host = hostname.replace(/^\[(.*)\]$/, "$1");
    const attempt: Attempt = {
      host,
      port: port === "" ? (isEncrypted ? 443 : 80) : Number(port),
      isEncrypted,
      endsAt: performance.now() + connectTimeoutMs,
    };
    const checked = check(attempt, allowance, await addressesOf(attempt, resolve));
    return await dialFirst(dial, attempt, checked);
  };
  return (request, callback) => {
    connect(request).then(
      (socket) => callback(null, socket),
      (error: unknown) => callback(error instanceof Error ? error : new Error(String(error)), null),
    );
  };
}

async function addressesOf(attempt: Attempt, resolve: ResolveHost): Promise<readonly string[]> {
  const { host, endsAt } = attempt;
  if (addressBytes(host) !== undefined) return [host];
  const deadline = Promise.withResolvers<never>();
  const timer = setTimeout(
    () => deadline.reject(timedOut(host, "the resolver did not answer")),
    endsAt - performance.now(),
  );
  try {
    const addresses = await Promise.race([resolve(host), deadline.promise]);
    if (addresses.length === 0) throw unresolved(host);
    return addresses;
  } catch (error) {
    throw error instanceof NetworkError ? error : unresolved(host, error);
  } finally {
    clearTimeout(timer);
  }
}

function check({ host, port, isEncrypted }: Attempt, allowance: Allowance, addresses: readonly string[]): Checked[] {
  const checked: Checked[] = [];
  const refused = addresses.filter((text) => {
    const bytes = addressBytes(text);
    if (bytes === undefined || !allowance.mayDial(bytes, port, isEncrypted)) return true;
    checked.push({ text, bytes });
    return false;
  });
  if (refused.length === 0) return checked;
  const wouldBeAllowed = addresses.every((text) => {
    const bytes = addressBytes(text);
    return bytes !== undefined && allowance.mayDial(bytes, port, true);
  });
  const detail = `${host} has the addresses ${addresses.join(", ")}; not allowed at port ${port}: ${refused.join(", ")}`;
  throw wouldBeAllowed
    ? new NetworkError("PLAINTEXT_REFUSED", "The gateway calls a public server over https only", { detail })
    : new NetworkError("ADDRESS_REFUSED", "The server has an address that the gateway may not call", { detail });
}

/** Dials the addresses one after the other. Each attempt may take an equal share of the remaining time. */
async function dialFirst(
  dial: buildConnector.connector,
  attempt: Attempt,
  checked: readonly Checked[],
): Promise<Socket> {
  const failures: NetworkError[] = [];
  for (const [index, address] of checked.entries()) {
    const shareMs = (attempt.endsAt - performance.now()) / (checked.length - index);
    try {
      return await dialAddress(dial, attempt, address, shareMs);
    } catch (error) {
      // The next address is tried only if no connection to this one was made.
      if (!(error instanceof NetworkError) || !isWithoutAnswer(error)) throw error;
      failures.push(error);
    }
  }
  const [first] = failures;
  throw first ?? unresolved(attempt.host);
}

const isWithoutAnswer = ({ code }: NetworkError) => code === "CONNECT_FAILED" || code === "CONNECT_TIMEOUT";

function dialAddress(
  dial: buildConnector.connector,
  { host, port, isEncrypted }: Attempt,
  { text, bytes }: Checked,
  timeoutMs: number,
): Promise<Socket> {
  const { promise, resolve, reject } = Promise.withResolvers<Socket>();
  const request = {
    hostname: text,
    host: text,
    protocol: isEncrypted ? "https:" : "http:",
    port: String(port),
    // The name is for the certificate. undici would take it from the header `host`, which the call chooses.
    ...(isEncrypted && addressBytes(host) === undefined ? { servername: serverName(host) } : {}),
  };
  // undici's connector returns its socket, which its type does not say.
  const dialled: unknown = dial(request, (error, socket) => {
    clearTimeout(timer);
    if (error !== null) {
      reject(failed(host, text, error));
    } else if (isConnectedTo(socket, bytes, port)) {
      resolve(socket);
    } else {
      const detail = `${host} was dialled at ${text}, and ${socket.remoteAddress} answered`;
      socket.destroy();
      reject(new NetworkError("ADDRESS_REFUSED", "The server answers from another address", { detail }));
    }
  });
  const timer = setTimeout(
    () => {
      if (dialled instanceof Socket) dialled.destroy();
      reject(timedOut(host, `no connection to ${text} at port ${port}`));
    },
    Math.max(0, timeoutMs),
  );
  return promise;
}

/** Returns the host name that the certificate must have: without the dot at the end, which means the DNS root. */
const serverName = (host: string) => host.replace(/\.$/, "");

function isConnectedTo(socket: Socket, dialled: AddressBytes, port: number): boolean {
  const remote = addressBytes(socket.remoteAddress ?? "");
  return remote !== undefined && Buffer.compare(withoutMapping(remote), dialled) === 0 && socket.remotePort === port;
}

function unresolved(host: string, cause?: unknown): NetworkError {
  return new NetworkError("NAME_UNRESOLVED", "The name of the server has no address", { detail: host, cause });
}

function timedOut(host: string, detail: string): NetworkError {
  return new NetworkError("CONNECT_TIMEOUT", "The server did not accept the connection in time", {
    detail: `${host}: ${detail}`,
  });
}

function failed(host: string, address: string, cause: Error): NetworkError {
  const code = "code" in cause ? String(cause.code) : "";
  const detail = `${host} at ${address}: ${code === "" ? cause.message : code}`;
  // A connection that never came about fails in `connect`, or is closed. Everything else is the handshake of TLS.
  const isConnection = ("syscall" in cause && cause.syscall === "connect") || code === "ECONNRESET" || code === "EPIPE";
  return isConnection
    ? new NetworkError("CONNECT_FAILED", "The connection to the server failed", { detail, cause })
    : new NetworkError("TLS_FAILED", "The server offers no encrypted connection that the gateway trusts", {
        detail,
        cause,
      });
}
