import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CreateKeyCommand, KMSClient } from "@aws-sdk/client-kms";
import { createKeyv, exportKeyring, type KeyProvider, Keyring } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { describeWithMoto, findMoto, type MotoServer, startMoto } from "../../../test/servers/moto.ts";
import { describeWithVault, findVaultServers, startVault, type VaultServer } from "../../../test/servers/openbao.ts";

const folder = mkdtempSync(join(tmpdir(), "keyward-keys-from-services-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Writes a first keyring to a source. Checks that another provider for the same source encrypts and decrypts with this keyring. */
async function expectSource(open: () => Promise<KeyProvider>): Promise<void> {
  const ring = Keyring.generate();
  const operators = await open();
  await operators.create?.(ring);
  const keys = await open();
  expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
  const flows = createKeyv({ store: new MemoryStore(), keys });
  await flows.set("session:42", { step: "checkout" });
  expect(await flows.get("session:42")).toEqual({ step: "checkout" });
  await flows.disconnect();
}

const vault = await findVaultServers();
describeWithVault(vault, "keysFrom with Vault", () => {
  let server: VaultServer;

  beforeAll(async () => {
    server = await startVault(vault);
    await server.request("POST", "sys/mounts/kv%2Fteam", { type: "kv", options: { version: "2" } });
    await server.request("POST", "sys/mounts/transit", { type: "transit" });
    await server.request("POST", "transit/keys/keyward");
    await server.request("POST", "sys/auth/people", { type: "userpass" });
    await server.request("PUT", "sys/policies/acl/all", {
      policy: 'path "*" { capabilities = ["create", "read", "update"] }',
    });
    await server.request("POST", "auth/people/users/operator", { password: "test password", token_policies: "all" });
  });
  afterAll(() => server.stop());

  const env = () => ({ VAULT_ADDR: server.address, VAULT_TOKEN: server.rootToken });

  it("a provider for a vault: source reads the keyring in the field that the source names, in an engine whose mount contains a slash", async () => {
    await expectSource(() => keysFrom("vault://kv%2Fteam/app/keyring?field=ring&refreshMs=60000", { env: env() }));
  });

  it("a provider for a vault: source logs in with the user name in the source and the password in VAULT_PASSWORD", async () => {
    const source = `vault://kv%2Fteam/operators/keyring?address=${server.address}&auth=userpass&username=operator&authMount=people`;
    await expectSource(() => keysFrom(source, { env: { VAULT_PASSWORD: "test password" } }));
  });

  it("a provider for a vault-transit: source reads a wrapped keyring from a store and from a file", async () => {
    const store = new MemoryStore();
    await expectSource(() => keysFrom("vault-transit://transit/keyward?place=store", { env: env(), store }));
    const path = join(folder, "transit.keyring");
    await expectSource(() => keysFrom(`vault-transit://transit/keyward?place=file:${path}`, { env: env() }));
  });
});

const aws = await findMoto();
describeWithMoto(aws, "keysFrom with AWS", () => {
  let server: MotoServer;
  let keyId = "";

  async function newKmsKey(): Promise<string> {
    const client = new KMSClient({
      endpoint: server.endpoint,
      region: "eu-central-1",
      credentials: { accessKeyId: "test", secretAccessKey: "test" },
    });
    const { KeyMetadata } = await client.send(new CreateKeyCommand({}));
    client.destroy();
    return KeyMetadata?.KeyId ?? "";
  }

  beforeAll(async () => {
    server = await startMoto(aws);
    keyId = await newKmsKey();
  });
  afterAll(() => server.stop());

  beforeAll(() => {
    vi.stubEnv("AWS_ACCESS_KEY_ID", "test");
    vi.stubEnv("AWS_SECRET_ACCESS_KEY", "test");
  });
  afterAll(() => vi.unstubAllEnvs());

  it("a provider for an aws-sm: source calls the endpoint that the source names", async () => {
    await expectSource(() =>
      keysFrom(`aws-sm://eu-central-1/production/keyring?endpoint=${server.endpoint}&name=keyring`),
    );
  });

  it("a provider for an aws-sm: source reads and writes the field of the secret that the source names", async () => {
    await expectSource(() => keysFrom(`aws-sm://eu-central-1/production/app?endpoint=${server.endpoint}&field=ring`));
    const error = await keysFrom(`aws-sm://eu-central-1/production/app?endpoint=${server.endpoint}&field=other`).then(
      (keys) => keys.load().then(String, (thrown: unknown) => thrown),
    );
    expect(error).toMatchObject({ code: "KEYRING_INVALID", message: expect.stringContaining('"other"') });
  });

  describe("a source without a region", () => {
    afterEach(() => vi.stubEnv("AWS_REGION", undefined));

    it("gives a provider that reads a secret in the region that AWS_REGION names", async () => {
      vi.stubEnv("AWS_REGION", "eu-west-1");
      await expectSource(() => keysFrom(`aws-sm:///other/keyring?endpoint=${server.endpoint}`));
    });
  });

  it("a provider for an aws-kms: source reads a wrapped keyring from a store and from a file", async () => {
    const store = new MemoryStore();
    const source = `aws-kms://eu-central-1/${keyId}?endpoint=${server.endpoint}&minGeneration=1`;
    await expectSource(() => keysFrom(`${source}&place=store`, { store }));
    const path = join(folder, "kms.keyring");
    await expectSource(() => keysFrom(`${source}&place=file:${path}`));
  });

  it("a provider for an aws-kms: source reads a keyring that is still wrapped under a KMS key in formerKeyIds", async () => {
    const store = new MemoryStore();
    const source = (id: string) => `aws-kms://eu-central-1/${id}?endpoint=${server.endpoint}&place=store`;
    const ring = Keyring.generate();
    await (await keysFrom(source(keyId), { store })).create?.(ring);
    const later = await newKmsKey();
    await expect((await keysFrom(source(later), { store })).load()).rejects.toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
    });
    const keys = await keysFrom(`${source(later)}&formerKeyIds=${await newKmsKey()},${keyId}`, { store });
    expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
  });
});
