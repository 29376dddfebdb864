import { randomUUID } from "node:crypto";
import { exportKeyring, Keyring, type KeyringLocation, storeLocation } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { describeWithVault, findVaultServers, startVault, type VaultServer } from "../../../test/servers/openbao.ts";
import { refusal } from "../../../test/store/refusals.ts";
import { materialOf } from "../../../test/store/secrets.ts";
import { type TransitKeysOptions, transitKeys } from "../src/index.ts";
import { makeToken, mountEngine, writePolicy } from "./vault-fixture.ts";

const servers = await findVaultServers();

describeWithVault(servers, "transitKeys", () => {
  let server: VaultServer;
  let mount: string;

  beforeAll(async () => {
    server = await startVault(servers);
    mount = await mountEngine(server, "transit");
  });
  afterAll(() => server.stop());

  async function options(change: Partial<TransitKeysOptions> = {}, key: object = {}): Promise<TransitKeysOptions> {
    const name = `key-${randomUUID()}`;
    await server.request("POST", `${mount}/keys/${name}`, key);
    const auth = { method: "token", token: server.rootToken } as const;
    const place = storeLocation(new MemoryStore());
    return { address: server.address, auth, env: {}, mount, key: name, place, ...change };
  }

  async function textAt(place: KeyringLocation): Promise<string> {
    return (await place.read()) ?? expect.fail("the location is empty");
  }

  it("a wrapped keyring is stored without any readable part", async () => {
    const at = await options();
    const ring = Keyring.generate("2026-11");
    await transitKeys(at).create(ring);
    const text = await textAt(at.place);
    expect(text).toMatch(/^vault:v1:/);
    for (const secret of ["2026-11", "keyward", ...materialOf(ring)]) expect(text.includes(secret)).toBe(false);
  });

  it("a wrapped keyring is rewrapped after a rotation of the Transit key, and min_decryption_version then makes older copies useless", async () => {
    const at = await options();
    const keys = transitKeys(at);
    const ring = Keyring.generate();
    await keys.create(ring);
    const old = await textAt(at.place);
    expect(await keys.rewrap()).toBe(false);
    await server.request("POST", `${mount}/keys/${at.key}/rotate`);
    expect(await keys.rewrap()).toBe(true);
    expect(await keys.rewrap()).toBe(false);
    const text = await textAt(at.place);
    expect(text).toMatch(/^vault:v2:/);
    await server.request("POST", `${mount}/keys/${at.key}/config`, { min_decryption_version: 2 });
    expect(exportKeyring(await transitKeys(at).load())).toBe(exportKeyring(ring));
    await at.place.replace(text, old);
    expect(await refusal(transitKeys(at).load())).toMatchObject({
      code: "KEYRING_INVALID",
      hint: expect.stringContaining("min_decryption_version"),
    });
  });

  it("a wrapped keyring is loaded with only the documented policy, and is reloaded without a call to Vault while it is unchanged", async () => {
    const at = await options();
    await transitKeys(at).create(Keyring.generate());
    const policy = await writePolicy(server, `path "${mount}/decrypt/${at.key}" { capabilities = ["update"] }`);
    const token = await makeToken(server, { policies: [policy] });
    const reader = transitKeys({ ...at, auth: { method: "token", token } });
    const ring = await reader.load();
    const refused = await refusal(reader.save(ring.add(), ring));
    expect(refused.hint).toContain(`path "${mount}/encrypt/${at.key}" { capabilities = ["update"] }`);
    await server.request("POST", "auth/token/revoke", { token });
    expect(await reader.load()).toBe(ring);
    await transitKeys(at).save(ring.add(), ring);
    expect(await refusal(reader.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });

  it("a wrapped keyring can be unwrapped by a Transit key with key derivation only if derivedContext is the same", async () => {
    const at = await options({ derivedContext: "production" }, { derived: true });
    await transitKeys(at).create(Keyring.generate());
    await transitKeys(at).load();
    await server.request("POST", `${mount}/keys/${at.key}/rotate`);
    expect(await transitKeys(at).rewrap()).toBe(true);
    expect(await refusal(transitKeys({ ...at, derivedContext: "staging" }).load())).toMatchObject({
      code: "KEYRING_INVALID",
    });
    const { derivedContext: _, ...without } = at;
    expect(await refusal(transitKeys(without).load())).toMatchObject({
      hint: expect.stringContaining("derivedContext"),
    });
  });

  it("a wrapped keyring is not loaded if the Transit key was deleted, and the hint warns of a new key with the same name", async () => {
    const at = await options();
    await transitKeys(at).create(Keyring.generate());
    await server.request("POST", `${mount}/keys/${at.key}/config`, { deletion_allowed: true });
    await server.request("DELETE", `${mount}/keys/${at.key}`);
    const { hint } = await refusal(transitKeys(at).load());
    expect(hint).toContain("a new key with this name cannot unwrap the keyring");
    expect(hint).not.toContain("bao write -f");
  });

  it("a missing wrapped keyring is reported with a hint to restore it, because a new keyring decrypts no records", async () => {
    const { hint } = await refusal(transitKeys(await options()).load());
    expect(hint).toMatch(/restore that keyring.*a new keyring decrypts no existing record/);
  });

  it("a wrapped keyring is refused if it has an older generation, or another name than the option 'name' requires", async () => {
    const at = await options({ name: "production" });
    const ring = Keyring.generate().rename("production");
    const keys = transitKeys(at);
    await keys.create(ring);
    const stolen = await textAt(at.place);
    await keys.save(ring.add(), ring);
    await at.place.replace(await textAt(at.place), stolen);
    expect(await refusal(keys.load())).toMatchObject({ code: "KEYRING_ROLLBACK" });
    const withMinGeneration = transitKeys({ ...at, minGeneration: ring.generation + 1 });
    expect(await refusal(withMinGeneration.load())).toMatchObject({ code: "KEYRING_ROLLBACK" });
    expect(await refusal(transitKeys({ ...at, name: "staging" }).load())).toMatchObject({ code: "KEYRING_ROLLBACK" });
  });

  it("a wrapped keyring can be stored in the store of the records, and can be loaded after a restart of Vault", async () => {
    const files = await startVault(servers, { storage: "files" });
    onTestFinished(() => files.stop());
    const transit = await mountEngine(files, "transit");
    await files.request("POST", `${transit}/keys/app`, {});
    const auth = { method: "token", token: files.rootToken } as const;
    const place = storeLocation(new MemoryStore(), "app");
    const at = { address: files.address, auth, env: {}, mount: transit, key: "app", place, timeoutMs: 1_500 };
    const ring = Keyring.generate();
    await transitKeys(at).create(ring);
    await files.restart();
    expect(await refusal(transitKeys(at).load())).toMatchObject({ message: "Vault is sealed" });
    await files.unseal();
    expect(exportKeyring(await transitKeys(at).load())).toBe(exportKeyring(ring));
  });
});
