import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DeleteSecretCommand, SecretsManagerClient } from "@aws-sdk/client-secrets-manager";
import { keyProviderContract, type OpenKeyProvider } from "@keyward/contract";
import {
  exportKeyring,
  fileLocation,
  type KeyProvider,
  Keyring,
  type KeyringLocation,
  storeLocation,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, describe, it } from "vitest";
import { describeWithMoto, findMoto, type MotoServer, startMoto } from "../../../test/servers/moto.ts";
import { awsKeys, kmsKeys } from "../src/index.ts";
import { Account, newName, secretsOf, stubEnvironment } from "./account.ts";
import { type Fault, startProxy } from "./aws-proxy.ts";

const runner = { describe, it };
const servers = await findMoto({ anyWillDo: true });
const unusedEndpoint = "http://127.0.0.1:9";
stubEnvironment();

describeWithMoto(servers, "AWS", () => {
  let server: MotoServer;
  let account: Account;

  beforeAll(async () => {
    server = await startMoto(servers);
    account = new Account(server.endpoint);
  });

  afterAll(async () => {
    account.close();
    await server.stop();
  });

  function opened(provider: KeyProvider, ring: Keyring, close?: () => Promise<unknown>): OpenKeyProvider {
    return {
      provider,
      secrets: () => secretsOf(ring),
      async close() {
        await close?.();
      },
    };
  }

  /** Returns a provider for a new secret with this value. */
  async function overSecret(value: { SecretString?: string; SecretBinary?: Uint8Array }, ring = Keyring.generate()) {
    const secretId = await account.newSecret(value);
    return opened(awsKeys({ secretId, endpoint: server.endpoint }), ring);
  }

  /** Returns a provider for a valid secret, with a proxy that answers every call with this fault. */
  async function behind(fault: Fault): Promise<OpenKeyProvider> {
    const ring = Keyring.generate();
    const secretId = await account.newSecret({ SecretString: exportKeyring(ring) });
    const proxy = await startProxy(server.endpoint);
    proxy.fault = () => fault;
    return opened(awsKeys({ secretId, endpoint: proxy.endpoint }), ring, () => proxy.close());
  }

  keyProviderContract(runner, {
    name: "awsKeys",
    expect: { save: true, subscribe: false },
    open: async () => {
      const ring = Keyring.generate();
      return await overSecret({ SecretString: exportKeyring(ring) }, ring);
    },
    failing: [
      {
        name: "there is no such secret",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => opened(awsKeys({ secretId: newName(), endpoint: server.endpoint }), Keyring.generate()),
      },
      { name: "the secret has no value", code: "PROVIDER_UNAVAILABLE", open: () => overSecret({}) },
      {
        name: "the secret is scheduled for deletion",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const ring = Keyring.generate();
          const secretId = await account.newSecret({ SecretString: exportKeyring(ring) });
          await account.secretsManager.send(new DeleteSecretCommand({ SecretId: secretId }));
          return opened(awsKeys({ secretId, endpoint: server.endpoint }), ring);
        },
      },
      {
        name: "the secret holds bytes that are neither text nor a key",
        code: "KEYRING_INVALID",
        open: () => overSecret({ SecretBinary: Buffer.alloc(33, 0xff) }),
      },
      {
        name: "the document is cut",
        code: "KEYRING_INVALID",
        open: () => {
          const ring = Keyring.generate();
          return overSecret({ SecretString: exportKeyring(ring).slice(0, -20) }, ring);
        },
      },
      {
        name: "the secret holds no keyring document",
        code: "KEYRING_INVALID",
        open: () => overSecret({ SecretString: JSON.stringify({ username: "app", password: "hunter2" }) }),
      },
      {
        name: "no server answers at the endpoint",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => opened(awsKeys({ secretId: newName(), endpoint: unusedEndpoint }), Keyring.generate()),
      },
      {
        name: "AWS denies access",
        code: "PROVIDER_UNAVAILABLE",
        open: () => behind({ kind: "error", status: 400, name: "AccessDeniedException" }),
      },
      {
        name: "AWS rejects the credentials",
        code: "PROVIDER_UNAVAILABLE",
        open: () => behind({ kind: "error", status: 400, name: "UnrecognizedClientException" }),
      },
      {
        name: "AWS throttles the call",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const proxy = await startProxy(server.endpoint);
          proxy.fault = () => ({ kind: "error", status: 400, name: "ThrottlingException" });
          const client = new SecretsManagerClient({ endpoint: proxy.endpoint, maxAttempts: 1 });
          return opened(awsKeys({ secretId: newName(), client }), Keyring.generate(), async () => {
            client.destroy();
            await proxy.close();
          });
        },
      },
      {
        name: "AWS answers with a server error",
        code: "PROVIDER_UNAVAILABLE",
        open: () => behind({ kind: "error", status: 500, name: "InternalServiceError" }),
      },
    ],
  });

  keyProviderContract(runner, {
    name: "awsKeys with a field",
    expect: { save: true, subscribe: false },
    open: async () => {
      const ring = Keyring.generate();
      const secretId = await account.newSecret({
        SecretString: JSON.stringify({ user: "app", ring: exportKeyring(ring) }),
      });
      return opened(awsKeys({ secretId, field: "ring", endpoint: server.endpoint }), ring);
    },
    failing: [
      {
        name: "the secret does not have the field",
        code: "KEYRING_INVALID",
        open: async () => {
          const secretId = await account.newSecret({ SecretString: JSON.stringify({ user: "app" }) });
          return opened(awsKeys({ secretId, field: "ring", endpoint: server.endpoint }), Keyring.generate());
        },
      },
    ],
  });

  keyProviderContract(runner, {
    name: "awsKeys with a binary secret",
    expect: { save: true, subscribe: false },
    open: async () => {
      const ring = Keyring.generate();
      return await overSecret({ SecretBinary: Buffer.from(exportKeyring(ring)) }, ring);
    },
  });

  /** Returns a provider for a new wrapped keyring at a location. */
  async function wrappedAt(place: KeyringLocation, close?: () => Promise<unknown>): Promise<OpenKeyProvider> {
    const ring = Keyring.generate();
    const keys = kmsKeys({ keyId: await account.newKey(), place, endpoint: server.endpoint });
    await keys.create(ring);
    return opened(keys, ring, close);
  }

  async function wrappedInMemory() {
    const ring = Keyring.generate();
    const place = storeLocation(new MemoryStore());
    const keyId = await account.newKey();
    await kmsKeys({ keyId, place, endpoint: server.endpoint }).create(ring);
    return { ring, place, keyId };
  }

  keyProviderContract(runner, {
    name: "kmsKeys, in a store",
    expect: { save: true, subscribe: false },
    open: () => wrappedAt(storeLocation(new MemoryStore())),
    failing: [
      {
        name: "the location is empty",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const place = storeLocation(new MemoryStore());
          const keys = kmsKeys({ keyId: await account.newKey(), place, endpoint: server.endpoint });
          return opened(keys, Keyring.generate());
        },
      },
      {
        name: "there is no such KMS key",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const { place, ring } = await wrappedInMemory();
          return opened(kmsKeys({ keyId: "alias/nothing", place, endpoint: server.endpoint }), ring);
        },
      },
      {
        name: "KMS denies access",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const { keyId, place, ring } = await wrappedInMemory();
          const proxy = await startProxy(server.endpoint);
          proxy.fault = () => ({ kind: "error", status: 400, name: "AccessDeniedException" });
          return opened(kmsKeys({ keyId, place, endpoint: proxy.endpoint }), ring, () => proxy.close());
        },
      },
      {
        name: "no server answers at the endpoint",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const { keyId, place, ring } = await wrappedInMemory();
          return opened(kmsKeys({ keyId, place, endpoint: unusedEndpoint }), ring);
        },
      },
    ],
  });

  keyProviderContract(runner, {
    name: "kmsKeys, in a file",
    expect: { save: true, subscribe: false },
    open: async () => {
      const folder = await mkdtemp(join(tmpdir(), "keyward-kms-"));
      return await wrappedAt(fileLocation(join(folder, "keyring")), () => rm(folder, { recursive: true }));
    },
    failing: [
      {
        name: "the location holds a keyring document that is not wrapped",
        code: "KEYRING_INVALID",
        open: async () => {
          const folder = await mkdtemp(join(tmpdir(), "keyward-kms-"));
          const path = join(folder, "keyring");
          const ring = Keyring.generate();
          await writeFile(path, exportKeyring(ring));
          const keys = kmsKeys({ keyId: await account.newKey(), place: fileLocation(path), endpoint: server.endpoint });
          return opened(keys, ring, () => rm(folder, { recursive: true }));
        },
      },
    ],
  });
});
