import { execFile } from "node:child_process";
import { createSign, generateKeyPairSync, randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inspect, promisify } from "node:util";
import { Keyring } from "@keyward/core";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";
import {
  describeWithVault,
  findVaultServers,
  makeCertificates,
  startVault,
  type VaultServer,
} from "../../../test/servers/openbao.ts";
import { refusal } from "../../../test/store/refusals.ts";
import { materialOf } from "../../../test/store/secrets.ts";
import { type VaultAuth, vaultKeys } from "../src/index.ts";
import { makeToken, mountEngine, mountMethod, writePolicy } from "./vault-fixture.ts";

// All values of NODE_DEBUG that make Node.js print details of requests.
const debugged = "net,tls,http,https,http2,undici,fetch,stream";
const run = promisify(execFile);
const workspace = fileURLToPath(new URL("../../..", import.meta.url));
const servers = await findVaultServers();

describeWithVault(servers, "authentication", () => {
  let server: VaultServer;
  let mount: string;
  let policy: string;

  beforeAll(async () => {
    server = await startVault(servers);
    mount = await mountEngine(server, "kv");
    policy = await writePolicy(server, `path "${mount}/data/*" { capabilities = ["read", "create", "update"] }`);
    await keysFor({ method: "token", token: server.rootToken }).create(Keyring.generate("2026-11"));
  });
  afterAll(() => server.stop());

  function keysFor(auth: VaultAuth, env: Record<string, string> = {}) {
    return vaultKeys({ address: server.address, auth, env, mount, path: "app" });
  }

  /** Returns the accessors of all valid tokens. */
  async function accessors(): Promise<readonly string[]> {
    const { data } = await server.request("GET", "auth/token/accessors?list=true");
    return [data?.["keys"]].flat().map(String);
  }

  async function lookUp(accessor: string): Promise<Readonly<Record<string, unknown>> | undefined> {
    return (await server.request("POST", "auth/token/lookup-accessor", { accessor })).data;
  }

  /** Returns the valid tokens that a login method issued. */
  async function tokensOf(method: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
    const looked = await Promise.all((await accessors()).map((accessor) => lookUp(accessor).catch(() => undefined)));
    return looked.flatMap((token) => (token?.["path"] === `auth/${method}/login` ? [token] : []));
  }

  /** Returns the accessors of the tokens that were issued while `work` ran. */
  async function madeBy(work: () => Promise<unknown>): Promise<readonly string[]> {
    const before = new Set(await accessors());
    await work();
    return (await accessors()).filter((accessor) => !before.has(accessor));
  }

  async function appRole(settings: object = {}) {
    const at = await mountMethod(server, "approle");
    await server.request("POST", `auth/${at}/role/app`, { token_policies: [policy], ...settings });
    const { data: role } = await server.request("GET", `auth/${at}/role/app/role-id`);
    const named = { mount: at, roleId: String(role?.["role_id"]) };
    if ("bind_secret_id" in settings) return { ...named, secretId: "" };
    const { data: secret } = await server.request("POST", `auth/${at}/role/app/secret-id`);
    return { ...named, secretId: String(secret?.["secret_id"]) };
  }

  it("a process logs in to Vault once by AppRole for many loads", async () => {
    const keys = keysFor({ method: "approle", ...(await appRole()) });
    const made = await madeBy(async () => {
      await Promise.all([keys.load(), keys.load()]);
      for (let load = 0; load < 5; load++) expect((await keys.load()).primary).toBe("2026-11");
    });
    expect(made).toHaveLength(1);
  });

  it("a process logs in to Vault once by AppRole for a load and a save that starts during the login", async () => {
    const ring = await keysFor({ method: "token", token: server.rootToken }).load();
    const keys = keysFor({ method: "approle", ...(await appRole()) });
    const made = await madeBy(async () => {
      const loading = keys.load();
      await new Promise((resolve) => setImmediate(resolve));
      await Promise.all([loading, keys.save(ring.rename("keyring"), ring)]);
    });
    expect(made).toHaveLength(1);
  });

  it("a process logs in to Vault by AppRole without a secret id if the role does not require a secret id", async () => {
    const { mount: at, roleId } = await appRole({ bind_secret_id: false, token_bound_cidrs: ["127.0.0.1/32"] });
    expect((await keysFor({ method: "approle", mount: at, roleId }).load()).primary).toBe("2026-11");
  });

  it("a process logs in to Vault by user name and password", async () => {
    const at = await mountMethod(server, "userpass");
    await server.request("POST", `auth/${at}/users/app`, { password: "correct horse", token_policies: [policy] });
    const auth = { method: "userpass", mount: at, username: "app" } as const;
    expect((await keysFor({ ...auth, password: () => "correct horse" }).load()).primary).toBe("2026-11");
    expect(await refusal(keysFor({ ...auth, password: "wrong horse" }).load())).toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      message: expect.stringContaining("login by userpass"),
    });
  });

  it("a process logs in to Vault by the service account of its pod, and reads the token of the service account at each login", async () => {
    const directory = await mkdtemp(join(tmpdir(), "keyward-kubernetes-"));
    onTestFinished(() => rm(directory, { recursive: true }));
    const cluster = await startTokenReview(directory);
    const at = await mountMethod(server, "kubernetes");
    await server.request("POST", `auth/${at}/config`, {
      kubernetes_host: cluster.address,
      token_reviewer_jwt: cluster.tokenOf("keyward", "reviewer"),
      kubernetes_ca_cert: cluster.ca,
    });
    await server.request("POST", `auth/${at}/role/app`, {
      bound_service_account_names: ["app"],
      bound_service_account_namespaces: ["keyward"],
      token_policies: [policy],
      token_ttl: "1s",
      token_max_ttl: "1s",
    });
    const jwtPath = join(directory, "token");
    const keys = keysFor({ method: "kubernetes", mount: at, role: "app", jwtPath });
    const outcome = () =>
      keys.load().then(
        () => "in",
        (error: Error) => error.message,
      );
    expect(await refusal(keys.load())).toMatchObject({ message: expect.stringContaining("ENOENT") });
    await writeFile(jwtPath, `${cluster.tokenOf("keyward", "app")}\n`);
    expect((await keys.load()).primary).toBe("2026-11");
    // Kubernetes renews the token in this file. The process must not keep using the first token.
    await writeFile(jwtPath, cluster.tokenOf("elsewhere", "app"));
    await expect.poll(outcome, { timeout: 5_000 }).toMatch(/login by kubernetes/);
    await writeFile(jwtPath, cluster.tokenOf("keyward", "app"));
    expect((await keys.load()).primary).toBe("2026-11");
    await writeFile(jwtPath, cluster.forgedTokenOf("keyward", "app"));
    await expect.poll(outcome, { timeout: 5_000 }).toMatch(/login by kubernetes/);
    expect(cluster.reviews()).toBeGreaterThan(1);
  });

  // These tests wait at the same time for leases to end. A busy machine may be late by a third of each lease.
  it.concurrent("a process renews its Vault token before the token expires, even if no load happens", async ({
    expect,
  }) => {
    const token = await makeToken(server, { policies: [policy, "default"], period: "9s" });
    const keys = keysFor({ method: "token", token });
    const ring = await keys.load();
    const renewedAt = async () =>
      (await server.request("GET", "auth/token/lookup-self", undefined, { token })).data?.["last_renewal_time"];
    await expect.poll(renewedAt, { timeout: 15_000 }).toBeDefined();
    expect(await keys.load()).toMatchObject({ primary: ring.primary });
  });

  it.concurrent("a process renews the Vault token of a login until the maximum lifetime of the token, and then logs in again", async ({
    expect,
  }) => {
    const role = await appRole({ token_ttl: "6s", token_max_ttl: "8s" });
    const keys = keysFor({ method: "approle", ...role });
    await keys.load();
    const tokens = () => tokensOf(role.mount);
    const renewed = async () => {
      await keys.load();
      return (await tokens()).find((token) => token["last_renewal_time"] !== undefined)?.["accessor"];
    };
    await expect.poll(renewed, { timeout: 30_000 }).toBeDefined();
    const accessor = await renewed();
    const lives = async () => {
      await keys.load();
      return (await tokens()).some((token) => token["accessor"] === accessor);
    };
    await expect.poll(lives, { timeout: 15_000 }).toBe(false);
    expect((await keys.load()).primary).toBe("2026-11");
  });

  it.concurrent("a process keeps using its Vault token until the token expires if a new login fails", async ({
    expect,
  }) => {
    // The lease of 9 s, minus up to 1 s, because the server counts in whole seconds.
    const leaseMs = 8_000;
    const settings = { secret_id_num_uses: 1, token_ttl: "9s", token_type: "batch" };
    const keys = keysFor({ method: "approle", ...(await appRole(settings)) });
    const loggedInAfterMs = performance.now();
    await keys.load();
    const outcome = async () => {
      const result = await keys.load().then(String, (error: Error) => error.message);
      // The token is valid for longer than this after the first load, so no load may fail earlier.
      return performance.now() - loggedInAfterMs < leaseMs && /login/.test(result) ? "failed too early" : result;
    };
    await expect.poll(outcome, { timeout: 20_000 }).toMatch(/login by approle|too early/);
    expect(await outcome()).toMatch(/login by approle/);
  });

  it.concurrent("a process can load its keyring again after the function that returns the token has hung while a timer renewed the token", async ({
    expect,
  }) => {
    const settings = { policies: [policy, "default"] };
    const tokens = await Promise.all([
      makeToken(server, { ...settings, period: "12s" }),
      makeToken(server, { ...settings, period: "60s" }),
    ]);
    let calls = 0;
    const token = async (): Promise<string> => {
      calls++;
      if (calls !== 2) return tokens[calls === 1 ? 0 : 1];
      return await new Promise<never>(() => undefined);
    };
    const at = { address: server.address, env: {}, mount, path: "app" };
    // If a busy machine lets a renewal time out, the timer has time for another one before the token expires.
    const keys = vaultKeys({ ...at, auth: { method: "token", token }, timeoutMs: 1_500 });
    await keys.load();
    await server.request("POST", "auth/token/revoke", { token: tokens[0] });
    // The renewal timer makes the second call. The timer does not keep the session in memory; `keys` below does. On a busy
    // machine every renewal may time out: then a load makes the second call after the token has expired.
    const expiredAtMs = performance.now() + 12_000;
    await expect.poll(() => calls === 2 || performance.now() > expiredAtMs, { timeout: 20_000 }).toBe(true);
    const outcome = () => keys.load().then(({ primary }) => primary, String);
    await expect.poll(outcome, { timeout: 10_000 }).toBe("2026-11");
  });

  it("a process replaces its Vault token if the token was revoked", async () => {
    const keys = keysFor({ method: "approle", ...(await appRole()) });
    const [accessor = ""] = await madeBy(() => keys.load());
    await server.request("POST", "auth/token/revoke-accessor", { accessor });
    const made = await madeBy(async () => {
      expect((await keys.load()).primary).toBe("2026-11");
    });
    expect(made).toHaveLength(1);
    expect(await lookUp(made[0] ?? "")).toMatchObject({ policies: expect.arrayContaining([policy]) });
  });

  it("a process logs in to Vault only one more time if Vault denies access to every token", async () => {
    const role = await appRole({ token_policies: ["default"] });
    const keys = keysFor({ method: "approle", ...role });
    const made = await madeBy(async () => {
      expect(await refusal(keys.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    });
    expect(made).toHaveLength(2);
  });

  it("a process uses the new token from the option token if the earlier token was revoked", async () => {
    const tokens = await Promise.all([1, 2].map(() => makeToken(server, { policies: [policy] })));
    let current = 0;
    const keys = keysFor({ method: "token", token: () => tokens[current] ?? "" });
    await keys.load();
    await server.request("POST", "auth/token/revoke", { token: tokens[0] });
    expect(await refusal(keys.load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    current = 1;
    expect((await keys.load()).primary).toBe("2026-11");
  });

  it("a process that cannot log in to Vault gets an error that names the login method and shows no credential", async () => {
    const role = await appRole();
    const password = randomUUID();
    const userpass = await mountMethod(server, "userpass");
    const refused: readonly (readonly [VaultAuth, string])[] = [
      [{ method: "approle", ...role, secretId: password }, "login by approle"],
      [{ method: "approle", ...role, mount: "none" }, "login by approle"],
      [{ method: "userpass", mount: userpass, username: "app", password }, "login by userpass"],
      [{ method: "token", token: password }, "denied access"],
      [{ method: "token", token: "" }, "No Vault token"],
      [
        {
          method: "token",
          token: () => {
            throw new Error(password);
          },
        },
        "function",
      ],
    ];
    for (const [auth, words] of refused) {
      const keys = keysFor(auth);
      const error = await refusal(keys.load());
      expect(error).toMatchObject({ code: "PROVIDER_UNAVAILABLE", message: expect.stringContaining(words) });
      const shown = `${inspect([error, keys], { depth: Infinity, showHidden: true })} ${JSON.stringify(error)}`;
      for (const secret of [password, role.secretId, role.roleId]) expect(shown.includes(secret)).toBe(false);
    }
  });

  it("a process prints no credential if NODE_DEBUG is set, and the renewal timer does not keep the process running", async () => {
    const role = await appRole({ token_ttl: "60s" });
    const script = `
      import { vaultKeys } from "@keyward/keys-vault";
      const { auth, ...at } = JSON.parse(process.env.AT);
      console.log(String(await vaultKeys({ ...at, auth, env: {} }).load()));
    `;
    const at = { address: server.address, mount, path: "app", auth: { method: "approle", ...role } };
    const env = { ...process.env, AT: JSON.stringify(at), DEBUG: "*", NODE_DEBUG: debugged };
    const options = { cwd: workspace, env, timeout: 20_000, maxBuffer: 2 ** 27 };
    const { stdout, stderr } = await run(process.execPath, ["--input-type=module", "--eval", script], options);
    expect(stdout).toContain("2026-11");
    // This output proves that Node.js printed details of connections.
    expect(stderr).toContain("createConnection");
    const { data } = await server.request("GET", `${mount}/data/app`);
    const { keyring }: { keyring: string } = JSON.parse(JSON.stringify(data?.["data"]));
    for (const secret of [role.secretId, "X-Vault-Token", ...materialOf(Keyring.parse(keyring))]) {
      expect(`${stdout}${stderr}`.includes(secret)).toBe(false);
    }
  });
});

/** Starts the part of a Kubernetes API that reviews tokens of service accounts. The API accepts only tokens that it signed. */
async function startTokenReview(directory: string) {
  await makeCertificates(directory);
  const [key, cert, ca] = await Promise.all(
    ["server.key", "server.pem", "ca.pem"].map((name) => readFile(join(directory, name), "utf8")),
  );
  const keys = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const others = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const issued = new Map<string, string>();
  let reviews = 0;
  const server = createServer({ key, cert }, async (request, response) => {
    let text = "";
    for await (const part of request) text += String(part);
    reviews++;
    const { spec }: { spec: { token: string } } = JSON.parse(text);
    const account = issued.get(spec.token);
    const user = { username: `system:serviceaccount:${account}`, uid: "1", groups: ["system:serviceaccounts"] };
    const status = account === undefined ? { authenticated: false, error: "unknown" } : { authenticated: true, user };
    response.setHeader("Content-Type", "application/json");
    response
      .writeHead(201)
      .end(JSON.stringify({ apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", status }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("The server does not listen");

  function sign(namespace: string, name: string, key: typeof keys): string {
    const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const nowS = Math.floor(Date.now() / 1_000);
    const account = { namespace, serviceaccount: { name, uid: "1" } };
    const claims = {
      iss: "https://kubernetes.default.svc",
      sub: `system:serviceaccount:${namespace}:${name}`,
      jti: randomUUID(),
      iat: nowS,
      nbf: nowS,
      exp: nowS + 600,
      "kubernetes.io": account,
    };
    const signed = `${part({ alg: "RS256", typ: "JWT" })}.${part(claims)}`;
    return `${signed}.${createSign("RSA-SHA256").update(signed).sign(key.privateKey, "base64url")}`;
  }

  return {
    address: `https://127.0.0.1:${address.port}`,
    ca,
    reviews: () => reviews,
    tokenOf(namespace: string, name: string): string {
      const token = sign(namespace, name, keys);
      issued.set(token, `${namespace}:${name}`);
      return token;
    },
    /** Returns a token that another key signed. */
    forgedTokenOf: (namespace: string, name: string) => sign(namespace, name, others),
  };
}
