import { readFile } from "node:fs/promises";
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { abortable, KeywardError } from "@keyward/core";
import nodeVault from "node-vault";

/** An answer of Vault's, or that there was none. Holds nothing that was sent, and nothing of what lies in Vault. */
export class VaultFailure extends Error {
  override readonly name = "VaultFailure";
  /** The status of the answer; undefined where there was none. */
  readonly status: number | undefined;
  /** What Vault says is wrong. */
  readonly reasons: readonly string[];
  /** The `data` of an answer that says that something is gone: how it went. */
  readonly data: unknown;

  constructor(message: string, status?: number, reasons: readonly string[] = [], data?: unknown) {
    super(message);
    this.status = status;
    this.reasons = reasons;
    this.data = data;
  }

  /** Whether the same request may well be answered a moment later. */
  get isPassing(): boolean {
    if (this.status !== undefined) return this.status === 412 || this.status === 429 || this.status >= 500;
    return !this.isUntrusted;
  }

  /** Whether the server's certificate is the problem. */
  get isUntrusted(): boolean {
    return this.status === undefined && /CERT|SELF_SIGNED|UNABLE_TO|ALTNAME|SSL|TLS/.test(this.message);
  }
}

/** One request to the HTTP API. */
export interface VaultRequest {
  readonly method: "GET" | "POST";
  /** Without `/v1/`, its parts encoded. */
  readonly path: string;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly token: string | undefined;
  readonly signal: AbortSignal;
}

/** Where Vault is and how it is reached. */
export interface VaultAddress {
  readonly address: URL;
  readonly namespace: string | undefined;
  /** Authorities in PEM, instead of those that Node knows. */
  readonly ca: string | undefined;
  /** A file that holds them. */
  readonly caPath: string | undefined;
  readonly requestTimeoutMs: number;
}

type Client = ReturnType<typeof nodeVault>;

/** Vault's HTTP API, by node-vault, one request at a time and none twice. */
export class VaultClient {
  readonly #where: VaultAddress;
  #client: Promise<{ readonly client: Client; readonly agents: object }> | undefined;

  constructor(where: VaultAddress) {
    this.#where = where;
  }

  /**
   * The body of the answer.
   *
   * @throws VaultFailure when there is none, or it is no success.
   */
  async request({ method, path, body, token, signal }: VaultRequest): Promise<unknown> {
    this.#client ??= this.#open();
    const { client, agents } = await this.#client.catch((error: unknown) => {
      this.#client = undefined;
      throw error;
    });
    const answered = client.request({
      method,
      path: `/${path}`,
      headers: token === undefined ? {} : { "X-Vault-Token": token },
      timeout: this.#where.requestTimeoutMs,
      ...agents,
      ...(body === undefined ? {} : { json: body }),
    });
    const withoutSecrets = answered.catch((error: unknown) => {
      throw failureOf(error);
    });
    // node-vault cannot be told to stop; a request that nobody waits for any more ends by its own time limit.
    withoutSecrets.catch(() => undefined);
    return await abortable(() => withoutSecrets, signal);
  }

  async #open(): Promise<{ readonly client: Client; readonly agents: object }> {
    const { address, namespace = "", requestTimeoutMs: timeout } = this.#where;
    const ca = await this.#authorities();
    // Its own debug output would print what is written.
    const client = nodeVault({ endpoint: address.href, debug: () => undefined });
    // It takes these from the environment where none are given, and would send a token with each login.
    Object.assign(client, { token: "", namespace });
    // The agent's time limit holds while a connection is made, when axios' own does not yet.
    const httpsAgent = new HttpsAgent({ timeout, ...(ca === undefined ? {} : { ca }) });
    const httpAgent = address.protocol === "http:" ? new HttpAgent({ timeout }) : refusePlainHttp();
    return { client, agents: { httpAgent, httpsAgent } };
  }

  async #authorities(): Promise<string | undefined> {
    const { ca, caPath } = this.#where;
    if (ca !== undefined || caPath === undefined) return ca;
    try {
      return await readFile(caPath, "utf8");
    } catch (error) {
      throw new KeywardError(
        "PROVIDER_UNAVAILABLE",
        `The file that VAULT_CACERT names cannot be read (${codeOf(error)})`,
        {
          hint: "Correct the path, or give `ca` the certificates themselves, in PEM.",
        },
      );
    }
  }
}

/** A redirection from TLS to plain HTTP would send the token in the clear. */
function refusePlainHttp(): HttpAgent {
  const agent = new HttpAgent();
  agent.createConnection = () => {
    throw new Error("Vault redirects to plain HTTP");
  };
  return agent;
}

/** What node-vault throws holds the request, token included: nothing of it is kept but what is named here. */
function failureOf(error: unknown): VaultFailure {
  const response = fieldOf(error, "response");
  const status = fieldOf(response, "statusCode");
  if (typeof status !== "number") return new VaultFailure(codeOf(error));
  const body = fieldOf(response, "body");
  const errors = fieldOf(body, "errors");
  const reasons = Array.isArray(errors) ? errors.filter((reason): reason is string => typeof reason === "string") : [];
  return new VaultFailure(`status ${status}`, status, reasons, fieldOf(body, "data"));
}

function codeOf(error: unknown): string {
  const code = fieldOf(error, "code");
  return typeof code === "string" && /^[A-Z0-9_]{1,60}$/.test(code) ? code : "no answer";
}

/** One field of an answer, whatever that is. */
export function fieldOf(value: unknown, field: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, field) : undefined;
}
