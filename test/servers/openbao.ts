import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import nodeVault from "node-vault";
import { firstFound, type OneOf, onPath } from "./find-server.ts";
import {
  type Belongings,
  dockerCommand,
  GuardedProcess,
  host,
  notOurs,
  startOnFreePort,
  until,
} from "./guarded-process.ts";
import { pythonEnvironment } from "./python-environment.ts";

export { describeWithServer as describeWithVault } from "./find-server.ts";

const run = promisify(execFile);
const startMs = 30_000;
const requirements = fileURLToPath(new URL("openbao-requirements.txt", import.meta.url));
const image = "openbao/openbao:2.6.2";

/**
 * An OpenBao or Vault on a loopback port, initialized and unsealed. {@link VaultServer.stop} removes the server and its data.
 * So does the end of the process that started it, `kill -9` included.
 */
export interface VaultServer {
  readonly address: string;
  readonly rootToken: string;
  /** Certificate of the authority that signed the server's certificate, in PEM. Only with TLS. */
  readonly ca: string | undefined;
  /** Sends a request to the HTTP API and resolves to the body of the answer. Default token: root. */
  request(method: string, path: string, body?: object, access?: VaultAccess): Promise<VaultBody>;
  /** Seals the server, which then answers 503 to every request that needs its storage. */
  seal(): Promise<void>;
  unseal(): Promise<void>;
  /** Kills the server with `kill -9`. Only a server with files keeps its data. */
  kill(): Promise<void>;
  /** Kills the server if it is running, and starts it again on its port and files, sealed. Resolves when the server answers. */
  restart(): Promise<void>;
  /** Pauses the server with SIGSTOP. Connections stay open, and requests get no answer. */
  pause(): void;
  /** Resumes the server with SIGCONT. */
  resume(): void;
  /** Stops the server and removes its data. */
  stop(): Promise<void>;
}

/** Token and namespace of {@link VaultServer.request}. */
export interface VaultAccess {
  readonly token?: string;
  readonly namespace?: string;
}

/** Body of an answer: `data`, `auth` and other fields. */
export interface VaultBody {
  readonly data?: Readonly<Record<string, unknown>>;
  readonly auth?: Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
}

/** A way to start OpenBao or Vault, a running server, or the reason why there is none. */
export type VaultServers = OneOf<{ binary: string; image: string; existing: ExistingVault; missing: string }>;

interface ExistingVault {
  readonly address: string;
  readonly rootToken: string;
}

/** Options of {@link findVaultServers}. */
export interface VaultNeeds {
  /**
   * True if the test can use a server that other tests also use, and that the test never seals. Then the server in
   * `KEYWARD_TEST_VAULT_ADDR` and `KEYWARD_TEST_VAULT_TOKEN` is used, if these environment variables are set.
   */
  readonly anyWillDo?: boolean;
}

/**
 * Finds a server, in this order:
 * 1. OpenBao or Vault on the PATH
 * 2. OpenBao, installed once into a folder of the user's cache
 * 3. OpenBao in Docker
 *
 * If all of these fail, returns the reasons.
 */
export async function findVaultServers({ anyWillDo = false }: VaultNeeds = {}): Promise<VaultServers> {
  const address = process.env["KEYWARD_TEST_VAULT_ADDR"];
  const rootToken = process.env["KEYWARD_TEST_VAULT_TOKEN"];
  if (anyWillDo && address !== undefined && rootToken !== undefined) return { existing: { address, rootToken } };
  return await firstFound<VaultServers>({
    "neither bao nor vault is on the PATH": async () => {
      const [binary] = onPath("bao", "vault");
      return binary === undefined ? undefined : { binary };
    },
    "python3 cannot install OpenBao": async () => {
      const binary = join(await pythonEnvironment(requirements), "bao");
      await run(binary, ["version"], { timeout: startMs });
      return { binary };
    },
    "Docker cannot run one": async () => {
      await run("docker", ["run", "--rm", image, "bao", "version"], { timeout: 120_000 });
      return { image };
    },
  });
}

/** Options of {@link startVault}. */
export interface VaultSettings {
  /** Storage of the server. Default: memory. */
  readonly storage?: "memory" | "files";
  /** True if the server accepts only TLS, with a certificate that is created for it. Default: false. */
  readonly tls?: boolean;
}

/** Starts a server, initialized and unsealed. */
export async function startVault(servers: VaultServers, settings: VaultSettings = {}): Promise<VaultServer> {
  const { binary, image, existing, missing } = servers;
  if (existing !== undefined) return existingServer(existing);
  if (missing !== undefined) throw new Error(missing);
  return await startOnFreePort(
    (port) => {
      const directory = mkdtempSync(join(tmpdir(), "keyward-vault-"));
      if (binary !== undefined) return new StartedVault([binary], { data: directory }, directory, port);
      const belongings = { data: directory, container: `keyward-vault-${randomUUID()}` };
      const command = dockerCommand(image, belongings, ["--entrypoint", "bao"]);
      return new StartedVault(command, belongings, directory, port);
    },
    (server) => server.begin(settings),
  );
}

