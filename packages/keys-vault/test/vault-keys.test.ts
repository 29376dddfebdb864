import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { type AddressInfo, connect, createServer as createTcpServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportKeyring, Keyring, KeywardError, storeLocation } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from "vitest";
import {
  describeWithVault,
  findVaultServers,
  makeCertificates,
  startVault,
  type VaultServer,
} from "../../../test/servers/openbao.ts";
import { refusal } from "../../../test/store/refusals.ts";
import { transitKeys, type VaultKeysOptions, vaultKeys } from "../src/index.ts";
import { mountEngine, statusOf, writePolicy } from "./vault-fixture.ts";

const servers = await findVaultServers();

describeWithVault(servers, "vaultKeys", () => {
  let server: VaultServer;
  let kv: string;

  beforeAll(async () => {
    server = await startVault(servers);
    kv = await mountEngine(server, "kv");
  });
  afterAll(() => server.stop());

  function options(change: Partial<VaultKeysOptions> = {}): VaultKeysOptions {
    const auth = { method: "token", token: server.rootToken } as const;
    return { address: server.address, auth, env: {}, mount: kv, path: `app/${randomUUID()}`, ...change };
  }

  async function secretAt(path: string): Promise<{ data: Record<string, unknown>; metadata: { version: number } }> {
    const { data } = await server.request("GET", `${kv}/data/${path}`);
    return JSON.parse(JSON.stringify(data));
  }

  it("a keyring is created by only one of several concurrent calls of create", async () => {
    const at = options();
    const ring = Keyring.generate();
    const outcomes = await Promise.allSettled([1, 2, 3].map(async () => vaultKeys(at).create(Keyring.generate())));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(await refusal(vaultKeys(at).create(ring))).toMatchObject({ code: "KEYRING_CONFLICT" });
    expect((await secretAt(at.path)).metadata.version).toBe(1);
  });

  it("a keyring is saved, and the other fields of the secret stay unchanged", async () => {
    const at = options({ field: "ring" });
    const ring = Keyring.generate();
    await server.request("POST", `${kv}/data/${at.path}`, { data: { other: "kept", ring: exportKeyring(ring) } });
    const keys = vaultKeys(at);
    const next = (await keys.load()).add();
    await keys.save(next, ring);
    expect((await secretAt(at.path)).data).toEqual({ other: "kept", ring: exportKeyring(next) });
  });

  it("a keyring is saved without losing changes that another writer made to other fields of the secret", async () => {
    const at = options();
    const keys = vaultKeys(at);
    const ring = Keyring.generate();
    await keys.create(ring);
    await server.request("POST", `${kv}/data/${at.path}`, { data: { keyring: exportKeyring(ring), other: "new" } });
    await keys.save(ring.add(), ring);
    expect((await secretAt(at.path)).data["other"]).toBe("new");
  });

  it("a keyring is not loaded if its secret is deleted, destroyed or missing, or if no engine is mounted, and the error names this reason", async () => {
    const at = options();
    const keys = vaultKeys(at);
    await keys.create(Keyring.generate());
    const kinds = new Map<string, KeywardError>();
    await server.request("DELETE", `${kv}/data/${at.path}`);
    kinds.set("deleted", await refusal(keys.load()));
    expect(await refusal(keys.create(Keyring.generate()))).toMatchObject({ code: "KEYRING_CONFLICT" });
    await server.request("POST", `${kv}/undelete/${at.path}`, { versions: [1] });
    await keys.load();
    await server.request("PUT", `${kv}/destroy/${at.path}`, { versions: [1] });
    kinds.set("destroyed", await refusal(keys.load()));
    kinds.set("does not exist", await refusal(vaultKeys(options()).load()));
    kinds.set("no engine is mounted", await refusal(vaultKeys(options({ mount: "none" })).load()));
    for (const [words, error] of kinds) {
      expect(error).toMatchObject({ code: "PROVIDER_UNAVAILABLE", message: expect.stringContaining(words) });
    }
    expect(kinds.get("deleted")?.hint).toContain("undelete -versions=1");
  });

  it("a keyring is neither written to nor read from a KV engine of version 1, which has no check-and-set", async () => {
    const mount = `kv1-${randomUUID()}`;
    await server.request("POST", `sys/mounts/${mount}`, { type: "kv", options: { version: "1" } });
    await server.request("POST", `${mount}/app`, { keyring: exportKeyring(Keyring.generate()) });
    await server.request("POST", `${mount}/data/taken`, { other: "value" });
    for (const path of ["app", "taken"]) {
      const keys = vaultKeys(options({ mount, path }));
      for (const call of [() => keys.load(), () => keys.create(Keyring.generate())]) {
        const error = await refusal(call());
        expect(error).toMatchObject({ code: "KEYRING_INVALID", message: expect.stringContaining("version 1") });
        // An upgrade would break other applications that use the engine.
        expect(error.hint).toContain("Do not upgrade");
      }
    }
    expect(await statusOf(server.request("GET", `${mount}/data/app`))).toBe(404);
    expect((await server.request("GET", `${mount}/data/taken`)).data).toEqual({ other: "value" });
  });

  it("a KV engine of version 1 is refused even if Vault does not reveal the version", async () => {
    // This gateway in front of the server blocks the request for the version, as a gateway with an allowlist of paths does.
    const mount = `kv1-${randomUUID()}`;
    await server.request("POST", `sys/mounts/${mount}`, { type: "kv", options: { version: "1" } });
    const gateway = await listening(
      createServer(async (request, response) => {
        const { method = "", url = "", headers } = request;
        if (url.includes("/internal/")) return response.writeHead(403).end('{"errors":["permission denied"]}');
        const token = String(headers["x-vault-token"]);
        const body = method === "POST" ? { body: Buffer.concat(await request.toArray()) } : {};
        const answer = await fetch(`${server.address}${url}`, { method, headers: { "x-vault-token": token }, ...body });
        return response.writeHead(answer.status, { "content-type": "application/json" }).end(await answer.text());
      }),
    );
    const address = `http://127.0.0.1:${addressOf(gateway).port}`;
    const keys = vaultKeys(options({ mount, path: "app", address }));
    expect(await refusal(keys.create(Keyring.generate()))).toMatchObject({ code: "KEYRING_INVALID" });
  });

  it.each([
    ["data/app/keyring", "kv", 'Remove "data/" from `path`'],
    ["kv/data/app/keyring", "kv", 'Remove "kv/data/" from `path`'],
    ["kv/app/keyring", "kv", 'Remove "kv/" from `path`'],
    ["app/keyring", "kv/data", 'Remove "/data" from `mount`'],
  ])(
    "a keyring is not found at path %s in mount %s, and the hint begins with what to delete from the path or the mount",
    async (path, mount, hint) => {
      const own = (text: string) => text.replaceAll("kv", kv);
      const error = await refusal(vaultKeys(options({ path: own(path), mount: own(mount) })).load());
      expect(error).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
      expect(error.hint.startsWith(own(hint))).toBe(true);
    },
  );

  it("a keyring is refused if it is in another field of the secret, or is a JSON object instead of a text", async () => {
    const at = options();
    const ring = Keyring.generate();
    await vaultKeys(at).create(ring);
    expect(await refusal(vaultKeys({ ...at, field: "ring" }).load())).toMatchObject({
      code: "KEYRING_INVALID",
      message: expect.stringContaining('"ring"'),
    });
    const document: Record<string, unknown> = JSON.parse(exportKeyring(ring));
    const put = async (data: object) => {
      await server.request("POST", `${kv}/data/${at.path}`, { data });
      return await refusal(vaultKeys(at).load());
    };
    expect(await put(document)).toMatchObject({
      code: "KEYRING_INVALID",
      hint: expect.stringContaining("=@ring.json"),
    });
    expect(await put({ keyring: document })).toMatchObject({ hint: expect.stringContaining("as text") });
  });

  it("a missing keyring is reported with a hint that first advises to restore the keyring", async () => {
    const { hint } = await refusal(vaultKeys(options()).load());
    expect(hint).toMatch(/restore this keyring, because a new keyring cannot decrypt existing records/);
    expect(hint.indexOf("restore")).toBeLessThan(hint.indexOf("create"));
  });

  it("a keyring cannot be loaded if the namespace, address or login method is wrong, and the error names the wrong setting", async () => {
    const auth = { method: "userpass", username: "app", password: "p" } as const;
    const namespace = await refusal(vaultKeys(options({ namespace: "none" })).load());
    expect(namespace).toMatchObject({ message: expect.stringContaining("namespace does not exist in Vault") });
    const namespaceOfLogin = await refusal(vaultKeys(options({ namespace: "none", auth })).load());
    expect(namespaceOfLogin.hint).toContain("VAULT_NAMESPACE");
    const method = await refusal(vaultKeys(options({ auth: { ...auth, mount: "none" } })).load());
    // Vault does not give more details to a client without a token.
    expect(method.hint).toContain("the login method is not mounted");
    const address = await refusal(vaultKeys(options({ address: `${server.address}/somewhere` })).load());
    expect(address).toMatchObject({ message: expect.stringContaining("does not have the Vault API") });
    for (const error of [namespace, namespaceOfLogin, address]) {
      expect(`${error.message} ${error.hint}`).not.toMatch(/expired|revoked|used up/);
    }
    const quoted = vaultKeys(options({ auth: { method: "token", token: `"${server.rootToken}"` } }));
    expect(await refusal(quoted.load())).toMatchObject({ message: expect.stringContaining("quotes") });
  });

  it("a keyring cannot be saved or loaded without the right policy in Vault, and the hint of the error shows this policy", async () => {
    const at = options();
    await vaultKeys(at).create(Keyring.generate());
    const policy = await writePolicy(server, `path "${kv}/data/*" { capabilities = ["read"] }`);
    const { auth } = await server.request("POST", "auth/token/create", { policies: [policy] });
    const reader = vaultKeys({ ...at, auth: { method: "token", token: String(auth?.["client_token"]) } });
    const ring = await reader.load();
    const refused = await refusal(reader.save(ring.add(), ring));
    const unread = await refusal(
      vaultKeys({
        ...options(),
        mount: "other",
        auth: { method: "token", token: String(auth?.["client_token"]) },
      }).load(),
    );
    // A load does not need the right to write.
    expect(unread.hint).toContain('capabilities = ["read"] }');
    expect(refused).toMatchObject({ code: "PROVIDER_UNAVAILABLE", message: expect.stringContaining("403") });
    expect(refused.hint).toContain(`path "${kv}/data/${at.path}" { capabilities = ["read", "create", "update"] }`);
  });

  it("a keyring is stored in the namespace that the option namespace or VAULT_NAMESPACE names", async () => {
    const namespace = `team-${randomUUID()}`;
    await server.request("POST", `sys/namespaces/${namespace}`);
    const mount = await mountEngine(server, "kv", namespace);
    const at = options({ mount, namespace });
    await vaultKeys(at).create(Keyring.generate("2026-11"));
    const named = vaultKeys({ ...options({ mount, path: at.path }), env: { VAULT_NAMESPACE: namespace } });
    expect((await named.load()).primary).toBe("2026-11");
    expect(await refusal(vaultKeys({ ...at, namespace: "" }).load())).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
  });

  it("a keyring is loaded with address and token from the environment variables VAULT_ADDR and VAULT_TOKEN", async () => {
    const at = options();
    await vaultKeys(at).create(Keyring.generate("2026-11"));
    const env = { VAULT_ADDR: server.address, VAULT_TOKEN: server.rootToken };
    expect((await vaultKeys({ path: at.path, mount: kv, env }).load()).primary).toBe("2026-11");
    const withoutToken = vaultKeys({ path: at.path, mount: kv, env: { VAULT_ADDR: server.address } });
    expect(await refusal(withoutToken.load())).toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      hint: expect.stringContaining("VAULT_TOKEN"),
    });
  });

  it("a keyring is loaded and saved although a rate limit of Vault refuses requests, because these requests are retried", async () => {
    const limited = await startVault(servers);
    onTestFinished(() => limited.stop());
    const mount = await mountEngine(limited, "kv");
    const auth = { method: "token", token: limited.rootToken } as const;
    const keys = vaultKeys(options({ address: limited.address, mount, auth }));
    const ring = Keyring.generate();
    await keys.create(ring);
    await limited.request("POST", "sys/quotas/rate-limit/all", { path: mount, rate: 1, interval: "1s" });
    await limited.request("GET", `${mount}/config`).catch(() => undefined);
    expect(await statusOf(limited.request("GET", `${mount}/config`))).toBe(429);
    expect((await keys.load()).primary).toBe(ring.primary);
    await keys.save(ring.add(), ring);
    await limited.request("DELETE", "sys/quotas/rate-limit/all");
    expect((await keys.load()).generation).toBe(ring.generation + 1);
  });

  it("a keyring is saved, and save resolves, even if the answer of Vault to the write is lost", async () => {
    // This proxy forwards all requests to the server, and drops the answer to a write.
    const proxy = createTcpServer((client) => {
      const upstream = connect(Number(new URL(server.address).port), "127.0.0.1");
      let writes = false;
      client.on("data", (bytes) => {
        writes ||= bytes.toString("latin1").startsWith(`POST /v1/${kv}`);
        upstream.write(bytes);
      });
      upstream.on("data", (bytes) => {
        if (writes) client.destroy();
        else client.write(bytes);
      });
      for (const [one, other] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        one.on("error", () => undefined);
        one.on("close", () => other.destroy());
      }
    });
    await listening(proxy);
    const at = options();
    await vaultKeys(at).create(Keyring.generate());
    const keys = vaultKeys({ ...at, address: `http://127.0.0.1:${addressOf(proxy).port}` });
    const ring = await keys.load();
    const next = ring.add();
    await keys.save(next, ring);
    expect(exportKeyring(await vaultKeys(at).load())).toBe(exportKeyring(next));
    expect((await secretAt(at.path)).metadata.version).toBe(2);
  });

  it("a keyring is not sent through a proxy over plain HTTP, where the proxy could read token and keyring", async () => {
    const at = options();
    const ring = Keyring.generate();
    await vaultKeys(at).create(ring);
    const received: unknown[] = [];
    const proxy = await listening(
      createServer((request, response) => {
        received.push(request.url);
        response.writeHead(400).end("{}");
      }),
    );
    useProxy(`http://127.0.0.1:${addressOf(proxy).port}`);
    const keys = vaultKeys(at);
    await keys.save(ring.add(), await keys.load());
    expect(received).toEqual([]);
  });

  it("a keyring is no longer requested from Vault after the only load in progress is aborted", async () => {
    const closed = Promise.withResolvers<void>();
    const server = await listening(
      createServer((_, response) => {
        response.once("close", closed.resolve);
      }),
    );
    // These limits are longer than the test may take, so they do not end the request.
    const limits = { timeoutMs: 300_000, requestTimeoutMs: 300_000 };
    const keys = vaultKeys(options({ address: `http://127.0.0.1:${addressOf(server).port}`, ...limits }));
    const controller = new AbortController();
    const load = keys.load({ signal: controller.signal });
    await once(server, "request");
    const reason = new Error("no longer wanted");
    controller.abort(reason);
    await expect(load).rejects.toBe(reason);
    await closed.promise;
  });

  it("load() and create() of vaultKeys reject within timeoutMs if the server does not answer", async () => {
    const silent = await startVault(servers);
    onTestFinished(() => silent.stop());
    const keys = vaultKeys(options({ address: silent.address, timeoutMs: 400, requestTimeoutMs: 200 }));
    silent.pause();
    const beganMs = performance.now();
    for (const error of await Promise.all([refusal(keys.load()), refusal(keys.create(Keyring.generate()))])) {
      expect(error).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    }
    // The default is 15 seconds.
    expect(performance.now() - beganMs).toBeLessThan(10_000);
    silent.resume();
  });
});

