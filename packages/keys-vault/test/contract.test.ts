import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type FailingKeyProvider, keyProviderContract, type OpenKeyProvider } from "@keyward/contract";
import { fileLocation, Keyring, type KeyringLocation, storeLocation } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, describe, it } from "vitest";
import { describeWithVault, findVaultServers, startVault, type VaultServer } from "../../../test/servers/openbao.ts";
import { materialOf } from "../../../test/store/secrets.ts";
import { transitKeys, type VaultConnectionOptions, vaultKeys } from "../src/index.ts";
import { makeToken, mountEngine } from "./vault-fixture.ts";

const servers = await findVaultServers({ anyWillDo: true });
const runner = { describe, it };

describeWithVault(servers, "a Vault server", () => {
  let server: VaultServer;
  let kv: string;
  let transit: string;
  let weak: string;

  beforeAll(async () => {
    server = await startVault(servers);
    kv = await mountEngine(server, "kv");
    transit = await mountEngine(server, "transit");
    weak = await makeToken(server, { policies: ["default"] });
  });
  afterAll(() => server.stop());

  function access(token = server.rootToken): VaultConnectionOptions {
    return { address: server.address, auth: { method: "token", token }, env: {} };
  }

  /** Creates a keyring and returns its provider. No output may show the keyring's material or the tokens. */
  async function opened(
    provider: OpenKeyProvider["provider"] & { create(ring: Keyring): Promise<void> },
    failing?: OpenKeyProvider["provider"],
    close: () => Promise<void> = async () => undefined,
  ): Promise<OpenKeyProvider> {
    const ring = Keyring.generate();
    await provider.create(ring);
    const secrets = [...materialOf(ring), server.rootToken, weak];
    return { provider: failing ?? provider, close, secrets: () => secrets };
  }

  const unreachable = { address: "http://127.0.0.1:9", timeoutMs: 1_000 };

  async function sealedServer(): Promise<VaultServer> {
    const sealed = await startVault(await findVaultServers());
    await sealed.seal();
    return sealed;
  }

  const secret = () => ({ mount: kv, path: `app/${randomUUID()}` });

  keyProviderContract(runner, {
    name: "vaultKeys",
    expect: { save: true, subscribe: false },
    open: () => opened(vaultKeys({ ...access(), ...secret() })),
    failing: [
      {
        name: "the token is not allowed access",
        code: "PROVIDER_UNAVAILABLE",
        open: () => {
          const at = secret();
          return opened(vaultKeys({ ...access(), ...at }), vaultKeys({ ...access(weak), ...at }));
        },
      },
      {
        name: "the token is invalid",
        code: "PROVIDER_UNAVAILABLE",
        open: () => {
          const at = secret();
          return opened(vaultKeys({ ...access(), ...at }), vaultKeys({ ...access("s.invalidToken"), ...at }));
        },
      },
      {
        name: "the secret does not exist",
        code: "PROVIDER_UNAVAILABLE",
        open: () => opened(vaultKeys({ ...access(), ...secret() }), vaultKeys({ ...access(), ...secret() })),
      },
      {
        name: "the keyring document is cut",
        code: "KEYRING_INVALID",
        open: async () => {
          const at = secret();
          const source = await opened(vaultKeys({ ...access(), ...at }));
          const { data } = await server.request("GET", `${kv}/data/${at.path}`);
          const { keyring }: { keyring: string } = JSON.parse(JSON.stringify(data?.["data"]));
          await server.request("POST", `${kv}/data/${at.path}`, { data: { keyring: keyring.slice(0, -9) } });
          return source;
        },
      },
      {
        name: "no server answers at the address",
        code: "PROVIDER_UNAVAILABLE",
        open: () =>
          opened(vaultKeys({ ...access(), ...secret() }), vaultKeys({ ...access(), ...secret(), ...unreachable })),
      },
      {
        name: "the server is sealed",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const sealed = await sealedServer();
          const { rootToken: token, address } = sealed;
          const auth = { method: "token", token } as const;
          const provider = vaultKeys({ ...secret(), address, auth, env: {}, timeoutMs: 1_000 });
          return opened(vaultKeys({ ...access(), ...secret() }), provider, () => sealed.stop());
        },
      },
    ],
  });

  for (const [where, openLocation] of Object.entries<() => Promise<[KeyringLocation, () => Promise<void>]>>({
    "a store": async () => [storeLocation(new MemoryStore()), async () => undefined],
    "a file": async () => {
      const directory = await mkdtemp(join(tmpdir(), "keyward-transit-"));
      return [fileLocation(join(directory, "keyring")), () => rm(directory, { recursive: true })];
    },
  })) {
    /** Creates a wrapped keyring, and returns a provider for its location with changed options. */
    const wrapped = async (
      change: Partial<VaultConnectionOptions> & { readonly key?: string } = {},
      afterwards: (place: KeyringLocation) => Promise<void> = async () => undefined,
    ) => {
      const [place, close] = await openLocation();
      const key = `key-${randomUUID()}`;
      await server.request("POST", `${transit}/keys/${key}`, {});
      const settings = { ...access(), mount: transit, key, place };
      const source = await opened(transitKeys(settings), transitKeys({ ...settings, ...change }), close);
      await afterwards(place);
      return source;
    };
    const replaced = (next: (text: string) => string) => async (place: KeyringLocation) => {
      const text = (await place.read()) ?? "";
      await place.replace(text, next(text));
    };
    const failing: FailingKeyProvider[] = [
      {
        name: "the token is not allowed access",
        code: "PROVIDER_UNAVAILABLE",
        open: () => wrapped({ auth: { method: "token", token: weak } }),
      },
      { name: "the Transit key does not exist", code: "PROVIDER_UNAVAILABLE", open: () => wrapped({ key: "none" }) },
      { name: "no server answers at the address", code: "PROVIDER_UNAVAILABLE", open: () => wrapped(unreachable) },
      {
        name: "the wrapped keyring was altered",
        code: "KEYRING_INVALID",
        open: () =>
          wrapped(
            {},
            replaced((text) => `${text.slice(0, -12)}AAAAAAAAAAA=`),
          ),
      },
      {
        name: "the text was not wrapped by Transit",
        code: "KEYRING_INVALID",
        open: () =>
          wrapped(
            {},
            replaced(() => "{}"),
          ),
      },
      {
        name: "the location is empty",
        code: "PROVIDER_UNAVAILABLE",
        open: async () => {
          const [place, close] = await openLocation();
          const provider = transitKeys({ ...access(), mount: transit, key: "none", place });
          return { provider, close, secrets: () => [server.rootToken] };
        },
      },
    ];
    keyProviderContract(runner, {
      name: `transitKeys in ${where}`,
      expect: { save: true, subscribe: false },
      open: () => wrapped(),
      failing,
    });
  }
});
