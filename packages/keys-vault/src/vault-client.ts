import { readFile } from "node:fs/promises";
import { KeywardError } from "@keyward/core";
import axios from "axios";
import nodeVault from "node-vault";
import { QuietHttpAgent, QuietHttpsAgent } from "./quiet-agents.ts";

const maxAnswerBytes = 4 * 1024 * 1024;

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

  /** Whether the address or the namespace is the problem, whatever was asked. */
  get isMisaddressed(): boolean {
    const isElsewhere = this.status !== undefined && this.status >= 300 && this.status < 400;
    return this.isUntrusted || isElsewhere || this.isUnknownNamespace;
  }

  /** Whether there is no such namespace. */
  get isUnknownNamespace(): boolean {
    return this.status === 404 && this.reasons.some((reason) => reason.includes("namespace not found"));
  }

  /** Whether the server's certificate is the problem. */
  get isUntrusted(): boolean {
    return this.status === undefined && /CERT|SELF_SIGNED|UNABLE_TO|ALTNAME/.test(this.message);
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
  #client: Promise<Client> | undefined;

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
    const { address, namespace = "", requestTimeoutMs: timeout } = this.#where;
    const ca = await this.#authorities();
    const http = axios.create({
      timeout,
      // These hold while a connection is made, when axios' own time limit does not yet.
      httpAgent: new QuietHttpAgent({ timeout }),
      httpsAgent: new QuietHttpsAgent({ timeout, ...(ca === undefined ? {} : { ca }) }),
      // Through a proxy that the environment names goes TLS alone: of plain HTTP it would see the token and the ring.
      ...(address.protocol === "http:" ? { proxy: false } : {}),
      // A redirection is not followed: the token would go along.
      maxRedirects: 0,
      maxContentLength: maxAnswerBytes,
      validateStatus: () => true,
    });
    // As node-vault asks by itself, a request cannot be stopped, and VAULT_SKIP_VERIFY is heeded.
    const ask = async ({ method, uri, headers, json, signal }: AskedByNodeVault) => {
      const { status, data } = await http.request<unknown>({ method, url: uri, headers, data: json, signal });
      return { statusCode: status, body: data, request: { path: new URL(uri).pathname } };
    };
    const client = nodeVault({
      endpoint: address.href,
      // Its own would print what is written.
      debug: () => undefined,
      "request-promise": { defaults: () => ask },
    });
    // It takes these from the environment where none are given, and would send a token with each login.
    return Object.assign(client, { token: "", namespace });
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

interface AskedByNodeVault {
  readonly method: string;
  readonly uri: string;
  readonly headers: Record<string, string>;
  readonly json: unknown;
  readonly signal: AbortSignal;
}

/** What axios throws holds the request, token included: nothing of it is kept but what is named here. */
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

/** One field of an answer, whatever that is. */
export function fieldOf(value: unknown, field: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, field) : undefined;
}
