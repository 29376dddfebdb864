import { readFile } from "node:fs/promises";
import { KeywardError } from "@keyward/core";
import axios from "axios";
import nodeVault from "node-vault";
import { QuietHttpAgent, QuietHttpsAgent } from "./quiet-agents.ts";

const maxAnswerBytes = 4 * 1024 * 1024;

/**
 * The error of a request to Vault that failed or that Vault did not answer. Contains no part of the request, and no
 * secret that is stored in Vault.
 */
export class VaultFailure extends Error {
  override readonly name = "VaultFailure";
  /** HTTP status of the answer; `undefined` if there was no answer. */
  readonly status: number | undefined;
  /** Error messages in the answer of Vault. */
  readonly reasons: readonly string[];
  /**
   * The field `data` of the answer, if the status is 404. If the secret was deleted, the field describes the deleted
   * secret.
   */
  readonly data: unknown;

  constructor(message: string, status?: number, reasons: readonly string[] = [], data?: unknown) {
    super(message);
    this.status = status;
    this.reasons = reasons;
    this.data = data;
  }

  /** True if the failure may be temporary, so that a retry may succeed. */
  get isPassing(): boolean {
    if (this.status !== undefined) return this.status === 412 || this.status === 429 || this.status >= 500;
    return !this.isUntrusted;
  }

  /**
   * True if no request to Vault can succeed, because Vault redirects to another address, the namespace does not exist,
   * or the certificate of Vault is not trusted.
   */
  get isMisaddressed(): boolean {
    const isElsewhere = this.status !== undefined && this.status >= 300 && this.status < 400;
    return this.isUntrusted || isElsewhere || this.isUnknownNamespace;
  }

  /** True if the namespace of the request does not exist in Vault. */
  get isUnknownNamespace(): boolean {
    return this.status === 404 && this.reasons.some((reason) => reason.includes("namespace not found"));
  }

  /** True if Node.js does not trust the certificate of Vault. */
  get isUntrusted(): boolean {
    return this.status === undefined && /CERT|SELF_SIGNED|UNABLE_TO|ALTNAME/.test(this.message);
  }
}

/** A request to the HTTP API of Vault. */
export interface VaultRequest {
  readonly method: "GET" | "POST";
  /** URL path without `/v1/`, with each part percent-encoded. */
  readonly path: string;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly token: string | undefined;
  readonly signal: AbortSignal;
}

/** Address of Vault, and settings for connections to it. */
export interface VaultClientSettings {
  readonly address: URL;
  readonly namespace: string | undefined;
  /**
   * Certificate authorities as a text in PEM. If undefined, the file at `caPath` is read. If `caPath` is undefined too,
   * the authorities that Node.js trusts are used.
   */
  readonly ca: string | undefined;
  /** Path of a PEM file with certificate authorities, which is read only if `ca` is undefined. */
  readonly caPath: string | undefined;
  readonly requestTimeoutMs: number;
}

type Client = ReturnType<typeof nodeVault>;

/** A client for the HTTP API of Vault, based on node-vault. Does not retry requests. */
export class VaultClient {
  readonly #settings: VaultClientSettings;
  #client: Promise<Client> | undefined;

  constructor(settings: VaultClientSettings) {
    this.#settings = settings;
  }

  /**
   * Sends a request to Vault and returns the body of the answer.
   *
   * @throws VaultFailure if Vault does not answer, or answers with a status that is not a success.
   */
  async request({ method, path, body, token, signal }: VaultRequest): Promise<unknown> {
    this.#client ??= this.#open();
    const client = await this.#client.catch((error: unknown) => {
      this.#client = undefined;
      throw error;
    });
    try {
      return await client.request({
        method,
        path: `/${path}`,
        headers: token === undefined ? {} : { "X-Vault-Token": token },
        signal,
        ...(body === undefined ? {} : { json: body }),
      });
    } catch (error) {
      throw failureOf(error);
    }
  }

  async #open(): Promise<Client> {
    const { address, namespace = "", requestTimeoutMs: timeout } = this.#settings;
    const ca = await this.#authorities();
    const http = axios.create({
      timeout,
      // The timeout of the agents applies while a connection is made, before the timeout of axios starts.
      httpAgent: new QuietHttpAgent({ timeout }),
      httpsAgent: new QuietHttpsAgent({ timeout, ...(ca === undefined ? {} : { ca }) }),
      // A proxy from the environment variables is used only with TLS, because the proxy could read plain HTTP.
      ...(address.protocol === "http:" ? { proxy: false } : {}),
      // Redirects are not followed, because the token would be sent to the other server.
      maxRedirects: 0,
      maxContentLength: maxAnswerBytes,
      validateStatus: () => true,
    });
    // This function replaces the HTTP client of node-vault, which cannot abort a request and respects VAULT_SKIP_VERIFY.
    const send = async ({ method, uri, headers, json, signal }: NodeVaultRequest) => {
      const { status, data } = await http.request<unknown>({ method, url: uri, headers, data: json, signal });
      return { statusCode: status, body: data, request: { path: new URL(uri).pathname } };
    };
    const client = nodeVault({
      endpoint: address.href,
      // The default debug function of node-vault would print secrets that are written.
      debug: () => undefined,
      "request-promise": { defaults: () => send },
    });
    // By default, node-vault reads token and namespace from environment variables, and would send a token with each login.
    return Object.assign(client, { token: "", namespace });
  }

  async #authorities(): Promise<string | undefined> {
    const { ca, caPath } = this.#settings;
    if (ca !== undefined || caPath === undefined) return ca;
    try {
      return await readFile(caPath, "utf8");
    } catch (error) {
      throw new KeywardError(
        "PROVIDER_UNAVAILABLE",
        `The file whose path is in VAULT_CACERT cannot be read (${codeOf(error)})`,
        {
          hint: "Correct the path in VAULT_CACERT. Or pass the certificate authorities, as a text in PEM, in the option `ca`, which replaces VAULT_CACERT.",
        },
      );
    }
  }
}

interface NodeVaultRequest {
  readonly method: string;
  readonly uri: string;
  readonly headers: Record<string, string>;
  readonly json: unknown;
  readonly signal: AbortSignal;
}

/**
 * Converts an error of axios into a VaultFailure. The error of axios contains the request with its token, so only the
 * status, the reasons and the data of a deleted secret are copied.
 */
function failureOf(error: unknown): VaultFailure {
  const response = fieldOf(error, "response");
  const status = fieldOf(response, "statusCode");
  if (typeof status !== "number") return new VaultFailure(codeOf(error));
  const body = fieldOf(response, "body");
  const errors = fieldOf(body, "errors");
  const reasons = Array.isArray(errors) ? errors.filter((reason): reason is string => typeof reason === "string") : [];
  return new VaultFailure(`status ${status}`, status, reasons, status === 404 ? fieldOf(body, "data") : undefined);
}

function codeOf(error: unknown): string {
  const code = fieldOf(error, "code");
  return typeof code === "string" && /^[A-Z0-9_]{1,60}$/.test(code) ? code : "no answer";
}

/** Returns a field of a value of unknown type; `undefined` if the value is not an object with this field. */
export function fieldOf(value: unknown, field: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, field) : undefined;
}
