import { randomUUID } from "node:crypto";
import {
  CreateSecretCommand,
  GetSecretValueCommand,
  type GetSecretValueCommandOutput,
  PutSecretValueCommand,
  SecretsManagerClient,
  UpdateSecretVersionStageCommand,
} from "@aws-sdk/client-secrets-manager";
import { KeywardError } from "@keyward/core";
import { type AwsFailure, awsNameOf, callAws, type Explanation } from "./aws-call.ts";
import { type AwsClientOptions, clientSettings } from "./aws-client.ts";
import { subjectOf } from "./aws-resource.ts";
import type { SecretValue } from "./secret-value.ts";

const current = "AWSCURRENT";
const previous = "AWSPREVIOUS";
// All writers use the same label, which marks at most one version. So writers that were killed leave at most one version
// with this label.
// AWS keeps a version without a label for a day, and AWSCURRENT can still be moved to it.
const pending = "keyward-pending";
const maxBytes = 65_536;

/** A version of a secret: its id and its value. */
export interface SecretVersion {
  readonly id: string;
  readonly value: SecretValue;
}

/** Options of a {@link Secret}. */
export interface SecretOptions extends AwsClientOptions {
  readonly client?: Pick<SecretsManagerClient, "send"> | undefined;
  readonly timeoutMs: number;
}

/**
 * A secret in AWS Secrets Manager. The value of the secret is replaced only if the current version is still the version
 * that was read.
 */
export class Secret {
  readonly #id: string;
  readonly #options: SecretOptions;
  /** Name of the secret that errors show, such as `The secret "app"`. */
  readonly subject: string;
  #client: Pick<SecretsManagerClient, "send"> | undefined;

  constructor(id: string, options: SecretOptions) {
    this.#id = id;
    this.#options = options;
    this.#client = options.client;
    this.subject = subjectOf("secret", id);
  }

  /**
   * Reads the current version of the secret.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if the secret cannot be read or has no value.
   */
  async read(signal?: AbortSignal): Promise<SecretVersion> {
    const {
      VersionId: id,
      SecretString: text,
      SecretBinary: bytes,
    } = await this.#get({ VersionStage: current }, signal);
    if (id !== undefined && text !== undefined) return { id, value: { text } };
    if (id !== undefined && bytes !== undefined) return { id, value: { bytes } };
    throw new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `${this.subject} has no value: the answer of AWS contains neither text nor bytes`,
      {
        hint: "Check `endpoint`, if it is set: another service may have answered instead of AWS Secrets Manager.",
      },
    );
  }

  /**
   * Replaces the value of the secret by `value`, if the id of the current version is still `expected`. If another
   * version is current, keeps the value and returns false.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if the value could not be replaced, or if it is unknown whether the
   * value was replaced.
   */
  async replace(expected: string, value: SecretValue): Promise<boolean> {
    this.#requireSize(value);
    const id = randomUUID();
    // Without a label of its own, the new version would become AWSCURRENT, whatever version is current at that time.
    await this.#put(id, value);
    const replaced = await this.#makeCurrent(expected, id);
    await this.#unmark(id);
    return replaced;
  }

  /**
   * Writes the first value of the secret, and makes the secret if it does not exist. If the secret has a value already,
   * keeps the value and returns false.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if the secret could not be written.
   */
  async create(value: SecretValue): Promise<boolean> {
    this.#requireSize(value);
    // A secret with an ARN exists already.
    if (!this.#id.startsWith("arn:") && (await this.#createSecret(value))) return true;
    if (await this.#hasValue()) return false;
    const id = randomUUID();
    // AWS makes the first version of a secret current, whatever its labels, but not a second version.
    const stages = await this.#put(id, value);
    await this.#unmark(id);
    return stages.includes(current);
  }

  async #get(
    version: { readonly VersionStage: string } | { readonly VersionId: string },
    signal?: AbortSignal,
  ): Promise<GetSecretValueCommandOutput> {
    return await this.#call("GetSecretValue", signal, (client, options) =>
      client.send(new GetSecretValueCommand({ SecretId: this.#id, ...version }), options),
    );
  }

  async #createSecret(value: SecretValue): Promise<boolean> {
    try {
      // The SDK adds a token to the request, so that a repeated request succeeds.
      await this.#call("CreateSecret", undefined, (client, options) =>
        client.send(new CreateSecretCommand({ Name: this.#id, ...inRequest(value) }), options),
      );
      return true;
    } catch (error) {
      if (awsNameOf(error) === "ResourceExistsException") return false;
      throw error;
    }
  }

  async #hasValue(): Promise<boolean> {
    try {
      await this.#get({ VersionStage: current });
      return true;
    } catch (error) {
      if (awsNameOf(error) === "ResourceNotFoundException") return false;
      throw error;
    }
  }

  async #put(id: string, value: SecretValue): Promise<readonly string[]> {
    const { VersionStages: stages = [] } = await this.#call("PutSecretValue", undefined, (client, options) =>
      client.send(
        new PutSecretValueCommand({
          SecretId: this.#id,
          // The token becomes the id of the version, so a repeated request does not make a second version.
          ClientRequestToken: id,
          ...inRequest(value),
          VersionStages: [pending],
        }),
        options,
      ),
    );
    return stages;
  }

  async #makeCurrent(expected: string, id: string): Promise<boolean> {
    try {
      await this.#call("UpdateSecretVersionStage", undefined, (client, options) =>
        client.send(
          new UpdateSecretVersionStageCommand({
            SecretId: this.#id,
            VersionStage: current,
            MoveToVersionId: id,
            // AWS refuses if AWSCURRENT no longer marks this version.
            RemoveFromVersionId: expected,
          }),
          options,
        ),
      );
      return true;
    } catch (error) {
      // The first answer may have been lost. The SDK then sent the request again, and AWS refused the second one.
      if (await this.#wasCurrent(id, error)) return true;
      if (awsNameOf(error) === "InvalidParameterException") return false;
      throw error;
    }
  }

  async #wasCurrent(id: string, failure: unknown): Promise<boolean> {
    try {
      const { VersionStages: stages = [] } = await this.#get({ VersionId: id });
      return stages.includes(current) || stages.includes(previous);
    } catch {
      if (awsNameOf(failure) === "AccessDeniedException") throw failure;
      throw new KeywardError(
        "PROVIDER_UNAVAILABLE",
        `${this.subject} may hold the old or the new keyring, because the connection to AWS failed during the write`,
        {
          hint: "Load the keyring again. If the loaded keyring contains your change, the save has succeeded. Otherwise repeat your change in the loaded keyring, and save the result.",
          cause: failure,
        },
      );
    }
  }

  /**
   * Removes the label `keyward-pending` from a version, unless another writer has moved the label to its own version. AWS
   * deletes versions without labels later.
   */
  async #unmark(id: string): Promise<void> {
    try {
      await this.#call("UpdateSecretVersionStage", undefined, (client, options) =>
        client.send(
          new UpdateSecretVersionStageCommand({ SecretId: this.#id, VersionStage: pending, RemoveFromVersionId: id }),
          options,
        ),
      );
    } catch {
      // The next writer removes the label.
    }
  }

  #call<Output>(
    operation: string,
    signal: AbortSignal | undefined,
    send: (
      client: Pick<SecretsManagerClient, "send">,
      options: { readonly abortSignal: AbortSignal },
    ) => Promise<Output>,
  ): Promise<Output> {
    const call = {
      action: `secretsmanager:${operation}`,
      subject: this.subject,
      ids: [this.#id],
      timeoutMs: this.#options.timeoutMs,
      signal,
      explain: explainFailure,
    };
    return callAws(call, (options) => {
      this.#client ??= new SecretsManagerClient(clientSettings(this.#options, this.#id));
      return send(this.#client, options);
    });
  }

  #requireSize(value: SecretValue): void {
    const bytes = "text" in value ? Buffer.byteLength(value.text) : value.bytes.length;
    if (bytes <= maxBytes) return;
    throw new KeywardError(
      "KEYRING_INVALID",
      `The value with the keyring document has ${bytes} bytes, but a secret in AWS can hold at most ${maxBytes} bytes`,
      {
        hint: "Use `retireKey` to remove keys that no record needs. For each key, a first call disables the key, and a second call removes it.",
      },
    );
  }
}

