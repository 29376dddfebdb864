import { type ChildProcess, execFile, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import nodeVault from "node-vault";
import { describe, it } from "vitest";
import { pythonEnvironment } from "./python-environment.ts";

const run = promisify(execFile);
const host = "127.0.0.1";
const startMs = 30_000;
const requirements = fileURLToPath(new URL("openbao-requirements.txt", import.meta.url));
const docker = "docker";
const dockerImage = "openbao/openbao:2.6.2";

/**
 * One OpenBao or Vault on a loopback port, initialized and unsealed. It and its data end with {@link VaultServer.stop},
 * and also when the process that started it ends in any way, `kill -9` included.
 */
export interface VaultServer {
  readonly address: string;
  readonly rootToken: string;
  /** For TLS: the certificate that its own was signed with, in PEM. */
  readonly ca: string | undefined;
  /** Asks the HTTP API, as root unless told otherwise; resolves to the body. */
  request(method: string, path: string, body?: object, access?: VaultAccess): Promise<VaultBody>;
  /** It answers 503 to all that needs its storage. */
  seal(): Promise<void>;
  unseal(): Promise<void>;
  /** `kill -9`. Only a server with files has its data afterwards. */
  kill(): Promise<void>;
  /** Starts it again on its port and files, sealed, killing it first where it runs. Resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP: connections stay, nothing answers. */
  pause(): void;
  /** SIGCONT. */
  resume(): void;
  /** Ends it and removes its data. */
  stop(): Promise<void>;
}

/** As whom, and where, {@link VaultServer.request} asks. */
export interface VaultAccess {
  readonly token?: string;
  readonly namespace?: string;
}

/** What the API answers: `data`, `auth`, and whatever else. */
export interface VaultBody {
  readonly data?: Readonly<Record<string, unknown>>;
  readonly auth?: Readonly<Record<string, unknown>>;
  readonly [field: string]: unknown;
}

/** How servers are started here, the one that is there already, or why there is none. */
export type VaultServers =
  | { readonly binary: string; readonly existing?: undefined; readonly missing?: undefined }
  | { readonly existing: ExistingVault; readonly binary?: undefined; readonly missing?: undefined }
  | { readonly missing: string; readonly binary?: undefined; readonly existing?: undefined };

interface ExistingVault {
  readonly address: string;
  readonly rootToken: string;
}

/** What {@link findVaultServers} is asked for. */
export interface VaultNeeds {
  /**
   * Whether any server does, shared with others and never sealed: then it is the one that `KEYWARD_TEST_VAULT_ADDR` and
   * `KEYWARD_TEST_VAULT_TOKEN` name, where they name one.
   */
  readonly anyWillDo?: boolean;
}

/**
 * Finds OpenBao or Vault on the PATH; else installs OpenBao into a folder of its own in the user's cache, once for all;
 * else uses Docker; else says why there is none.
 */
export async function findVaultServers({ anyWillDo = false }: VaultNeeds = {}): Promise<VaultServers> {
  const address = process.env["KEYWARD_TEST_VAULT_ADDR"];
  const rootToken = process.env["KEYWARD_TEST_VAULT_TOKEN"];
  if (anyWillDo && address !== undefined && rootToken !== undefined) return { existing: { address, rootToken } };
  const found = onPath();
  if (found !== undefined) return { binary: found };
  const failures = ["there is no bao or vault on the PATH"];
  try {
    const binary = join(await pythonEnvironment(requirements), "bao");
    await run(binary, ["version"], { timeout: startMs });
    return { binary };
  } catch (error) {
    failures.push(`python3 cannot install one (${firstLine(error)})`);
  }
  try {
    await run(docker, ["run", "--rm", dockerImage, "bao", "version"], { timeout: 120_000 });
    return { binary: docker };
  } catch (error) {
    failures.push(`Docker cannot run one (${firstLine(error)})`);
  }
  return { missing: failures.join("; ") };
}

/**
 * `describe` for suites that need a server. Where there is none the suite is skipped with the reason in its name, and
 * with CI=true it fails.
 */
export function describeWithVault(servers: VaultServers, name: string, suite: () => void): void {
  if (servers.missing === undefined) {
    describe(name, suite);
  } else if (process.env["CI"] === "true") {
    describe(name, () => {
      it("has a server", () => {
        throw new Error(servers.missing);
      });
    });
  } else {
    describe.skip(`${name} (skipped: ${servers.missing})`, suite);
  }
}

/** What {@link startVault} is asked for. */
export interface VaultSettings {
  /** Where it keeps its data: in memory unless told otherwise. */
  readonly storage?: "memory" | "files";
  /** Whether it takes TLS, and nothing else. Its certificates are made for it. */
  readonly tls?: boolean;
}

/** A server, initialized and unsealed. */
export async function startVault(servers: VaultServers, settings: VaultSettings = {}): Promise<VaultServer> {
  const { binary, existing, missing } = servers;
  if (existing !== undefined) return existingServer(existing);
  if (binary === undefined) throw new Error(missing);
  for (let attempt = 1; ; attempt++) {
    // Another process may take the port between the question and its use.
    const server = new StartedVault(binary, await freePort());
    try {
      await server.begin(settings);
      return server;
    } catch (error) {
      await server.stop();
      if (attempt === 3) throw error;
    }
  }
}

function onPath(): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return ["bao", "vault"].flatMap((name) => folders.map((folder) => join(folder, name))).find(existsSync);
}

