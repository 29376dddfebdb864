import { requireAmount, requireOptions } from "@keyward/core";

/** The limits of the calls of one process. */
export interface CallLimits {
  /** How many calls a second one token may begin on average. Default: 100. */
  readonly callsPerSecond?: number | undefined;
  /** How many calls one token may begin at once after a pause. Default: 200. */
  readonly burstCalls?: number | undefined;
  /** How many times a minute one token may be refused. After that, the gateway answers 429 for some seconds. Default: 10. */
  readonly refusalsPerMinute?: number | undefined;
  /** How many calls with one token may be in progress at once. Open streams count. Default: 200. */
  readonly concurrentCallsOfToken?: number | undefined;
  /** How many calls to one server may be in progress at once. Default: 1,000. */
  readonly concurrentCallsOfServer?: number | undefined;
  /** How many calls may be in progress at once. Default: 5,000. */
  readonly concurrentCalls?: number | undefined;
  /** How many values may be replaced in the answers of one server to one token within an hour. Default: 20. */
  readonly redactionsPerHour?: number | undefined;
  /** The largest body of a call to an MCP server, in bytes. The body is read whole. Default: 4,194,304. */
  readonly maxMcpBodyBytes?: number | undefined;
  /** The largest body of a call to another server, in bytes. Default: 1,073,741,824. */
  readonly maxBodyBytes?: number | undefined;
  /** The largest body of an answer, in bytes, after decoding. Default: 1,073,741,824. */
  readonly maxAnswerBytes?: number | undefined;
  /** The most memory that all bodies which are read whole may take together, in bytes. Default: 268,435,456. */
  readonly maxBodyMemoryBytes?: number | undefined;
  /** For how long a server may send nothing, in milliseconds. Streams of events may be silent for longer. Default: 120,000. */
  readonly silenceMs?: number | undefined;
}

/** The limits, with the default for each limit that was not set. */
export type CheckedCallLimits = { readonly [Name in keyof Required<CallLimits>]: number };

const defaults: CheckedCallLimits = {
  callsPerSecond: 100,
  burstCalls: 200,
  refusalsPerMinute: 10,
  concurrentCallsOfToken: 200,
  concurrentCallsOfServer: 1_000,
  concurrentCalls: 5_000,
  redactionsPerHour: 20,
  maxMcpBodyBytes: 4 * 1_048_576,
  maxBodyBytes: 1_073_741_824,
  maxAnswerBytes: 1_073_741_824,
  maxBodyMemoryBytes: 268_435_456,
  silenceMs: 120_000,
};

const names = {
  callsPerSecond: true,
  burstCalls: true,
  refusalsPerMinute: true,
  concurrentCallsOfToken: true,
  concurrentCallsOfServer: true,
  concurrentCalls: true,
  redactionsPerHour: true,
  maxMcpBodyBytes: true,
  maxBodyBytes: true,
  maxAnswerBytes: true,
  maxBodyMemoryBytes: true,
  silenceMs: true,
} as const;

/**
 * Checks the limits and adds the defaults.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown limit or one that is not a positive integer.
 */
export function checkedCallLimits(given: CallLimits = {}): CheckedCallLimits {
  const limits = requireOptions("limits", given, names);
  const of = (name: keyof CallLimits, unit: "requests" | "attempts" | "bytes" | "milliseconds") =>
    requireAmount(`limits.${name}`, limits[name] ?? defaults[name], unit);
  return {
    callsPerSecond: of("callsPerSecond", "requests"),
    burstCalls: of("burstCalls", "requests"),
    refusalsPerMinute: of("refusalsPerMinute", "attempts"),
    concurrentCallsOfToken: of("concurrentCallsOfToken", "requests"),
    concurrentCallsOfServer: of("concurrentCallsOfServer", "requests"),
    concurrentCalls: of("concurrentCalls", "requests"),
    redactionsPerHour: of("redactionsPerHour", "attempts"),
    maxMcpBodyBytes: of("maxMcpBodyBytes", "bytes"),
    maxBodyBytes: of("maxBodyBytes", "bytes"),
    maxAnswerBytes: of("maxAnswerBytes", "bytes"),
    maxBodyMemoryBytes: of("maxBodyMemoryBytes", "bytes"),
    silenceMs: of("silenceMs", "milliseconds"),
  };
}
