import type { SecretsManagerClient } from "@aws-sdk/client-secrets-manager";
import {
  exportKeyring,
  type KeyFreshness,
  type KeyProvider,
  Keyring,
  KeywardError,
  type OptionNames,
  requireFreshness,
  requireOptions,
  requireSavable,
  singleFlight,
} from "@keyward/core";
import { type AwsClientOptions, requireEndpoint } from "./aws-client.ts";
import { Secret } from "./secret.ts";

/** Options of {@link awsKeys}. */
export interface AwsKeysOptions extends AwsClientOptions, KeyFreshness {
  /** The name or ARN of the secret that holds the keyring document. */
  readonly secretId: string;
  /** The name that the ring must have. Default: whatever it has. */
  readonly name?: string;
  /** A client of the SDK, in place of `region` and `endpoint`. It is never destroyed. */
  readonly client?: Pick<SecretsManagerClient, "send">;
}

/** Keys from AWS Secrets Manager. */
export interface AwsKeys extends KeyProvider {
  /**
   * As {@link KeyProvider.save}.
   *
   * @throws KeywardError `KEYRING_CONFLICT` when somebody else was first; `KEYRING_INVALID` for a ring that is scoped, has
   * no keys, another name, or is longer than a secret may be; `PROVIDER_UNAVAILABLE` when AWS refuses or does not answer.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Writes the first ring, into a new secret or into one that holds no value yet.
   *
   * @throws KeywardError `KEYRING_CONFLICT` when the secret holds something, and as {@link AwsKeys.save}.
   */
  create(ring: Keyring): Promise<void>;
}

const optionNames: OptionNames<AwsKeysOptions> = {
  secretId: true,
  name: true,
  client: true,
  region: true,
  endpoint: true,
  refreshMs: true,
  maxAgeMs: true,
  timeoutMs: true,
};

/**
 * Keys from AWS Secrets Manager: one secret holds the keyring document, as `exportKeyring` writes it. Credentials,
 * region and endpoint are what the AWS SDK finds, unless given.
 *
 * @throws KeywardError `VALUE_INVALID` for a `secretId` that is empty, an `endpoint` that is no URL, an unknown option, and for
 * settings of freshness out of range.
 */
export function awsKeys(options: AwsKeysOptions): AwsKeys {
  const { secretId, name } = requireOptions("awsKeys", options, optionNames);
  requireEndpoint(options);
  if (typeof secretId !== "string" || secretId === "") {
    throw new KeywardError("VALUE_INVALID", "secretId is not the name or ARN of a secret", {
      hint: 'Give it as secretId: "production/keyring". Is the variable that it comes from set?',
    });
  }
  const freshness = requireFreshness(options);
  const secret = new Secret(secretId, { ...options, timeoutMs: freshness.timeoutMs });

  async function read(signal?: AbortSignal): Promise<{ readonly ring: Keyring; readonly version: string }> {
    const { id, text } = await secret.read(signal);
    const ring = parse(text);
    if (name === undefined || ring.name === name) return { ring, version: id };
    const found = `${secret.subject} holds the ring ${JSON.stringify(ring.name)} where ${JSON.stringify(name)} is expected`;
    throw new KeywardError("KEYRING_ROLLBACK", found, {
      hint: "Correct secretId. Change name only where the ring was renamed on purpose.",
    });
  }

  function parse(text: string): Keyring {
    try {
      return Keyring.parse(text);
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      const { code, message, keyId } = error;
      const hint = `${error.hint} The secret is the document that exportKeyring writes, as plain text.`;
      throw new KeywardError(code, `${secret.subject}: ${message}`, { hint, keyId });
    }
  }

  return {
    freshness,
    load: singleFlight(async ({ signal }) => (await read(signal)).ring),
    async save(next, previous) {
      requireSavable(next, name);
      const { ring, version } = await read();
      const same = exportKeyring(ring) === exportKeyring(previous);
      if (same && (await secret.replace(version, exportKeyring(next)))) return;
      throw new KeywardError("KEYRING_CONFLICT", `${secret.subject} holds another ring than the one that was changed`, {
        hint: "Load the ring again, repeat the change on it, and save that.",
      });
    },
    async create(ring) {
      requireSavable(ring, name);
      if (await secret.create(exportKeyring(ring))) return;
      throw new KeywardError("KEYRING_CONFLICT", `${secret.subject} holds a value already`, {
        hint: "Load the ring that is there; to replace it, save a change of it.",
      });
    },
  };
}
