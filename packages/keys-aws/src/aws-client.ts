import { requireUrl } from "@keyward/core";
import { QuietHttpAgent, QuietHttpsAgent } from "./quiet-agents.ts";

/**
 * Options for the client of the AWS SDK. The SDK finds the credentials, and also the region and the endpoint if you
 * omit them.
 */
export interface AwsClientOptions {
  /**
   * AWS region. Default: if you pass the ARN of the secret or KMS key, the region in this ARN. Otherwise the region
   * that the SDK finds in `AWS_REGION` or the shared configuration.
   */
  readonly region?: string;
  /** URL of the AWS endpoint to call, such as a VPC endpoint. Default: the endpoint that the SDK finds. */
  readonly endpoint?: string;
}

const connectionTimeoutMs = 3_000;
const requestTimeoutMs = 5_000;
// Between attempts, the SDK waits a random part of 100 ms, 200 ms and 400 ms, or five times as long if it was throttled.
const maxAttempts = 4;

// The SDK uses the same settings for its own agents.
const agentSettings = { keepAlive: true, maxSockets: 50 };

/**
 * Checks the option `endpoint`.
 *
 * @throws KeywardError `VALUE_INVALID` if the endpoint is not an http or https URL, or contains a user, a query or a fragment.
 */
export function requireEndpoint({ endpoint }: AwsClientOptions): void {
  if (endpoint === undefined) return;
  const form = "https://vpce-….amazonaws.com (or omit `endpoint` to use the endpoint of AWS)";
  requireUrl("endpoint", endpoint, { protocols: ["http:", "https:"], form, addressOnly: true });
}

/**
 * Returns the settings for a client of the AWS SDK. If `resource` is an ARN, the default region is the region in the
 * ARN.
 */
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
