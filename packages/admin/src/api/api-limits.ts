import { requireAmount, requireOptions } from "@keyward/core";

/** The limits of the admin API. */
export interface ApiLimits {
  /** How many requests a second one token may send on average. Default: 50. */
  readonly requestsPerSecond?: number | undefined;
  /** How many requests one token may send at once after a pause. Default: 100. */
  readonly burstRequests?: number | undefined;
  /** How many times a minute one token may be refused. After that, the service answers 429 for some seconds. Default: 10. */
  readonly refusalsPerMinute?: number | undefined;
  /** How many requests the service may work on at once. A request whose body has not arrived does not count. Default: 100. */
  readonly concurrentRequests?: number | undefined;
  /** How many requests with the tokens of one workspace may be in progress at once. Default: 50. */
  readonly concurrentRequestsOfWorkspace?: number | undefined;
  /** How many requests with one token may be in progress at once. Default: 25. */
  readonly concurrentRequestsOfToken?: number | undefined;
  /** The largest body of a request, in bytes. Default: 65,536. */
  readonly maxBodyBytes?: number | undefined;
}

/** The limits, with the default for each limit that was not set. */
export type CheckedLimits = { readonly [Name in keyof Required<ApiLimits>]: number };

const defaultLimits: CheckedLimits = {
  requestsPerSecond: 50,
  burstRequests: 100,
  refusalsPerMinute: 10,
  concurrentRequests: 100,
  concurrentRequestsOfWorkspace: 50,
  concurrentRequestsOfToken: 25,
  maxBodyBytes: 65_536,
};

const names = {
  requestsPerSecond: true,
  burstRequests: true,
  refusalsPerMinute: true,
  concurrentRequests: true,
  concurrentRequestsOfWorkspace: true,
  concurrentRequestsOfToken: true,
  maxBodyBytes: true,
} as const;

/**
 * Checks the limits and adds the defaults. "lifted", for load tests, keeps only the limit on the size of a body.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown limit or one that is not a positive integer.
 */
export function checkedLimits(given: ApiLimits | "lifted" = {}): CheckedLimits {
  if (given === "lifted") {
    const none = Number.POSITIVE_INFINITY;
    return {
      requestsPerSecond: none,
      burstRequests: none,
      refusalsPerMinute: none,
      concurrentRequests: none,
      concurrentRequestsOfWorkspace: none,
      concurrentRequestsOfToken: none,
      maxBodyBytes: defaultLimits.maxBodyBytes,
    };
  }
  const limits = requireOptions("limits", given, names);
  const of = (name: keyof ApiLimits, unit: "requests" | "attempts" | "bytes") =>
    requireAmount(`limits.${name}`, limits[name] ?? defaultLimits[name], unit);
  return {
    requestsPerSecond: of("requestsPerSecond", "requests"),
    burstRequests: of("burstRequests", "requests"),
    refusalsPerMinute: of("refusalsPerMinute", "attempts"),
    concurrentRequests: of("concurrentRequests", "requests"),
    concurrentRequestsOfWorkspace: of("concurrentRequestsOfWorkspace", "requests"),
    concurrentRequestsOfToken: of("concurrentRequestsOfToken", "requests"),
    maxBodyBytes: of("maxBodyBytes", "bytes"),
  };
}
