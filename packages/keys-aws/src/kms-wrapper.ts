import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import type { KMSClient } from "@aws-sdk/client-kms";
import { type KeyringWrapper, KeywardError, systemCode, type WrapOptions } from "@keyward/core";
import { type AwsFailure, awsNameOf, callAws, type Explanation } from "./aws-call.ts";
import { type AwsClientOptions, clientSettings } from "./aws-client.ts";
import { subjectOf } from "./aws-resource.ts";

const version = "kms1";
const nonceBytes = 12;
const tagBytes = 16;
const base64url = /^[A-Za-z0-9_-]+$/;

type Kms = typeof import("@aws-sdk/client-kms");

/** Options of a {@link KmsWrapper}, which encrypts keyrings through KMS. */
export interface KmsWrapperOptions extends AwsClientOptions {
  readonly client?: Pick<KMSClient, "send"> | undefined;
  readonly timeoutMs: number;
}

/**
 * Wraps (encrypts) a keyring under a KMS key. KMS encrypts at most 4 KiB. So the keyring is encrypted under a data key,
 * which is used only once, and KMS wraps only the data key. The wrapped keyring is this text:
 *
 *     "kms1." base64url(data key, wrapped by KMS) "." base64url(nonce(12) ‖ ciphertext ‖ tag(16))
 *
 * The keyring document is encrypted by AES-256-GCM under the data key, with `kms1.` and the name of the keyring as
 * associated data. KMS binds the data key to the encryption context `{ "keyward": name }`. The associated data and the
 * encryption context do not depend on the wrapped data key. So KMS can wrap the data key again, and the encrypted
 * keyring stays unchanged.
 */
export class KmsWrapper implements KeyringWrapper {
  readonly #keyIds: readonly string[];
  readonly #context: Readonly<Record<string, string>>;
  readonly #associatedData: Buffer;
  readonly #options: KmsWrapperOptions;
  #client: Pick<KMSClient, "send"> | undefined;

  /**
   * @param keyIds Ids of KMS keys. New keyrings are wrapped under the first KMS key. An existing keyring may be wrapped
   * under any of these KMS keys.
   * @param name Name of the keyring. A wrapped keyring can be unwrapped only with the name that it was wrapped with.
   */
  constructor(keyIds: readonly string[], name: string, options: KmsWrapperOptions) {
    this.#keyIds = keyIds;
    this.#context = { keyward: name };
    this.#associatedData = Buffer.from(`${version}.${name}`);
    this.#options = options;
    this.#client = options.client;
  }

