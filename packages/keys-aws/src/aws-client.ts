import { requireUrl } from "@keyward/core";
import { QuietHttpAgent, QuietHttpsAgent } from "./quiet-agents.ts";

/** Where AWS is asked, and as whom: what is not given here follows from the SDK's own chain. */
export interface AwsClientOptions {
  /** Default: of an ARN its own, otherwise what the SDK finds in `AWS_REGION` and the shared configuration. */
  readonly region?: string;
  /** The URL of another endpoint than AWS's own, such as a VPC endpoint. */
  readonly endpoint?: string;
}

const connectionTimeoutMs = 3_000;
const requestTimeoutMs = 5_000;
// The SDK waits longer after each attempt, by a random part of 100 ms, 200 ms, 400 ms; five times as long when throttled.
const maxAttempts = 4;

// As the SDK makes its own.
const agentSettings = { keepAlive: true, maxSockets: 50 };

/**
 * @throws KeywardError `VALUE_INVALID` for an endpoint that is no URL of http or https, or holds more than an address.
 */
export function requireEndpoint({ endpoint }: AwsClientOptions): void {
  if (endpoint === undefined) return;
  const form = "https://vpce-….amazonaws.com (or leave it out)";
  requireUrl("endpoint", endpoint, { protocols: ["http:", "https:"], form, addressOnly: true });
}

/** How this package makes a client of the SDK. */
export function clientSettings(options: AwsClientOptions, resource: string) {
  const region = options.region ?? regionOf(resource);
  return {
    ...(region === undefined ? {} : { region }),
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
    maxAttempts,
    requestHandler: {
      connectionTimeout: connectionTimeoutMs,
      requestTimeout: requestTimeoutMs,
      throwOnRequestTimeout: true,
      httpAgent: new QuietHttpAgent(agentSettings),
      httpsAgent: new QuietHttpsAgent(agentSettings),
    },
  };
}

function regionOf(resource: string): string | undefined {
  return /^arn:[^:]+:[^:]+:([^:]+):/.exec(resource)?.[1];
}