describeWithVault(servers, "vaultKeys with TLS and file storage", () => {
  let server: VaultServer;
  let at: VaultKeysOptions;

  beforeAll(async () => {
    server = await startVault(servers, { storage: "files", tls: true });
    const auth = { method: "token", token: server.rootToken } as const;
    const ca = server.ca ?? "";
    at = { address: server.address, auth, env: {}, ca, mount: await mountEngine(server, "kv"), path: "app" };
    at = { ...at, timeoutMs: 1_500 };
    await vaultKeys(at).create(Keyring.generate("2026-11"));
  });
  afterAll(() => server.stop());

  it("a Vault server is trusted only if the certificate authority of its certificate is passed", async () => {
    expect((await vaultKeys(at).load()).primary).toBe("2026-11");
    const other = await startVault(servers, { tls: true });
    onTestFinished(() => other.stop());
    const { ca: _, ...unnamed } = at;
    for (const distrusting of [
      { ...at, ca: other.ca ?? "" },
      unnamed,
      { ...unnamed, env: { VAULT_SKIP_VERIFY: "1" } },
    ]) {
      const beganMs = performance.now();
      const error = await refusal(vaultKeys({ ...distrusting, timeoutMs: 60_000 }).load());
      expect(error).toMatchObject({ code: "PROVIDER_UNAVAILABLE", message: expect.stringContaining("not trusted") });
      // The request must not be retried, because a retry cannot succeed.
      expect(performance.now() - beganMs).toBeLessThan(20_000);
      expect(await refusal(vaultKeys(distrusting).create(Keyring.generate()))).toMatchObject({
        message: error.message,
      });
    }
    const broken = vaultKeys({ ...unnamed, env: { VAULT_CACERT: "/nowhere/ca.pem" } });
    expect(await refusal(broken.load())).toMatchObject({ message: expect.stringContaining("VAULT_CACERT") });
  });

  it("a Vault server is reached through the tunnel of a proxy, and the proxy cannot read the traffic", async () => {
    const seen: Buffer[] = [];
    const tunnels: string[] = [];
    const proxy = await listening(
      createServer().on("connect", (request, client) => {
        tunnels.push(String(request.url));
        const upstream = connect(Number(new URL(server.address).port), "127.0.0.1");
        upstream.once("connect", () => client.write("HTTP/1.1 200 OK\r\n\r\n"));
        client.on("data", (bytes: Buffer) => seen.push(bytes)).pipe(upstream);
        upstream.pipe(client);
        client.on("error", () => undefined).on("close", () => upstream.destroy());
        upstream.on("error", () => undefined).on("close", () => client.destroy());
      }),
    );
    useProxy(`http://127.0.0.1:${addressOf(proxy).port}`);
    const address = server.address.replace("127.0.0.1", "localhost");
    expect((await vaultKeys({ ...at, address }).load()).primary).toBe("2026-11");
    expect(tunnels).toContain(new URL(address).host);
    expect(Buffer.concat(seen).includes(server.rootToken)).toBe(false);
  });

  it("a Vault server that is sealed is reported with a hint to unseal it, and a keyring is loaded after the server is unsealed", async () => {
    const keys = vaultKeys(at);
    const ring = await keys.load();
    await server.seal();
    expect(await refusal(keys.load())).toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      message: "Vault is sealed",
      hint: expect.stringContaining("bao operator unseal"),
    });
    await server.unseal();
    expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
    await server.kill();
    expect(await refusal(keys.load())).toMatchObject({ message: "Vault cannot be reached (ECONNREFUSED)" });
    await server.restart();
    expect(await refusal(keys.load())).toMatchObject({ message: "Vault is sealed" });
    await server.unseal();
    expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
    await keys.save(ring.add(), ring);
  });
});

