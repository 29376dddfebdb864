import { Pool } from "undici";
import { type AllowedAddress, allowance } from "./allowed-address.ts";
import { guardedConnector, type ResolveHost, resolveHost } from "./guarded-connector.ts";

/** Limits on connections and answers, the trusted certificates, and the resolver. */
export interface DispatchLimits {
  /** The longest time to connect, in milliseconds, including DNS and TLS. Default: 10,000. */
  readonly connectTimeoutMs?: number;
  /** The longest time until the headers of an answer arrive, in milliseconds. Default: 0, which means no limit. */
  readonly headersTimeoutMs?: number;
  /** The longest time between two pieces of an answer, in milliseconds. Default: 0, which means no limit. */
  readonly bodyTimeoutMs?: number;
  /** The trusted certificate authorities, in PEM. Default: the authorities that Node.js trusts. */
  readonly certificateAuthorities?: string;
  /** Returns all addresses of a host. Default: the resolver of the operating system. */
  readonly resolve?: ResolveHost;
}

/** The options of {@link guardedDispatcher}. */
export interface GuardedDispatcherOptions extends DispatchLimits {
  /** The scheme, host and port that all calls go to. */
  readonly origin: string;
  /** The private addresses that are allowed. */
  readonly allowed: readonly AllowedAddress[];
}

/**
 * Makes a dispatcher for one origin. The dispatcher connects only to public addresses over `https`, and to the allowed
 * ones. A handler gets a `NetworkError` if no connection can be made. All calls of the dispatcher share its connections,
 * so each server needs a dispatcher of its own: see `ServerDispatchers`.
 */
export function guardedDispatcher(options: GuardedDispatcherOptions): Pool {
  const { origin, allowed, connectTimeoutMs = 10_000, headersTimeoutMs = 0, bodyTimeoutMs = 0 } = options;
  // An `Agent` forgets its pools when it is closed, so it cannot end the calls in progress afterwards.
  return new Pool(origin, {
    connect: guardedConnector({
      allowance: allowance(allowed),
      resolve: options.resolve ?? resolveHost,
      connectTimeoutMs,
      certificateAuthorities: options.certificateAuthorities,
    }),
    headersTimeout: headersTimeoutMs,
    bodyTimeout: bodyTimeoutMs,
    allowH2: false,
  });
}
