import type { SecretsManagerClient } from "@aws-sdk/client-secrets-manager";
import {
  type KeyFreshness,
  type KeyProvider,
  type Keyring,
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
import { firstValue, keysIn, type SecretKeys, withoutField } from "./secret-value.ts";

/** Options of {@link awsKeys}. */
export interface AwsKeysOptions extends AwsClientOptions, KeyFreshness {
  /** Name or ARN of the secret that holds the keyring document, or a single key. */
  readonly secretId: string;
  /**
   * Name of the field that holds the keyring document or the key, if the value of the secret is a JSON object. A save
   * changes only this field. Default: the whole value is the keyring document or the key.
   */
  readonly field?: string;
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
   * If the keyring is in a field of the secret, the other fields are kept as they are, even if another writer changes them
   * during the save.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the secret holds another keyring than `previous`.
   * @throws KeywardError `PROVIDER_READ_ONLY` if the secret holds a single key instead of a keyring document, or is a
   * replica in another region.
   * @throws KeywardError `KEYRING_INVALID` if the keyring `next` is scoped, has no keys, has another name than the
   * option `name`, or is longer than the 65,536 bytes that a secret can hold.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if AWS refuses a request or does not answer.
   */
  save(next: Keyring, previous: Keyring): Promise<void>;
  /**
   * Checks that the secret holds a keyring document, which `save` can replace. Writes nothing. Implements
   * {@link KeyProvider.requireWritable}.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY` if the secret holds a single key.
   * @throws KeywardError the errors of `load`.
   */
  requireWritable(): Promise<void>;
  /**
   * Writes the first keyring into the secret. If no secret with the name `secretId` exists, `create` makes the secret.
   * If the option `field` is set and the secret holds a JSON object without this field, `create` adds the field.
   *
   * @throws KeywardError `KEYRING_CONFLICT` if the secret, or the field of the secret, has a value already.
   * @throws KeywardError `KEYRING_INVALID` if the keyring cannot be saved.
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if AWS refuses a request or does not answer.
   */
  create(ring: Keyring): Promise<void>;
}

// Writers of other fields of the secret rarely write at the same time.
const maxAttempts = 5;

const optionNames: OptionNames<AwsKeysOptions> = {
  secretId: true,
  field: true,
  name: true,
  client: true,
  region: true,
  endpoint: true,
  refreshMs: true,
  maxAgeMs: true,
  timeoutMs: true,
};

/**
 * Returns a key provider that reads a keyring from AWS Secrets Manager. One secret holds a keyring document, which is
 * the text that `exportKeyring` returns, or a single key. The document or key may be the whole value of the secret, as
 * text or as bytes, or one field of a JSON object. The AWS SDK finds the credentials, and also `region` and `endpoint`
 * if you omit them.
 *
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { awsKeys } from "@keyward/keys-aws";
 *
 * const keys = awsKeys({ secretId: "production/keyring", refreshMs: 60_000 });
 * const sessions = createKeyv({ store: new Map(), keys, namespace: "sessions" });
 *
 * @throws KeywardError `VALUE_INVALID` if `secretId` or `field` is empty or not a string, if `endpoint` is not a URL, for
 * an unknown option, and for a duration out of range.
 */
export function awsKeys(options: AwsKeysOptions): AwsKeys {
  const { secretId, name, field } = requireOptions("awsKeys", options, optionNames);
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
  if (field !== undefined && (typeof field !== "string" || field === "")) {
    throw new KeywardError("VALUE_INVALID", 'The option "field" of awsKeys must be a non-empty string', {
      hint: "Set `field` to the name of the field that holds the keyring. If the whole value of the secret is the keyring, omit `field`.",
    });
  }
  const freshness = requireFreshness(options);
  const secret = new Secret(secretId, { ...options, timeoutMs: freshness.timeoutMs });

  async function find(signal?: AbortSignal): Promise<{ readonly keys: SecretKeys; readonly version: string }> {
    const { id, value } = await secret.read(signal);
    return { keys: keysIn(value, secret.subject, field), version: id };
  }

  function ringIn(keys: SecretKeys): Keyring {
    if (keys.kind === "no field") throw withoutField(secret.subject, field);
    const { ring } = keys;
    if (name === undefined || ring.name === name) return ring;
    const found = `${secret.subject} holds a keyring with the name ${JSON.stringify(ring.name)}, but the option "name" requires ${JSON.stringify(name)}`;
    throw new KeywardError("KEYRING_ROLLBACK", found, {
      hint: "Check that `secretId` is the secret of this application. Change the option `name` only if the keyring was renamed on purpose.",
    });
  }

  /** Reads the keyring document that `save` can replace. Rejects if the secret holds anything else. */
  async function findDocument() {
    const { keys, version } = await find();
    const ring = ringIn(keys);
    if (keys.kind !== "document") throw readOnly(secret.subject);
    return { ring, version, replacedBy: keys.replacedBy };
  }

  return {
    freshness,
    load: singleFlight(async ({ signal }) => ringIn((await find(signal)).keys)),
    async save(next, previous) {
      requireSavable(next, name);
      for (let attempt = 1; attempt <= maxAttempts; attempt++) {
        const { ring, version, replacedBy } = await findDocument();
        if (!sameKeyring(ring, previous)) break;
        // If this fails although the keyring is the same, another writer has changed another field of the secret.
        if (await secret.replace(version, replacedBy(next))) return;
      }
      throw new KeywardError(
        "KEYRING_CONFLICT",
        `${secret.subject} does not hold the keyring that this change is based on, because another writer has changed the keyring`,
        {
          hint: "Load the keyring again, repeat your change in the loaded keyring, and save the result.",
        },
      );
    },
    async requireWritable() {
      await findDocument();
    },
    async create(ring) {
      requireSavable(ring, name);
      if (await secret.create(firstValue(ring, field))) return;
      for (let attempt = 1; field !== undefined && attempt <= maxAttempts; attempt++) {
        const { keys, version } = await find();
        if (keys.kind !== "no field") break;
        if (await secret.replace(version, keys.with(ring))) return;
      }
      const what = field === undefined ? "a value" : "a keyring or a key in this field";
      throw new KeywardError(
        "KEYRING_CONFLICT",
        `${secret.subject} already has ${what}, so no first keyring was written`,
        {
          hint: "Use the existing keyring with `load()`, and change it with `save()`.",
        },
      );
    },
  };
}

function readOnly(subject: string): KeywardError {
  return new KeywardError(
    "PROVIDER_READ_ONLY",
    `${subject} holds a single key instead of a keyring document, so a changed keyring cannot be saved there`,
    {
      hint: "To be able to save keyrings, replace the key in the secret by the text that `exportKeyring(await keys.load())` returns. This keyring document contains the same key with the same id, so existing records stay readable.",
    },
  );
}