describe("the options of vaultKeys", () => {
  const good = { address: "https://vault.example.com", path: "app", env: {} };

  it.each<[string, Partial<VaultKeysOptions>]>([
    ["no address", { address: "" }],
    ["an address that is not a URL", { address: "vault:8200" }],
    ["an address with a password", { address: "https://user:password@vault.example.com" }],
    ["an address with the path of the API", { address: "https://vault.example.com/v1/" }],
    ["an address of the web interface", { address: "https://vault.example.com:8200/ui/vault/secrets" }],
    ["an address with a query", { address: "https://vault.example.com?token=s.1" }],
    ["an address in quotes", { address: '"https://vault.example.com"' }],
    ["plain HTTP to another machine", { address: "http://vault.example.com" }],
    ["plain HTTP to a host name that begins like this machine's address", { address: "http://127.0.0.1.example.com" }],
    ["a path with ..", { path: "../sys/raw" }],
    ["an empty path", { path: "/" }],
    ["a mount with an empty part", { mount: "a//b" }],
    ["a requestTimeoutMs above timeoutMs", { requestTimeoutMs: 20_000 }],
    ["a refreshMs of 0", { refreshMs: 0 }],
  ])("are refused at once with %s", (_, change) => {
    expect(() => vaultKeys({ ...good, ...change })).toThrow(
      expect.objectContaining({ constructor: KeywardError, code: "VALUE_INVALID" }),
    );
  });

  it("are accepted with any valid address, and have default values", () => {
    for (const address of ["http://localhost:8200", "http://127.0.0.1:8200", "http://[::1]:8200"]) {
      vaultKeys({ ...good, address });
    }
    vaultKeys({ ...good, address: "http://vault.internal", dangerouslyAllowHttp: true });
    expect(vaultKeys(good).freshness).toEqual({ refreshMs: 60_000, timeoutMs: 15_000 });
    vaultKeys({ ...good, timeoutMs: 1_000 });
    vaultKeys({ ...good, address: "https://gateway.example.com/vault/" });
  });

  it.each<[string, object]>([
    ["an unknown option", { refreshMS: 1_000 }],
    ["a timeout that is not a number", { timeoutMs: Number.NaN }],
    ["an unknown method", { auth: { method: "appRole" } }],
    ["a setting of another method", { auth: { method: "token", roleId: "app" } }],
    ["an undefined role id", { auth: { method: "approle", roleId: undefined } }],
    ["no path", { path: undefined }],
  ])("are refused in untyped code with %s", (_, change) => {
    for (const make of [
      () => vaultKeys(Object.assign({}, good, change)),
      () =>
        transitKeys(
          Object.assign(
            { key: "app", place: storeLocation(new MemoryStore()) },
            { address: good.address, env: {} },
            change,
            "path" in change ? { key: undefined } : {},
          ),
        ),
    ]) {
      expect(make).toThrow(expect.objectContaining({ constructor: KeywardError, code: "VALUE_INVALID" }));
    }
  });

  it("give a provider that keeps its methods when it is copied by spread syntax", () => {
    const spread = { ...vaultKeys(good) };
    for (const method of [spread.load, spread.save, spread.create]) expect(method).toBeTypeOf("function");
  });
});

