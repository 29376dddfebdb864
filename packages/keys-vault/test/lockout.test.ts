import { createServer, request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import { createKeyv, Keyring, storeLocation } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import { describeWithVault, findVaultServers, startVault, type VaultServer } from "../../../test/servers/openbao.ts";
import { refusal } from "../../../test/store/refusals.ts";
import { transitKeys, type VaultAuth, vaultKeys } from "../src/index.ts";
import { mountEngine, mountMethod, writePolicy } from "./vault-fixture.ts";

const servers = await findVaultServers();

// The server has the default settings, with which it locks a user or role out at the fifth failed login.
describeWithVault(servers, "failed logins", () => {
  let server: VaultServer;
  let kv: string;
  let transit: string;
  let policy: string;
  const store = new MemoryStore();

  beforeAll(async () => {
    server = await startVault(servers);
    kv = await mountEngine(server, "kv");
    transit = await mountEngine(server, "transit");
    await server.request("POST", `${transit}/keys/app`, {});
    policy = await writePolicy(
      server,
      `path "${kv}/data/app" { capabilities = ["read"] }\npath "${transit}/decrypt/app" { capabilities = ["update"] }`,
    );
    const auth = { method: "token", token: server.rootToken } as const;
    for (const kind of kinds) await open(kind, auth, server.address).create(Keyring.generate("2026-11"));
  });
  afterAll(() => server.stop());

  const kinds = ["a secret", "a wrapped keyring"] as const;

  function open(kind: (typeof kinds)[number], auth: VaultAuth, address: string) {
    const at = { address, auth, env: {} };
    return kind === "a secret"
      ? vaultKeys({ ...at, mount: kv, path: "app" })
      : transitKeys({ ...at, mount: transit, key: "app", place: storeLocation(store) });
  }

  /** Starts a proxy that forwards all requests to the server and counts the logins. */
  async function countLogins(): Promise<{ readonly address: string; readonly logins: () => number }> {
    const { hostname, port } = new URL(server.address);
    let logins = 0;
    const proxy = createServer((request, response) => {
      const { method, url, headers } = request;
      if (url?.includes("/login") === true) logins++;
      const upstream = httpRequest({ hostname, port, method, path: url, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(response);
      });
      request.pipe(upstream);
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    proxy.listen(0, "127.0.0.1", resolve);
    await promise;
    onTestFinished(() => {
      proxy.closeAllConnections();
      proxy.close();
    });
    const { port: ownPort }: AddressInfo = JSON.parse(JSON.stringify(proxy.address()));
    return { address: `http://127.0.0.1:${ownPort}`, logins: () => logins };
  }

  async function userpass() {
    const mount = await mountMethod(server, "userpass");
    await server.request("POST", `auth/${mount}/users/app`, { password: "correct", token_policies: [policy] });
    return { method: "userpass", mount, username: "app" } as const;
  }

  async function appRole() {
    const mount = await mountMethod(server, "approle");
    await server.request("POST", `auth/${mount}/role/app`, { token_policies: [policy], secret_id_num_uses: 1 });
    const { data } = await server.request("GET", `auth/${mount}/role/app/role-id`);
    return { method: "approle", mount, roleId: String(data?.["role_id"]) } as const;
  }

  async function newSecretId(mount: string): Promise<string> {
    const { data } = await server.request("POST", `auth/${mount}/role/app/secret-id`);
    return String(data?.["secret_id"]);
  }

  async function isLockedOut(name: string): Promise<boolean> {
    const { data } = await server.request("GET", "sys/locked-users");
    return JSON.stringify(data).includes(JSON.stringify(name));
  }

  it.each(kinds)(
    "a login that Vault refused is not repeated by 100 calls to a store, so that the user is not locked out: %s",
    async (kind) => {
      const auth = await userpass();
      const { address, logins } = await countLogins();
      let password = "wrong";
      const keys = open(kind, { ...auth, password: () => password }, address);
      const flows = createKeyv({ store: new MemoryStore(), keys, namespace: "flows" });
      for (let call = 0; call < 100; call++) {
        const error = await refusal(flows.set(`key ${call}`, 1));
        expect(error).toMatchObject({
          code: "PROVIDER_UNAVAILABLE",
          hint: expect.stringContaining("Changed credentials are used at once"),
        });
      }
      // A load without a store, as in a health check, does not repeat the login more often.
      for (let load = 0; load < 20; load++) await refusal(keys.load());
      expect(logins()).toBe(1);
      expect(await open(kind, { ...auth, password: "correct" }, server.address).load()).toMatchObject({
        primary: "2026-11",
      });
      // Credentials that have changed are tried at once.
      password = "correct";
      expect((await keys.load()).primary).toBe("2026-11");
      await expect.poll(() => flows.set("key", 1).catch(String)).toBe(true);
      await flows.disconnect();
    },
  );

  it("a login that Vault refused because the secret id was used up is not repeated, so that other processes can use the role", async () => {
    const auth = await appRole();
    const { address, logins } = await countLogins();
    const secretId = await newSecretId(auth.mount);
    await open("a secret", { ...auth, secretId }, address).load();
    const flows = createKeyv({
      store: new MemoryStore(),
      keys: open("a secret", { ...auth, secretId }, address),
      namespace: "flows",
    });
    const before = logins();
    for (let call = 0; call < 100; call++) await refusal(flows.set("key", 1));
    expect(logins() - before).toBe(1);
    const other = open("a secret", { ...auth, secretId: await newSecretId(auth.mount) }, address);
    expect((await other.load()).primary).toBe("2026-11");
    await flows.disconnect();
  });

  it("a login of a user that Vault has locked out is refused with a hint about locked users", async () => {
    const auth = await userpass();
    for (let attempt = 0; attempt < 6; attempt++) {
      await refusal(open("a secret", { ...auth, password: `wrong ${attempt}` }, server.address).load());
    }
    expect(await isLockedOut("app")).toBe(true);
    const { hint } = await refusal(open("a secret", { ...auth, password: "correct" }, server.address).load());
    expect(hint).toContain("sys/locked-users");
    expect(hint).toMatch(/Stop the process that logs in with wrong credentials before you unlock/);
  });
});
