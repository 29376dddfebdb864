import { randomUUID } from "node:crypto";
import { inspect } from "node:util";
import { CreateKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import {
  CreateSecretCommand,
  DescribeSecretCommand,
  GetSecretValueCommand,
  type GetSecretValueCommandOutput,
  SecretsManagerClient,
} from "@aws-sdk/client-secrets-manager";
import type { Keyring, KeywardError, KeywardErrorCode } from "@keyward/core";
import { expect, vi } from "vitest";
import { expectRefusal } from "../../../test/store/refusals.ts";
import { materialOf } from "../../../test/store/secrets.ts";

/** The credentials that the SDK finds in these tests. No error may show them. */
export const credentials = {
  accessKeyId: "AKIDTEST7Q2LMZ4XKEYW",
  secretAccessKey: "c0ffee/Secret+Access=Key/7hJq2LmZ4x",
};

/** Sets environment variables so that the SDK finds these credentials and a region, and no settings of the machine. */
export function stubEnvironment(): void {
  vi.stubEnv("AWS_ACCESS_KEY_ID", credentials.accessKeyId);
  vi.stubEnv("AWS_SECRET_ACCESS_KEY", credentials.secretAccessKey);
  vi.stubEnv("AWS_REGION", "eu-central-1");
  vi.stubEnv("AWS_EC2_METADATA_DISABLED", "true");
  vi.stubEnv("AWS_CONFIG_FILE", "/nonexistent");
  vi.stubEnv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent");
}

/** An AWS account, with the operations that an operator would do by hand. */
export class Account {
  readonly secretsManager: SecretsManagerClient;
  readonly kms: KMSClient;

  constructor(endpoint: string) {
    const settings = { endpoint, region: "eu-central-1", credentials };
    this.secretsManager = new SecretsManagerClient(settings);
    this.kms = new KMSClient(settings);
  }

  /** Creates a secret with a unique name. Default: the secret has no value. */
  async newSecret(value: { readonly SecretString?: string; readonly SecretBinary?: Uint8Array } = {}): Promise<string> {
    const name = newName();
    await this.secretsManager.send(new CreateSecretCommand({ Name: name, ...value }));
    return name;
  }

  async value(name: string): Promise<GetSecretValueCommandOutput> {
    return await this.secretsManager.send(new GetSecretValueCommand({ SecretId: name, VersionStage: "AWSCURRENT" }));
  }

  /** Returns the staging labels of each version that has some. */
  async labels(name: string): Promise<string[][]> {
    const { VersionIdsToStages = {} } = await this.secretsManager.send(new DescribeSecretCommand({ SecretId: name }));
    return Object.values(VersionIdsToStages)
      .filter((stages) => stages.length > 0)
      .map((stages) => [...stages].sort())
      .sort();
  }

  async newKey(): Promise<string> {
    const { KeyMetadata } = await this.kms.send(new CreateKeyCommand({}));
    if (KeyMetadata?.KeyId === undefined) throw new Error("KMS made no key");
    return KeyMetadata.KeyId;
  }

  close(): void {
    this.secretsManager.destroy();
    this.kms.destroy();
  }
}

/** Returns a unique name. */
export function newName(): string {
  return `keyward/test/${randomUUID()}`;
}

/** Returns the key material of a keyring and the secret credential, which no output may show. */
export function secretsOf(ring: Keyring): string[] {
  return [...materialOf(ring), credentials.secretAccessKey];
}

/** Returns the error of a call. Fails if the error shows a key of the keyring or the credentials. */
export async function refusal(call: Promise<unknown>, code: KeywardErrorCode, ring: Keyring): Promise<KeywardError> {
  const error = await expectRefusal(call, code);
  const shown = `${inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true })} ${JSON.stringify(error)}`;
  for (const secret of secretsOf(ring)) expect(shown.includes(secret), "a secret is shown").toBe(false);
  return error;
}
