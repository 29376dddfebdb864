import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import type { KMSClient } from "@aws-sdk/client-kms";
import { type KeyringWrapper, KeywardError, type WrapOptions } from "@keyward/core";
import { type AwsFailure, awsNameOf, callAws, type Explanation } from "./aws-call.ts";
import { type AwsClientOptions, clientSettings } from "./aws-client.ts";
import { subjectOf } from "./aws-resource.ts";

const version = "kms1";
const nonceBytes = 12;
const tagBytes = 16;
const base64url = /^[A-Za-z0-9_-]+$/;

type Kms = typeof import("@aws-sdk/client-kms");

/** How a {@link KmsWrapper} reaches KMS. */
export interface KmsWrapperOptions extends AwsClientOptions {
  readonly client?: Pick<KMSClient, "send"> | undefined;
  readonly timeoutMs: number;
}

/**
 * Wraps a keyring under a KMS key. KMS encrypts no more than 4 KiB, so it wraps a data key, which is used once:
 *
 *     "kms1." base64url(data key, wrapped by KMS) "." base64url(nonce(12) ‖ ciphertext ‖ tag(16))
 *
 * The ciphertext is AES-256-GCM under the data key, with `kms1.` and the name of the ring as associated data; the
 * encryption context that KMS binds the data key to is `{ "keyward": name }`. Neither has the wrapped data key in it, so
 * KMS can wrap that anew without anybody opening the ring.
 */
export class KmsWrapper implements KeyringWrapper {
  readonly #keyIds: readonly string[];
  readonly #context: Readonly<Record<string, string>>;
  readonly #associatedData: Buffer;
  readonly #options: KmsWrapperOptions;
  #client: Pick<KMSClient, "send"> | undefined;

  /** @param keyIds The first one wraps; each may have wrapped. */
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
          // Without the id, KMS would take whatever key the text names, also one of whoever wrote it.
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
      throw new KeywardError("KEYRING_INVALID", "The wrapped keyring was altered, or is of another ring", {
        hint: "Check that name is the one it was wrapped with. Otherwise restore it from a backup, and find out who writes there.",
      });
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
        // Of a key that wrapped nothing here, KMS says either.
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
      // ReEncrypt needs two of its own.
      action: operation === "ReEncrypt" ? "kms:ReEncryptFrom and kms:ReEncryptTo" : `kms:${operation}`,
      subject: subjectOf("KMS key", keyId),
      // ReEncrypt names two of them.
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
    const missing = error instanceof Error && "code" in error && error.code === "ERR_MODULE_NOT_FOUND";
    if (!missing) throw error;
    throw new KeywardError("PROVIDER_UNAVAILABLE", "kmsKeys needs the package @aws-sdk/client-kms", {
      hint: "Install it: npm install @aws-sdk/client-kms",
    });
  }
}

function write(wrappedKey: Uint8Array, body: string): string {
  return `${version}.${Buffer.from(wrappedKey).toString("base64url")}.${body}`;
}

function read(wrapped: string): { readonly wrappedKey: Uint8Array; readonly body: string } {
  const [head, key = "", body = "", ...rest] = wrapped.trim().split(".");
  const wrappedKey = Buffer.from(key, "base64url");
  const sealed = Buffer.from(body, "base64url");
  // Node's decoder takes padding, stray bits and other characters in silence.
  const canonical =
    base64url.test(key) && wrappedKey.toString("base64url") === key && sealed.toString("base64url") === body;
  if (head === version && rest.length === 0 && canonical && sealed.length > nonceBytes + tagBytes) {
    return { wrappedKey, body };
  }
  throw new KeywardError("KEYRING_INVALID", "What lies where the keyring should is not a keyring wrapped by KMS", {
    hint: `Check the location, or restore the keyring from a backup: it begins with "${version}.".`,
  });
}

function noAnswer(keyId: string): KeywardError {
  return new KeywardError(
    "PROVIDER_UNAVAILABLE",
    `${subjectOf("KMS key", keyId)}: KMS answered without what it was asked for`,
    {
      hint: "Check that the endpoint is one of KMS.",
    },
  );
}

function explainFailure({ name }: AwsFailure): Explanation | undefined {
  switch (name) {
    case "NotFoundException":
      return {
        problem: "does not exist in this account and region",
        hint: "Correct keyId or region. An alias begins with alias/.",
      };
    case "DisabledException":
      return {
        problem: "is disabled",
        hint: "Unless it was disabled on purpose, enable it: aws kms enable-key.",
      };
    case "KMSInvalidStateException":
      return {
        problem: "is in no state to be used: pending deletion, most likely",
        hint: "Look: aws kms describe-key. Keep it: aws kms cancel-key-deletion. Once it is deleted, the ring is lost, except in processes that have loaded it: keep those running.",
      };
    case "IncorrectKeyException":
      return {
        code: "KEYRING_INVALID",
        problem: "did not wrap this keyring: another KMS key did",
        hint: "Give the id of the key that did; when it was replaced, name that one in formerKeyIds and call rewrap().",
      };
    case "InvalidCiphertextException":
      return {
        code: "KEYRING_INVALID",
        problem: "did not wrap this keyring for this name, or the keyring was altered",
        hint: "Check that name is the one it was wrapped with. Otherwise restore the keyring from a backup.",
      };
    case "InvalidKeyUsageException":
      return { problem: "is not one that wraps data keys", hint: "Use a symmetric key, of usage ENCRYPT_DECRYPT." };
    default:
      return undefined;
  }
}
