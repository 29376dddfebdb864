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

const current = "AWSCURRENT";
const previous = "AWSPREVIOUS";
// One label for all writers: it marks at most one version, so that a writer who is killed leaves one behind and no more.
// A version that lost it can still be moved to, and AWS keeps it for a day.
const pending = "keyward-pending";
const maxBytes = 65_536;

/** A text in a secret, and the version that it is. */
export interface SecretVersion {
  readonly id: string;
  readonly text: string;
}

/** How a {@link Secret} is reached. */
export interface SecretOptions extends AwsClientOptions {
  readonly client?: Pick<SecretsManagerClient, "send"> | undefined;
  readonly timeoutMs: number;
}

/** One secret in Secrets Manager, that is replaced only if it is still the one that was read. */
export class Secret {
  readonly #id: string;
  readonly #options: SecretOptions;
  /** What errors call it. */
  readonly subject: string;
  #client: Pick<SecretsManagerClient, "send"> | undefined;

  constructor(id: string, options: SecretOptions) {
    this.#id = id;
    this.#options = options;
    this.#client = options.client;
    this.subject = subjectOf("secret", id);
  }

  /**
   * What it holds now.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when it cannot be read or holds nothing, `KEYRING_INVALID` when it holds
   * bytes.
   */
  async read(signal?: AbortSignal): Promise<SecretVersion> {
    const { VersionId: id, SecretString: text } = await this.#get({ VersionStage: current }, signal);
    if (id !== undefined && text !== undefined) return { id, text };
    throw new KeywardError("KEYRING_INVALID", `${this.subject} holds bytes (SecretBinary) and no text`, {
      hint: "Store the keyring document as SecretString.",
    });
  }

  /**
   * Replaces the version `expected`, and says whether it did: not when another one is in use by now.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when it could not be written, or nobody knows whether it was.
   */
  async replace(expected: string, text: string): Promise<boolean> {
    this.#requireSize(text);
    const id = randomUUID();
    // Without a label, AWSCURRENT would move there, whatever it marks by now.
    await this.#put(id, text);
    const replaced = await this.#makeCurrent(expected, id);
    await this.#unmark(id);
    return replaced;
  }

  /**
   * Writes the first text, into a new secret or one without a value, and says whether it did.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when it could not be written.
   */
  async create(text: string): Promise<boolean> {
    this.#requireSize(text);
    // An ARN is that of a secret which is there.
    if (!this.#id.startsWith("arn:") && (await this.#createSecret(text))) return true;
    if (await this.#hasValue()) return false;
    const id = randomUUID();
    // The first version of a secret is made current whatever its labels, and no second one is.
    const stages = await this.#put(id, text);
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

  async #createSecret(text: string): Promise<boolean> {
    try {
      // The SDK gives the request a token of its own, so that a repeated one succeeds.
      await this.#call("CreateSecret", undefined, (client, options) =>
        client.send(new CreateSecretCommand({ Name: this.#id, SecretString: text }), options),
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

  async #put(id: string, text: string): Promise<readonly string[]> {
    const { VersionStages: stages = [] } = await this.#call("PutSecretValue", undefined, (client, options) =>
      client.send(
        new PutSecretValueCommand({
          SecretId: this.#id,
          // It becomes the id of the version: a repeated request makes no second one.
          ClientRequestToken: id,
          SecretString: text,
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
            // AWS refuses when AWSCURRENT marks another version by now.
            RemoveFromVersionId: expected,
          }),
          options,
        ),
      );
      return true;
    } catch (error) {
      // Its answer may have been lost, and the SDK may have sent it twice: then the second was refused for the first.
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
      throw new KeywardError("PROVIDER_UNAVAILABLE", `${this.subject} may have been replaced or not: AWS went away`, {
        hint: "Load the ring again: if it has the change, it was saved.",
        cause: failure,
      });
    }
  }

  /** Takes the label off, unless another writer has it by now. A version without labels goes in time. */
  async #unmark(id: string): Promise<void> {
    try {
      await this.#call("UpdateSecretVersionStage", undefined, (client, options) =>
        client.send(
          new UpdateSecretVersionStageCommand({ SecretId: this.#id, VersionStage: pending, RemoveFromVersionId: id }),
          options,
        ),
      );
    } catch {
      // The next writer takes it off, as he does where AWS went away before.
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

  #requireSize(text: string): void {
    const bytes = Buffer.byteLength(text);
    if (bytes <= maxBytes) return;
    throw new KeywardError("KEYRING_INVALID", `The keyring takes ${bytes} bytes, and a secret ${maxBytes}`, {
      hint: "Remove keys that no record needs: retireKey removes a key that it disabled before.",
    });
  }
}

const restore = "If a ring was there before, restore it: a new one opens no existing record.";

function explainFailure({ name, message }: AwsFailure): Explanation | undefined {
  const deleted = /delet/i.test(message);
  switch (name) {
    case "ResourceNotFoundException":
      return /staging label|VersionId/.test(message)
        ? {
            problem: "is there and holds no value",
            hint: `${restore} Only for the first ring: awsKeys(…).create(Keyring.generate()).`,
          }
        : {
            problem: "does not exist in this account and region",
            hint: `Correct secretId or region. ${restore} Only for the first ring: awsKeys(…).create(Keyring.generate()).`,
          };
    case "InvalidRequestException":
      if (!deleted) return undefined;
      return {
        problem: "is scheduled for deletion",
        hint: "If that was a mistake, aws secretsmanager restore-secret brings it back; do so before its recovery window ends.",
      };
    case "DecryptionFailure":
    case "EncryptionFailure":
      return {
        problem: "cannot be used, since Secrets Manager cannot use the KMS key that protects it",
        hint: "Check that this key is enabled and not pending deletion, and that its policy allows this role kms:Decrypt, and kms:GenerateDataKey to write.",
      };
    case "InvalidParameterException":
      if (!/replica/i.test(message)) return undefined;
      return { problem: "is a replica, which can only be read", hint: "Write in the region of the primary secret." };
    case "LimitExceededException":
      return {
        problem: "took no further version, since AWS has a limit there",
        hint: "Take staging labels other than AWSCURRENT and AWSPREVIOUS off old versions, and try again.",
      };
    default:
      return undefined;
  }
}
