import { KeywardError, type OptionNames, requireAmount, requireOptions, type Unit } from "@keyward/core";

/** What one request, and one API key, may ask for, and what all of them together may hold. */
export interface KvLimits {
  /** The body of a request, in bytes; 16 MiB unless given. */
  readonly maxBodyBytes: number;
  /** A value, in bytes; 2 MiB unless given. The store writes it in one step, for which all requests wait. */
  readonly maxValueBytes: number;
  /** A key, and a namespace, in bytes of UTF-8; 2,048 unless given. */
  readonly maxKeyBytes: number;
  /** The records of a batch, and of a page of a scan; 1,000 unless given. */
  readonly maxBatch: number;
  /** Beyond how many bytes of values an answer gets no more of them; 16 MiB unless given. */
  readonly maxAnswerBytes: number;
  /**
   * What all requests of one process hold together, in bytes: bodies from their first byte until they are answered, and
   * values of answers, and up to 2 MiB that a listing reads ahead, until they are delivered; 256 MiB unless given. One tenant alone gets half. So it is at least twice
   * what one request may have: a body, and an answer or a value.
   */
  readonly maxBytesInMemory: number;
  /** Requests a second for each API key, and as many at once; 1,000 unless given. `Infinity` is no limit. */
  readonly requestsPerSecond: number;
  /** How long a request's body may take to arrive, in ms; 10,000 unless given. */
  readonly bodyTimeoutMs: number;
}

/** What holds where nothing else is said. */
export const defaultLimits: KvLimits = {
  maxBodyBytes: 16 * 2 ** 20,
  maxValueBytes: 2 * 2 ** 20,
  maxKeyBytes: 2_048,
  maxBatch: 1_000,
  maxAnswerBytes: 16 * 2 ** 20,
  maxBytesInMemory: 256 * 2 ** 20,
  requestsPerSecond: 1_000,
  bodyTimeoutMs: 10_000,
};

const names = {
  maxBodyBytes: true,
  maxValueBytes: true,
  maxKeyBytes: true,
  maxBatch: true,
  maxAnswerBytes: true,
  maxBytesInMemory: true,
  requestsPerSecond: true,
  bodyTimeoutMs: true,
} satisfies OptionNames<KvLimits>;

/** What two requests may hold: a body, which counts up to twice, or a body and an answer. */
export function leastBytesInMemory({ maxBodyBytes, maxAnswerBytes, maxValueBytes }: KvLimits): number {
  return 2 * (maxBodyBytes + Math.max(maxBodyBytes, maxAnswerBytes, maxValueBytes));
}

/**
 * @throws KeywardError `VALUE_INVALID` for a limit that is not a whole number from 1, one that there is not, and for a
 * `maxBytesInMemory` for which a single request could be too large.
 */
export function requireLimits(given: Partial<KvLimits>): KvLimits {
  requireOptions("limits", given, names);
  const amount = (name: keyof KvLimits, unit: Unit) =>
    requireAmount(`limits.${name}`, given[name] ?? defaultLimits[name], unit);
  const limits: KvLimits = {
    maxBodyBytes: amount("maxBodyBytes", "bytes"),
    maxValueBytes: amount("maxValueBytes", "bytes"),
    maxKeyBytes: amount("maxKeyBytes", "bytes"),
    maxBatch: amount("maxBatch", "records"),
    maxAnswerBytes: amount("maxAnswerBytes", "bytes"),
    maxBytesInMemory: amount("maxBytesInMemory", "bytes"),
    bodyTimeoutMs: amount("bodyTimeoutMs", "milliseconds"),
    // No limit is a limit that one may want here.
    requestsPerSecond:
      given.requestsPerSecond === Number.POSITIVE_INFINITY
        ? given.requestsPerSecond
        : amount("requestsPerSecond", "requests"),
  };
  const least = leastBytesInMemory(limits);
  if (limits.maxBytesInMemory >= least) return limits;
  throw new KeywardError("VALUE_INVALID", "The limit maxBytesInMemory is less than two requests may have", {
    hint: `Make it at least ${least}, or lower maxBodyBytes, maxAnswerBytes or maxValueBytes.`,
  });
}