function inRequest(value: SecretValue): { readonly SecretString: string } | { readonly SecretBinary: Uint8Array } {
  return "text" in value ? { SecretString: value.text } : { SecretBinary: value.bytes };
}

const restoreFirst =
  "If the secret held a keyring before, restore this keyring, because a new keyring cannot decrypt existing records.";
const createFirst = "If no keyring has existed yet, run `awsKeys(…).create(Keyring.generate())`.";

function explainFailure({ name, message }: AwsFailure): Explanation | undefined {
  const deleted = /delet/i.test(message);
  switch (name) {
    case "ResourceNotFoundException":
      return /staging label|VersionId/.test(message)
        ? {
            problem: "exists, but has no value",
            hint: `${restoreFirst} ${createFirst}`,
          }
        : {
            problem: "does not exist in this account and region",
            hint: `Check \`secretId\` and \`region\`. ${restoreFirst} ${createFirst}`,
          };
    case "InvalidRequestException":
      if (!deleted) return undefined;
      return {
        problem: "is scheduled for deletion",
        hint: "If the deletion is a mistake, run `aws secretsmanager restore-secret` before the recovery window of the secret ends.",
      };
    case "DecryptionFailure":
    case "EncryptionFailure":
      return {
        problem: "cannot be used: Secrets Manager cannot use the KMS key that protects the secret",
        hint: "Check that the KMS key is enabled and not pending deletion. Check that the policy of the KMS key allows `kms:Decrypt` to the role of this process, and also `kms:GenerateDataKey` if the process saves keyrings.",
      };
    case "InvalidParameterException":
      if (!/replica/i.test(message)) return undefined;
      return {
        code: "PROVIDER_READ_ONLY",
        problem: "is a replica, which can only be read",
        hint: "To save a keyring, set `region` to the region of the primary secret.",
      };
    case "LimitExceededException":
      return {
        problem: "cannot have another version, because it has as many versions as AWS allows",
        hint: "Remove staging labels other than AWSCURRENT and AWSPREVIOUS from old versions, because AWS deletes only versions without labels. Then try again.",
      };
    default:
      return undefined;
  }
}
