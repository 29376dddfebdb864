import { createSecretKey, randomBytes } from "node:crypto";
import { buildDecrypt } from "@aws-crypto/decrypt-node";
import { buildEncrypt } from "@aws-crypto/encrypt-node";
import { AlgorithmSuiteIdentifier, CommitmentPolicy } from "@aws-crypto/material-management-node";
import { RawAesKeyringNode, RawAesWrappingSuiteIdentifier } from "@aws-crypto/raw-aes-keyring-node";
import * as Iron from "@hapi/iron";
import type { RecordAddress, StoredValue } from "@keyward/core";
import { CompactEncrypt, compactDecrypt } from "jose";
import { open, readHeader, seal } from "../../packages/core/src/envelope/envelope.ts";
import { RootKey } from "../../packages/core/src/envelope/root-key.ts";
import { associatedData, decrypt, encrypt } from "./node-crypto.ts";

/** A library and a key, with which the text of a record is encrypted and decrypted. */
export interface Sealer {
  readonly name: string;
  seal(text: string, address: RecordAddress): StoredValue | Promise<StoredValue>;
  open(sealed: StoredValue, address: RecordAddress): StoredValue | Promise<StoredValue>;
}

/** A sealer that never returns a promise. */
export interface SynchronousSealer extends Sealer {
  seal(text: string, address: RecordAddress): StoredValue;
  open(sealed: StoredValue, address: RecordAddress): StoredValue;
}

const keyId = "2026-11";

/** AES-256-GCM by hand as text, with the same encoding, and the same address and header authenticated. */
export function nodeCrypto(): Sealer {
  const key = createSecretKey(randomBytes(32));
  const header = `kw1.${keyId}.`;
  return {
    name: "node:crypto",
    seal: (text, address) => header + encrypt(key, text, associatedData(header, address)).toString("base64url"),
    open: (sealed, address) => {
      const body = Buffer.from(requireText(sealed).slice(header.length), "base64url");
      return decrypt(key, body, associatedData(header, address));
    },
  };
}

/** AES-256-GCM by hand as bytes, without base64url. */
export function nodeCryptoBinary(): SynchronousSealer {
  const key = createSecretKey(randomBytes(32));
  const header = `kw1:${keyId}:`;
  const headerBytes = Buffer.from(header);
  return {
    name: "node:crypto",
    seal: (text, address) => encrypt(key, text, associatedData(header, address), headerBytes),
    open: (sealed, address) =>
      decrypt(key, requireBytes(sealed).subarray(header.length), associatedData(header, address)),
  };
}

/** Keyward's envelope. */
export function keyward(form: "text" | "binary"): Sealer {
  const roots = new Map([[keyId, new RootKey(randomBytes(32))]]);
  const root = requireFound(roots.get(keyId));
  return {
    name: "Keyward",
    seal: (text, address) => seal(keyId, root, address, { value: text }, { form }),
    open: (sealed, address) => {
      const header = requireFound(readHeader(sealed, address));
      return open(sealed, header, requireFound(roots.get(header.keyId)), address).value;
    },
  };
}

/**
 * Iron with the options that it recommends. It does not bind a record to its address, and serializes values as JSON.
 */
export function iron(): Sealer {
  const password = randomBytes(32).toString("base64");
  return {
    name: "@hapi/iron",
    seal: (text) => Iron.seal(text, password, Iron.defaults),
    open: async (sealed) => String(await Iron.unseal(requireText(sealed), password, Iron.defaults)),
  };
}

/**
 * Compact JWE with direct encryption under A256GCM and a key imported once. It does not bind a record to its address.
 */
export async function jose(): Promise<Sealer> {
  const key = await crypto.subtle.importKey("raw", randomBytes(32), "AES-GCM", false, ["encrypt", "decrypt"]);
  const encoder = new TextEncoder();
  const decoder = new TextDecoder();
  return {
    name: "jose",
    seal: (text) =>
      new CompactEncrypt(encoder.encode(text))
        .setProtectedHeader({ alg: "dir", enc: "A256GCM", kid: keyId })
        .encrypt(key),
    open: async (sealed) => decoder.decode((await compactDecrypt(requireText(sealed), key)).plaintext),
  };
}

/**
 * The AWS Encryption SDK with a raw AES keyring, key commitment and the address as its encryption context. It has no
 * signatures, which take longer than everything else, and uses base64url because its messages are bytes. The imports
 * are the parts of @aws-crypto/client-node, without its clients of AWS services.
 */
export function awsEncryptionSdk(): Sealer {
  const { encrypt } = buildEncrypt(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);
  const { decrypt } = buildDecrypt(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);
  const keyring = new RawAesKeyringNode({
    keyName: keyId,
    keyNamespace: "bench",
    unencryptedMasterKey: new Uint8Array(randomBytes(32)),
    wrappingSuite: RawAesWrappingSuiteIdentifier.AES256_GCM_IV12_TAG16_NO_PADDING,
  });
  const suiteId = AlgorithmSuiteIdentifier.ALG_AES256_GCM_IV12_TAG16_HKDF_SHA512_COMMIT_KEY;
  return {
    name: "@aws-crypto/client-node",
    seal: async (text, { namespace, key }) => {
      const { result } = await encrypt(keyring, text, { suiteId, encryptionContext: { namespace, key } });
      return result.toString("base64url");
    },
    open: async (sealed, { namespace, key }) => {
      const { plaintext, messageHeader } = await decrypt(keyring, Buffer.from(requireText(sealed), "base64url"));
      const { encryptionContext: context } = messageHeader;
      if (context["namespace"] !== namespace || context["key"] !== key)
        throw new Error("The record was encrypted for another address");
      return plaintext.toString("utf8");
    },
  };
}

function requireText(sealed: StoredValue): string {
  if (typeof sealed === "string") return sealed;
  throw new Error("The sealer returned bytes instead of text");
}

function requireBytes(sealed: StoredValue): Buffer {
  if (Buffer.isBuffer(sealed)) return sealed;
  throw new Error("The sealer did not return a buffer");
}

function requireFound<Item>(item: Item | undefined): Item {
  if (item !== undefined) return item;
  throw new Error("The key or header of the record was not found");
}
