import { KeywardError } from "@keyward/core";

/** What one request, and one API key, may ask for, and what all of them together may hold. */
export interface KvLimits {
  /** The body of a request, in bytes; 16 MiB unless given. */
  readonly maxBodyBytes: number;
  /** A value, in bytes; 8 MiB unless given. */
  readonly maxValueBytes: number;
  /** A key, and a namespace, in bytes of UTF-8; 2,048 unless given. */
  readonly maxKeyBytes: number;
  /** The records of a batch, and of a page of a scan; 1,000 unless given. */
  readonly maxBatch: number;
  /** Beyond how many bytes of values an answer gets no more of them; 16 MiB unless given. */
  readonly maxAnswerBytes: number;
  /**
   * What all requests of one process hold together, in bytes: bodies from their first byte until they are answered, and
   * values of answers until they are delivered; 256 MiB unless given. One tenant alone gets half. So it is at least twice
   * what one request may have: a body, and an answer or a value.
   */
  readonly maxBytesUnderWay: number;
  /** Requests a second for each API key, and as many at once; 1,000 unless given. `Infinity` is no limit. */
  readonly requestsPerSecond: number;
  /** How long a request's body may take to arrive, in ms; 10,000 unless given. */
  readonly bodyTimeoutMs: number;
}

/** What holds where nothing else is said. */
export const defaultLimits: KvLimits = {
  maxBodyBytes: 16 * 2 ** 20,
  maxValueBytes: 8 * 2 ** 20,
  maxKeyBytes: 2_048,
  maxBatch: 1_000,
  maxAnswerBytes: 16 * 2 ** 20,
  maxBytesUnderWay: 256 * 2 ** 20,
  requestsPerSecond: 1_000,
  bodyTimeoutMs: 10_000,
};

/**
 * @throws KeywardError `VALUE_INVALID` for a limit that is not a number above 0, and for a `maxBytesUnderWay` for which a
 * single request could be too large.
 */
export function requireLimits(given: Partial<KvLimits>): KvLimits {
  for (const [name, limit] of Object.entries(given)) {
    if (typeof limit === "number" && limit > 0) continue;
    throw new KeywardError("VALUE_INVALID", `The limit ${name} is not a number above 0`, {
      hint: "Leave it out to have the default.",
    });
  }
  const limits = { ...defaultLimits, ...given };
  const ofOneRequest = limits.maxBodyBytes + Math.max(limits.maxAnswerBytes, limits.maxValueBytes);
  if (limits.maxBytesUnderWay >= 2 * ofOneRequest) return limits;
  throw new KeywardError("VALUE_INVALID", "The limit maxBytesUnderWay is less than two requests may have", {
    hint: `Make it at least ${2 * ofOneRequest}, or lower maxBodyBytes, maxAnswerBytes or maxValueBytes.`,
  });
}