class StartedVault extends GuardedProcess implements VaultServer {
  readonly address: string;
  readonly #program: readonly string[];
  readonly #port: number;
  readonly #directory: string;
  #ca: string | undefined;
  #rootToken = "";
  #unsealKey = "";

  constructor(program: readonly string[], belongings: Belongings, directory: string, port: number) {
    super(belongings);
    this.#program = program;
    this.#directory = directory;
    this.#port = port;
    this.address = `http://${host}:${port}`;
  }

  get rootToken(): string {
    return this.#rootToken;
  }

  get ca(): string | undefined {
    return this.#ca;
  }

  async begin({ storage = "memory", tls = false }: VaultSettings): Promise<void> {
    if (tls) {
      await makeCertificates(this.#directory);
      this.#ca = readFileSync(join(this.#directory, "ca.pem"), "utf8");
      Object.assign(this, { address: this.address.replace("http:", "https:") });
    }
    const listener = {
      address: `${host}:${this.#port}`,
      ...(tls
        ? { tls_cert_file: join(this.#directory, "server.pem"), tls_key_file: join(this.#directory, "server.key") }
        : { tls_disable: true }),
    };
    const config = {
      storage: storage === "memory" ? { inmem: {} } : { file: { path: join(this.#directory, "data") } },
      listener: { tcp: listener },
      api_addr: this.address,
      disable_mlock: true,
    };
    writeFileSync(join(this.#directory, "config.json"), JSON.stringify(config));
    await this.restart();
    const made = await this.request("PUT", "sys/init", { secret_shares: 1, secret_threshold: 1 });
    this.#unsealKey = String([made["keys"]].flat()[0]);
    this.#rootToken = String(made["root_token"]);
    await this.unseal();
  }

  async request(method: string, path: string, body?: object, access: VaultAccess = {}): Promise<VaultBody> {
    return await ask({ address: this.address, rootToken: this.#rootToken, ca: this.#ca }, method, path, body, access);
  }

  async seal(): Promise<void> {
    await this.request("PUT", "sys/seal");
  }

  async unseal(): Promise<void> {
    await this.request("PUT", "sys/unseal", { key: this.#unsealKey });
    // For a moment after the unsealing, some paths still answer that the server is sealed.
    await until("the server is active", async () => {
      const { sealed, standby } = await this.request("GET", "sys/health");
      return sealed === false && standby === false;
    });
  }

  async restart(): Promise<void> {
    await this.run([...this.#program, "server", `-config=${join(this.#directory, "config.json")}`]);
    await until(`the server on port ${this.#port} answers`, async () => {
      return "sealed" in (await this.request("GET", "sys/health"));
    });
  }
}

function existingServer({ address, rootToken }: ExistingVault): VaultServer {
  const untouched = notOurs("KEYWARD_TEST_VAULT_ADDR");
  return {
    address,
    rootToken,
    ca: undefined,
    request: (method, path, body, access = {}) =>
      ask({ address, rootToken, ca: undefined }, method, path, body, access),
    ...untouched,
    seal: untouched.kill,
    unseal: untouched.kill,
  };
}

async function ask(
  server: { readonly address: string; readonly rootToken: string; readonly ca: string | undefined },
  method: string,
  path: string,
  body: object | undefined,
  { token = server.rootToken, namespace }: VaultAccess,
): Promise<VaultBody> {
  const client = nodeVault({ endpoint: server.address, debug: () => undefined });
  const answer: unknown = await client.request({
    method,
    path: `/${path}`,
    timeout: 10_000,
    headers: {
      "X-Vault-Token": token,
      ...(namespace === undefined ? {} : { "X-Vault-Namespace": namespace }),
    },
    ...(server.ca === undefined ? {} : { ca: server.ca }),
    ...(body === undefined ? {} : { json: body }),
  });
  return isBody(answer) ? answer : {};
}

function isBody(answer: unknown): answer is VaultBody {
  return typeof answer === "object" && answer !== null;
}

/** Creates an authority, `ca.pem`, and a certificate that it signs for the loopback address, `server.pem` and `server.key`. */
export async function makeCertificates(directory: string): Promise<void> {
  const at = (name: string) => join(directory, name);
  const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const authority = ["-subj", "/CN=Keyward test authority", "-keyout", at("ca.key"), "-out", at("ca.pem")];
  await run("openssl", ["req", "-x509", ...ec, "-days", "2", ...authority]);
  const asked = ["-subj", "/CN=localhost", "-keyout", at("server.key"), "-out", at("server.csr")];
  await run("openssl", ["req", ...ec, ...asked]);
  writeFileSync(at("server.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n");
  const signed = ["-CA", at("ca.pem"), "-CAkey", at("ca.key"), "-CAcreateserial", "-extfile", at("server.ext")];
  await run("openssl", ["x509", "-req", "-days", "2", "-in", at("server.csr"), ...signed, "-out", at("server.pem")]);
}