  async wrap(document: Uint8Array, { signal }: WrapOptions): Promise<string> {
    const keyId = this.#keyIds[0] ?? "";
    const { Plaintext: dataKey, CiphertextBlob: wrappedKey } = await this.#call(
      "GenerateDataKey",
      keyId,
      signal,
      (client, { GenerateDataKeyCommand }, options) =>
        client.send(
          new GenerateDataKeyCommand({ KeyId: keyId, KeySpec: "AES_256", EncryptionContext: this.#context }),
          options,
        ),
    );
    if (dataKey === undefined || wrappedKey === undefined) throw noAnswer(keyId);
    try {
      const nonce = randomBytes(nonceBytes);
      const cipher = createCipheriv("aes-256-gcm", dataKey, nonce, { authTagLength: tagBytes });
      cipher.setAAD(this.#associatedData);
      const ciphertext = Buffer.concat([cipher.update(document), cipher.final()]);
      const body = Buffer.concat([nonce, ciphertext, cipher.getAuthTag()]);
      return write(wrappedKey, body.toString("base64url"));
    } finally {
      dataKey.fill(0);
    }
  }

  async unwrap(wrapped: string, { signal }: WrapOptions): Promise<Uint8Array> {
    const { wrappedKey, body } = read(wrapped);
    const { Plaintext: dataKey } = await this.#underAnyKey((keyId) =>
      this.#call("Decrypt", keyId, signal, (client, { DecryptCommand }, options) =>
        client.send(
          // Without the id, KMS would use the key that the ciphertext names, which may be an attacker's key.
          new DecryptCommand({ KeyId: keyId, CiphertextBlob: wrappedKey, EncryptionContext: this.#context }),
          options,
        ),
      ),
    );
    if (dataKey === undefined) throw noAnswer(this.#keyIds[0] ?? "");
    try {
      const sealed = Buffer.from(body, "base64url");
      const nonce = sealed.subarray(0, nonceBytes);
      const decipher = createDecipheriv("aes-256-gcm", dataKey, nonce, { authTagLength: tagBytes });
      decipher.setAAD(this.#associatedData);
      decipher.setAuthTag(sealed.subarray(-tagBytes));
      const opened = decipher.update(sealed.subarray(nonceBytes, -tagBytes));
      decipher.final();
      return opened;
    } catch {
      throw new KeywardError(
        "KEYRING_INVALID",
        "The wrapped keyring cannot be decrypted, because it was altered, or was wrapped for a keyring with another name",
        {
          hint: "Check that the option `name` is the name that the keyring was wrapped with. If `name` is correct, restore the wrapped keyring from a backup, and find out who can write to the location `place`.",
        },
      );
    } finally {
      dataKey.fill(0);
    }
  }

  async rewrap(wrapped: string, { signal }: WrapOptions): Promise<string> {
    const { wrappedKey, body } = read(wrapped);
    const keyId = this.#keyIds[0] ?? "";
    const { CiphertextBlob: next } = await this.#underAnyKey((sourceKeyId) =>
      this.#call("ReEncrypt", sourceKeyId, signal, (client, { ReEncryptCommand }, options) =>
        client.send(
          new ReEncryptCommand({
            CiphertextBlob: wrappedKey,
            SourceKeyId: sourceKeyId,
            SourceEncryptionContext: this.#context,
            DestinationKeyId: keyId,
            DestinationEncryptionContext: this.#context,
          }),
          options,
        ),
      ),
    );
    if (next === undefined) throw noAnswer(keyId);
    return write(next, body);
  }

  async #underAnyKey<Output>(attempt: (keyId: string) => Promise<Output>): Promise<Output> {
    let failure: unknown;
    for (const keyId of this.#keyIds) {
      try {
        return await attempt(keyId);
      } catch (error) {
        // KMS answers with one of these two errors if another KMS key wrapped the data key.
        const name = awsNameOf(error);
        if (name !== "IncorrectKeyException" && name !== "AccessDeniedException") throw error;
        failure ??= error;
      }
    }
    throw failure;
  }

  async #call<Output>(
    operation: string,
    keyId: string,
    signal: AbortSignal | undefined,
    send: (
      client: Pick<KMSClient, "send">,
      kms: Kms,
      options: { readonly abortSignal: AbortSignal },
    ) => Promise<Output>,
  ): Promise<Output> {
    const kms = await loadKms();
    const call = {
      // No IAM action has the name ReEncrypt. The operation needs these two actions.
      action: operation === "ReEncrypt" ? "kms:ReEncryptFrom and kms:ReEncryptTo" : `kms:${operation}`,
      subject: subjectOf("KMS key", keyId),
      // The error of ReEncrypt may name two of the keys.
      ids: this.#keyIds,
      timeoutMs: this.#options.timeoutMs,
      signal,
      explain: explainFailure,
    };
    return await callAws(call, (options) => {
      this.#client ??= new kms.KMSClient(clientSettings(this.#options, this.#keyIds[0] ?? ""));
      return send(this.#client, kms, options);
    });
  }
}

async function loadKms(): Promise<Kms> {
  try {
    return await import("@aws-sdk/client-kms");
  } catch (error) {
    if (systemCode(error) !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new KeywardError(
      "PROVIDER_UNAVAILABLE",
      "kmsKeys needs the package @aws-sdk/client-kms, which is not installed",
      {
        hint: "Run `npm install @aws-sdk/client-kms`.",
      },
    );
  }
}

function write(wrappedKey: Uint8Array, body: string): string {
  return `${version}.${Buffer.from(wrappedKey).toString("base64url")}.${body}`;
}

function read(wrapped: string): { readonly wrappedKey: Uint8Array; readonly body: string } {
  const [head, key = "", body = "", ...rest] = wrapped.trim().split(".");
  const wrappedKey = Buffer.from(key, "base64url");
  const sealed = Buffer.from(body, "base64url");
  // Node.js silently accepts padding, extra bits and other characters.
  const canonical =
    base64url.test(key) && wrappedKey.toString("base64url") === key && sealed.toString("base64url") === body;
  if (head === version && rest.length === 0 && canonical && sealed.length > nonceBytes + tagBytes) {
    return { wrappedKey, body };
  }
  throw new KeywardError(
    "KEYRING_INVALID",
    "The text at the location of the wrapped keyring is not a keyring wrapped by KMS",
    {
      hint: `Check that \`place\` is the location of the wrapped keyring. A wrapped keyring begins with "${version}.". If \`place\` is correct, restore the wrapped keyring from a backup.`,
    },
  );
}

function noAnswer(keyId: string): KeywardError {
  return new KeywardError(
    "PROVIDER_UNAVAILABLE",
    `${subjectOf("KMS key", keyId)}: the answer of KMS contains no data key`,
    {
      hint: "Check that the option `endpoint` is the URL of KMS, because another service may have answered.",
    },
  );
}

function explainFailure({ name }: AwsFailure): Explanation | undefined {
  switch (name) {
    case "NotFoundException":
      return {
        problem: "does not exist in this account and region",
        hint: "Correct `keyId` or `region`. If `keyId` is an alias, write the alias with its prefix `alias/`.",
      };
    case "DisabledException":
      return {
        problem: "is disabled",
        hint: "If the key was disabled by mistake, run `aws kms enable-key`. While the key is disabled, do not stop processes that have loaded the keyring, because no other process can unwrap the keyring.",
      };
    case "KMSInvalidStateException":
      return {
        problem: "is in a state in which it cannot be used, most likely pending deletion",
        hint: "Run `aws kms describe-key` to see the state of the key. If the key is pending deletion, run `aws kms cancel-key-deletion` and then `aws kms enable-key`. If the key is deleted, do not stop processes that have loaded the keyring, because no other process can unwrap the keyring.",
      };
    case "IncorrectKeyException":
      return {
        code: "KEYRING_INVALID",
        problem: "cannot unwrap this keyring, which was wrapped under another KMS key",
        hint: "If `keyId` is wrong, set `keyId` to the KMS key that wrapped the keyring. If you have moved to a new KMS key, add the earlier key to `formerKeyIds`, and call `rewrap()`.",
      };
    case "InvalidCiphertextException":
      return {
        code: "KEYRING_INVALID",
        problem: "cannot unwrap this keyring, which was wrapped for another name, or was altered",
        hint: "Check that the option `name` is the name that the keyring was wrapped with. If `name` is correct, restore the wrapped keyring from a backup.",
      };
    case "InvalidKeyUsageException":
      return {
        problem: "cannot wrap data keys",
        hint: "Set `keyId` to a symmetric key with the key usage `ENCRYPT_DECRYPT`.",
      };
    default:
      return undefined;
  }
}