// Ends the server when its own input ends, which happens however the process at the other end dies. The data stays only
// where "keep" was said before. What Docker runs is not a child of its command.
const watchdog = `"$@" >"$KEYWARD_DATA/log" 2>&1 & pid=$!
echo "$pid"
said=$(cat)
kill -9 "$pid" 2>/dev/null
[ -z "$KEYWARD_CONTAINER" ] || docker rm --force "$KEYWARD_CONTAINER" >/dev/null 2>&1
wait "$pid" 2>/dev/null
[ "$said" = keep ] || rm -rf "$KEYWARD_DATA"`;

class StartedVault implements VaultServer {
  readonly address: string;
  readonly #binary: string;
  readonly #port: number;
  readonly #directory = mkdtempSync(join(tmpdir(), "keyward-vault-"));
  #ca: string | undefined;
  #rootToken = "";
  #unsealKey = "";
  #running: { readonly guard: ChildProcess; readonly pid: number } | undefined;

  constructor(binary: string, port: number) {
    this.#binary = binary;
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
    // Right after, some paths still answer that the server is sealed.
    await until("the server is active", async () => {
      const { sealed, standby } = await this.request("GET", "sys/health");
      return sealed === false && standby === false;
    });
  }

  async restart(): Promise<void> {
    await this.#end("keep");
    const container = this.#binary === docker ? `keyward-vault-${randomUUID()}` : "";
    const command = [
      ...(this.#binary === docker ? this.#dockerCommand(container) : [this.#binary]),
      ...["server", `-config=${join(this.#directory, "config.json")}`],
    ];
    const guard = spawn("sh", ["-c", watchdog, "sh", ...command], {
      stdio: ["pipe", "pipe", "ignore"],
      // Out of the reach of a Ctrl-C, so that it is there to clean up.
      detached: true,
      env: { ...process.env, KEYWARD_DATA: this.#directory, KEYWARD_CONTAINER: container },
    });
    guard.stdin.on("error", () => undefined);
    const [line] = await once(guard.stdout, "data");
    this.#running = { guard, pid: Number(String(line)) };
    await until(`the server on port ${this.#port} answers`, async () => {
      return "sealed" in (await this.request("GET", "sys/health"));
    });
  }

  async kill(): Promise<void> {
    await this.#end("keep");
  }

  pause(): void {
    this.#signal("SIGSTOP");
  }

  resume(): void {
    this.#signal("SIGCONT");
  }

  async stop(): Promise<void> {
    await this.#end("remove");
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#running === undefined) throw new Error(`The server on port ${this.#port} does not run`);
    process.kill(this.#running.pid, signal);
  }

  async #end(data: "keep" | "remove"): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#running = undefined;
    const { guard } = running;
    const ended = guard.exitCode === null && guard.signalCode === null ? once(guard, "exit") : undefined;
    guard.stdin?.end(data);
    await ended;
  }

  #dockerCommand(container: string): string[] {
    const mount = `${this.#directory}:${this.#directory}`;
    const options = ["--rm", "--init", "--name", container, "--network", "host", "-v", mount, "--entrypoint", "bao"];
    return [docker, "run", ...options, dockerImage];
  }
}

function existingServer({ address, rootToken }: ExistingVault): VaultServer {
  const refuse = (): never => {
    throw new Error("The server of KEYWARD_TEST_VAULT_ADDR is not ours to stop");
  };
  return {
    address,
    rootToken,
    ca: undefined,
    request: (method, path, body, access = {}) =>
      ask({ address, rootToken, ca: undefined }, method, path, body, access),
    seal: async () => refuse(),
    unseal: async () => refuse(),
    kill: async () => refuse(),
    restart: async () => refuse(),
    pause: refuse,
    resume: refuse,
    stop: async () => undefined,
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

/** An authority of its own, `ca.pem`, and a certificate for the loopback address that it signed, `server.pem` and `.key`. */
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

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, host);
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("No port was given");
  return address.port;
}

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + startMs;
  let last: unknown;
  while (Date.now() < deadline) {
    try {
      if (await isSo()) return;
    } catch (error) {
      last = error;
    }
    await sleep(20);
  }
  throw new Error(`Not within ${startMs} ms: ${what}`, { cause: last });
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n").slice(0, 1).join("");
}
