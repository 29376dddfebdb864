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
  sameKeyring,
  singleFlight,
} from "@keyward/core";
import { type AwsClientOptions, requireEndpoint } from "./aws-client.ts";
import { Secret } from "./secret.ts";

/** Options of {@link awsKeys}. */
export interface AwsKeysOptions extends AwsClientOptions, KeyFreshness {
  /** Name or ARN of the secret that holds the keyring document. */
  readonly secretId: string;
  /**
   * Name that the keyring must have. If the keyring has another name, `load` rejects with `KEYRING_ROLLBACK`. Default:
   * any name is accepted.
   */
  readonly name?: string;
  /**
   * Client of the AWS SDK, which the provider uses and never destroys. If you pass a client, `region` and `endpoint`
   * are ignored. Default: a client that the provider makes from `region` and `endpoint`.
   */
  readonly client?: Pick<SecretsManagerClient, "send">;
}

/** A key provider that reads a keyring from AWS Secrets Manager, made by {@link awsKeys}. */
export interface AwsKeys extends KeyProvider {
  /**
   * Replaces the keyring in the secret by `next`, if the secret still holds `previous`. Implements
   * {@link KeyProvider.save}.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the secret holds another keyring than `previous`.
   * @throws KeywardError `KEYRING_INVALID` if the keyring `next` is scoped, has no keys, has another name than the
   * option `name`, or is longer than the 65,536 bytes that a secret can hold.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if AWS refuses a request or does not answer.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Writes the first keyring into the secret. If no secret with the name `secretId` exists, `create` makes the secret.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the secret has a value already.
   * @throws KeywardError `KEYRING_INVALID` if the keyring cannot be saved.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if AWS refuses a request or does not answer.
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
 * Returns a key provider that reads a keyring from AWS Secrets Manager. One secret holds the keyring document, which is the
 * text that `exportKeyring` returns. The AWS SDK finds the credentials, and also `region` and `endpoint` if you omit them.
 *
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { awsKeys } from "@keyward/keys-aws";
 *
 * const keys = awsKeys({ secretId: "production/keyring", refreshMs: 60_000 });
 * const sessions = createKeyv({ store: new Map(), keys, namespace: "sessions" });
 *
 * @throws KeywardError `VALUE_INVALID` if `secretId` is empty or not a string, if `endpoint` is not a URL, for an unknown
 * option, and for a duration out of range.
 */
export function awsKeys(options: AwsKeysOptions): AwsKeys {
  const { secretId, name } = requireOptions("awsKeys", options, optionNames);
  requireEndpoint(options);
  if (typeof secretId !== "string" || secretId === "") {
    throw new KeywardError(
      "VALUE_INVALID",
      'The option "secretId" of awsKeys must be a non-empty string with the name or ARN of a secret',
      {
        hint: 'Pass the name or ARN as `secretId: "production/keyring"`. If the name or ARN comes from an environment variable, check that the environment variable is set.',
      },
    );
  }
  const freshness = requireFreshness(options);
  const secret = new Secret(secretId, { ...options, timeoutMs: freshness.timeoutMs });

  async function read(signal?: AbortSignal): Promise<{ readonly ring: Keyring; readonly version: string }> {
    const { id, text } = await secret.read(signal);
    const ring = parse(text);
    if (name === undefined || ring.name === name) return { ring, version: id };
    const found = `${secret.subject} holds a keyring with the name ${JSON.stringify(ring.name)}, but the option "name" requires ${JSON.stringify(name)}`;
    throw new KeywardError("KEYRING_ROLLBACK", found, {
      hint: "Check that `secretId` is the secret of this application. Change the option `name` only if the keyring was renamed on purpose.",
    });
  }

  function parse(text: string): Keyring {
    try {
      return Keyring.parse(text);
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      const { code, message, keyId } = error;
      const hint = `${error.hint} The value of the secret must be the text that \`exportKeyring\` returns, unchanged.`;
      throw new KeywardError(code, `${secret.subject}: ${message}`, { hint, keyId });
    }
  }

  return {
    freshness,
    load: singleFlight(async ({ signal }) => (await read(signal)).ring),
    async save(next, previous) {
      requireSavable(next, name);
      const { ring, version } = await read();
      const same = sameKeyring(ring, previous);
      if (same && (await secret.replace(version, exportKeyring(next)))) return;
      throw new KeywardError(
        "KEYRING_CONFLICT",
        `${secret.subject} does not hold the keyring that this change is based on, because another writer has changed the keyring`,
        {
          hint: "Load the keyring again, repeat your change in the loaded keyring, and save the result.",
        },
      );
    },
    async create(ring) {
      requireSavable(ring, name);
      if (await secret.create(exportKeyring(ring))) return;
      throw new KeywardError(
        "KEYRING_CONFLICT",
        `${secret.subject} already has a value, so no first keyring was written`,
        {
          hint: "Use the existing keyring with `load()`, and change it with `save()`.",
        },
      );
    },
  };
}
