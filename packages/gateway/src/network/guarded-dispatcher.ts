import { Pool } from "undici";
import { type AllowedAddress, allowance } from "./allowed-address.ts";
import { guardedConnector, type ResolveHost, resolveHost } from "./guarded-connector.ts";

/** How calls are dispatched. */
export interface DispatchLimits {
  /** The longest time until a connection is made, the resolver and TLS included. Default: 10,000. */
  readonly connectTimeoutMs?: number;
  /** The longest time until the headers of an answer have come. Default: 0, which is no limit. */
  readonly headersTimeoutMs?: number;
  /** The longest time between two pieces of an answer. Default: 0, which is no limit. */
  readonly bodyTimeoutMs?: number;
  /** Certificates of authorities in PEM, instead of those of Node.js. */
  readonly certificateAuthorities?: string;
  /** Returns all addresses of a host. Default: the resolver of the operating system. */
  readonly resolve?: ResolveHost;
}

/** The options of {@link guardedDispatcher}. */
export interface GuardedDispatcherOptions extends DispatchLimits {
  /** The scheme, host and port that all calls go to. */
  readonly origin: string;
  /** The addresses that are allowed although they are not public. */
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