it("vaultKeys sends no token to another server after a redirect", async () => {
  const received: unknown[] = [];
  const otherServer = await listening(
    createServer((request, response) => {
      received.push(request.url);
      response.end("{}");
    }),
  );
  const directory = await mkdtemp(join(tmpdir(), "keyward-redirect-"));
  onTestFinished(() => rm(directory, { recursive: true }));
  await makeCertificates(directory);
  const [key, cert, ca] = await Promise.all(
    ["server.key", "server.pem", "ca.pem"].map((name) => readFile(join(directory, name), "utf8")),
  );
  const location = `http://127.0.0.1:${addressOf(otherServer).port}/v1/secret/data/app`;
  let requests = 0;
  const redirecting = await listening(
    createTlsServer({ key, cert }, (_, response) => {
      requests++;
      response.writeHead(307, { location }).end();
    }),
  );
  const auth = { method: "token", token: "s.secret" } as const;
  const address = `https://127.0.0.1:${addressOf(redirecting).port}`;
  const keys = vaultKeys({ address, auth, env: {}, ca: ca ?? "", path: "app", timeoutMs: 1_500 });
  for (const send of [() => keys.load(), () => keys.create(Keyring.generate())]) {
    const error = await refusal(send());
    expect(error).toMatchObject({
      code: "PROVIDER_UNAVAILABLE",
      message: expect.stringContaining("redirects requests"),
    });
  }
  expect(requests).toBe(2);
  expect(received).toEqual([]);
});

async function listening<Listening extends Server>(server: Listening): Promise<Listening> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    server.close();
  });
  return server;
}

/** Sets the environment variables for a proxy until the end of the test. */
function useProxy(url: string): void {
  for (const name of ["http_proxy", "https_proxy", "all_proxy"]) {
    vi.stubEnv(name, url);
    vi.stubEnv(name.toUpperCase(), url);
  }
  for (const name of ["no_proxy", "NO_PROXY"]) vi.stubEnv(name, "");
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
}

function addressOf(server: Server): AddressInfo {
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("The server does not listen");
  return address;
}
