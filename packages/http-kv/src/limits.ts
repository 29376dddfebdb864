import { KeywardError, type OptionNames, requireAmount, requireOptions, type Unit } from "@keyward/core";

/** Limits of an HTTP KV server: on each request, on each API key, and on the memory of all requests together. */
export interface KvLimits {
  /** Maximum length of a request's body, in bytes. Default: 16 MiB. */
  readonly maxBodyBytes: number;
  /** Maximum length of a value, in bytes. Default: 2 MiB. While the store writes a value, all other requests wait. */
  readonly maxValueBytes: number;
  /** Maximum length of a record's key and of a namespace, in bytes of UTF-8. Default: 2,048. */
  readonly maxKeyBytes: number;
  /** Maximum number of records in the batch of one request, and in one page of a scan. Default: 1,000. */
  readonly maxBatch: number;
  /**
   * If the total length of the values in an answer reaches this number of bytes, the server adds no more values.
   * Default: 16 MiB.
   */
  readonly maxAnswerBytes: number;
  /**
   * Maximum number of bytes that all requests of a process have in memory together. Default: 256 MiB. The body of a
   * request counts from its first byte until the request is answered. The values of an answer, and up to 2 MiB that a
   * listing of keys reads ahead, count until the answer is delivered.
   *
   * A single tenant gets half of this limit. Therefore this limit must be at least twice the memory of the largest
   * request. The largest request needs `maxBodyBytes` plus the largest of `maxBodyBytes`, `maxAnswerBytes` and
   * `maxValueBytes`.
   */
  readonly maxBytesInMemory: number;
  /**
   * Maximum number of requests per second with one API key. An API key that was not used for a second can send this
   * number of requests at once. Default: 1,000. `Infinity` means no limit.
   */
  readonly requestsPerSecond: number;
  /** How long a request's body may take to arrive, in milliseconds. Default: 10,000. */
  readonly bodyTimeoutMs: number;
}

/** The default of each limit of an HTTP KV server. */
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

/**
 * Returns the smallest `maxBytesInMemory` that is allowed: the memory of two requests of the largest size. Such a
 * request has its body in memory, and also an answer, a stored value or a second copy of the body.
 */
export function leastBytesInMemory({ maxBodyBytes, maxAnswerBytes, maxValueBytes }: KvLimits): number {
  return 2 * (maxBodyBytes + Math.max(maxBodyBytes, maxAnswerBytes, maxValueBytes));
}

/**
 * Checks the given limits, and adds the default of each limit that is missing.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown limit, for a limit that is not an integer of at least 1, and for
 * a `maxBytesInMemory` that is too small for two requests of the largest size.
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
    // Only this limit can be switched off.
    requestsPerSecond:
      given.requestsPerSecond === Number.POSITIVE_INFINITY
        ? given.requestsPerSecond
        : amount("requestsPerSecond", "requests"),
  };
  const least = leastBytesInMemory(limits);
  if (limits.maxBytesInMemory >= least) return limits;
  throw new KeywardError(
    "VALUE_INVALID",
    `The option limits.maxBytesInMemory of the HTTP KV server is ${limits.maxBytesInMemory}, which is too little for two requests of the largest size`,
    {
      hint: `Set \`maxBytesInMemory\` to at least ${least}. If the process has too little memory for this limit, lower \`maxBodyBytes\`, \`maxAnswerBytes\` or \`maxValueBytes\`.`,
    },
  );
}
