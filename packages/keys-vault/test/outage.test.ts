import { createKeyv, Keyring, KeywardError, storeLocation } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { expect, it, onTestFinished } from "vitest";
import { describeWithVault, findVaultServers, startVault } from "../../../test/servers/openbao.ts";
import { refusal } from "../../../test/store/refusals.ts";
import { transitKeys, type VaultConnectionOptions, vaultKeys } from "../src/index.ts";
import { mountEngine } from "./vault-fixture.ts";

const servers = await findVaultServers();

const kinds = {
  "a secret": async (access: VaultConnectionOptions, mount: string) => () =>
    vaultKeys({ ...access, mount, path: "app" }),
  "a wrapped keyring": async (access: VaultConnectionOptions, mount: string) => {
    const place = storeLocation(new MemoryStore());
    return () => transitKeys({ ...access, mount, key: "app", place });
  },
};

describeWithVault(servers, "an outage of Vault", () => {
  it.each(Object.entries(kinds))(
    "stores with a loaded keyring read and write while Vault is sealed, and new stores reject because Vault is sealed: %s",
    async (kind, open) => {
      const server = await startVault(servers, { storage: "files" });
      onTestFinished(() => server.stop());
      const mount = await mountEngine(server, kind === "a secret" ? "kv" : "transit");
      if (kind !== "a secret") await server.request("POST", `${mount}/keys/app`, {});
      const auth = { method: "token", token: server.rootToken } as const;
      const provider = await open({ address: server.address, auth, env: {}, refreshMs: 100, timeoutMs: 1_500 }, mount);
      const ring = Keyring.generate("2026-11");
      await provider().create(ring);

      const store = new MemoryStore();
      const flows = createKeyv({ store, keys: provider(), namespace: "flows" });
      const failures: KeywardError[] = [];
      const rings: string[] = [];
      flows.encryptedStore.on("provider:error", (error: KeywardError) => failures.push(error));
      flows.encryptedStore.on("keyring:changed", (changed: Keyring) => rings.push(changed.primary));
      await flows.set("before", 1);

      await server.seal();
      // An unchanged wrapped keyring is reloaded without a call to Vault.
      if (kind === "a secret") {
        await expect.poll(() => failures.at(-1)?.message, { timeout: 10_000 }).toBe("Vault is sealed");
      }
      await flows.set("meanwhile", 2);
      expect([await flows.get("before"), await flows.get("meanwhile")]).toEqual([1, 2]);

      const late = createKeyv({ store, keys: provider(), namespace: "flows" });
      const refused = await refusal(late.get("before"));
      expect(refused).toMatchObject({ code: "PROVIDER_UNAVAILABLE", message: "Vault is sealed" });
      expect(refused.hint).toContain("bao operator unseal");

      await server.unseal();
      const operator = provider();
      const next = (await operator.load()).add({ id: "2026-12" }).promote("2026-12");
      await operator.save(next, await operator.load());
      await expect.poll(() => rings.at(-1), { timeout: 15_000 }).toBe("2026-12");
      await flows.set("after", 3);
      await expect.poll(() => late.get("before").catch(String)).toBe(1);
      const fresh = createKeyv({ store, keys: provider(), namespace: "flows" });
      expect([await fresh.get("before"), await fresh.get("meanwhile"), await fresh.get("after")]).toEqual([1, 2, 3]);
      expect(failures.every((error) => error instanceof KeywardError)).toBe(true);
      await Promise.all([flows, late, fresh].map((keyv) => keyv.disconnect()));
    },
  );
});
