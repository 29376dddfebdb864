import {
  type KeyFreshness,
  KeywardError,
  type OptionNames,
  requireAmount,
  requireFreshness,
  requireUrl,
} from "@keyward/core";
import pRetry from "p-retry";
import { requireAuth, type VaultAuth } from "./vault-auth.ts";
import { VaultClient, VaultFailure, type VaultRequest } from "./vault-client.ts";
import { VaultSession } from "./vault-session.ts";

/** Options for the connection to Vault or OpenBao: address, authentication, and how often the keyring is reloaded. */
export interface VaultConnectionOptions extends KeyFreshness {
  /** Address of Vault, such as `https://vault.example.com:8200`. Default: the environment variable `VAULT_ADDR`. */
  readonly address?: string;
  /**
   * Method by which the process authenticates to Vault, and the credentials for this method. Default:
   * `{ method: "token" }`.
   */
  readonly auth?: VaultAuth;
  /** Namespace in Vault Enterprise or OpenBao. Default: the environment variable `VAULT_NAMESPACE`. */
  readonly namespace?: string;
  /**
   * Certificate authorities that may sign the certificate of Vault, as a text in PEM. Default: the file whose path is
   * in the environment variable `VAULT_CACERT`. If `VAULT_CACERT` is not set: the authorities that Node.js trusts.
   */
  readonly ca?: string;
  /**
   * How long to wait for Vault's answer to one request, in milliseconds, at most `timeoutMs`. Default: 5,000, or
   * `timeoutMs` if it is shorter.
   */
  readonly requestTimeoutMs?: number;
  /**
   * Whether `address` may be an `http:` address of another machine. If true, anyone who can read the network traffic
   * can read the token and the keys. Default: false.
   */
  readonly dangerouslyAllowHttp?: boolean;
  /**
   * Environment variables that provide the `VAULT_…` settings, such as `VAULT_ADDR` and `VAULT_TOKEN`. Default:
   * `process.env`.
   */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/**
 * Names of all options in {@link VaultConnectionOptions}. A provider adds its own option names, and refuses options
 * with any other name.
 */
export const connectionOptionNames: OptionNames<VaultConnectionOptions> = {
  address: true,
  auth: true,
  namespace: true,
  ca: true,
  requestTimeoutMs: true,
  dangerouslyAllowHttp: true,
  env: true,
  refreshMs: true,
  maxAgeMs: true,
  timeoutMs: true,
};

/** A request to Vault. If `repeatable` is true (the default), the request may be sent again when its result is unknown. */
type Request = Omit<VaultRequest, "token" | "signal"> & { readonly repeatable?: boolean };

/** Texts for the errors of a request: which resource the request accesses, and which policy allows the request. */
export interface Purpose {
  /** Name of the resource that the request accesses, such as `The secret "app/keyring"`. */
  readonly resource: string;
  /** Line that a policy of the process must contain, so that Vault allows the request. */
  readonly policy: string;
}

const defaultRefreshMs = 60_000;
const defaultRequestTimeoutMs = 5_000;
// The pauses before the three retries are random: 200 to 400 ms, 400 to 800 ms, and 800 to 1,600 ms.
const retries = 3;
const firstPauseMs = 200;
const timeoutShare = 0.9;

/** Sends authenticated requests to Vault. Retries a request up to three times if its failure may be temporary. */
export class VaultConnection {
  /**
   * The values or defaults of `refreshMs`, `maxAgeMs` and `timeoutMs`: how often a keyring is reloaded over this
   * connection, how long a loaded keyring may be used, and how long a load may take.
   */
  readonly freshness: ReturnType<typeof requireFreshness>;
  readonly #client: VaultClient;
  readonly #session: VaultSession;
  readonly #auth: VaultAuth;

  /**
   * Checks the options, without connecting to Vault.
   *
   * @throws KeywardError `VALUE_INVALID` for an invalid address, for an `http:` address of another machine without
   * `dangerouslyAllowHttp`, and for an option out of range.
   */
  constructor(options: VaultConnectionOptions) {
    const { env = process.env, ca, auth = { method: "token" } } = options;
    this.freshness = requireFreshness({ refreshMs: defaultRefreshMs, ...options });
    const { timeoutMs } = this.freshness;
    const { requestTimeoutMs = Math.min(defaultRequestTimeoutMs, timeoutMs) } = options;
    requireAmount("requestTimeoutMs", requestTimeoutMs, "milliseconds", { most: timeoutMs });
    requireAuth(auth);
    this.#client = new VaultClient({
      address: requireAddress(options.address ?? env["VAULT_ADDR"], options.dangerouslyAllowHttp === true),
      namespace: options.namespace ?? env["VAULT_NAMESPACE"],
      ca,
      caPath: env["VAULT_CACERT"],
      requestTimeoutMs,
    });
    this.#auth = auth;
    this.#session = new VaultSession(this.#client, auth, env, this.freshness.timeoutMs);
  }

  /**
   * Returns a signal for one load or save. The signal is aborted after 90 % of `timeoutMs`, or when `signal` is
   * aborted.
   */
  inTime(signal: AbortSignal | undefined): AbortSignal {
    // This time limit is a little shorter than core's own, whose error cannot name the reason.
    const timeout = AbortSignal.timeout(Math.ceil(this.freshness.timeoutMs * timeoutShare));
    return signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
  }

  /**
   * Sends a request to Vault with the token of the process, and returns the body of the answer.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if Vault does not answer, is sealed or denies access.
   * @throws VaultFailure for any other failure, because only the caller knows what the failure means for this request.
   * If `repeatable` is false, a missing answer also throws a VaultFailure, because Vault may have executed the request.
   */
  async request({ repeatable = true, ...request }: Request, purpose: Purpose, signal: AbortSignal): Promise<unknown> {
    let last: VaultFailure | undefined;
    try {
      return await pRetry(() => this.#authorized({ ...request, signal }, purpose), {
        retries,
        minTimeout: firstPauseMs,
        randomize: true,
        signal,
        shouldRetry: ({ error }) => {
          if (!(error instanceof VaultFailure)) return false;
          last = error;
          // A request that was refused by a rate limit was not executed.
          return error.isPassing && (repeatable || error.status === 429);
        },
      });
    } catch (error) {
      if (signal.aborted) throw this.#tooLate(signal, last);
      if (!(error instanceof VaultFailure)) throw error;
      throw error.isMisaddressed || (error.isPassing && repeatable) ? unavailable(error) : error;
    }
  }

  /**
   * Sends a read request whose answer is optional. Returns the body of the answer, or `undefined` if the request fails.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` if every request to Vault fails, because the address or the namespace
   * is wrong, or because the certificate of Vault is not trusted.
   */
  async ask(path: string, signal: AbortSignal): Promise<unknown> {
    try {
      return await this.#client.request({ method: "GET", path, signal, token: await this.#session.token(signal) });
    } catch (error) {
      if (error instanceof VaultFailure && error.isMisaddressed) throw unavailable(error);
      return undefined;
    }
  }

  /** Sends a request with a token. If Vault denies access, tries once more with a new token. */
  async #authorized(request: Omit<VaultRequest, "token">, purpose: Purpose): Promise<unknown> {
    const { signal } = request;
    const token = await this.#loggedIn(() => this.#session.token(signal));
    try {
      return await this.#client.request({ ...request, token });
    } catch (error) {
      if (!isRefusal(error)) throw error;
      const other = await this.#loggedIn(() => this.#session.replace(token, signal));
      if (other === undefined) throw refusal(purpose, error, this.#auth);
      return await this.#client.request({ ...request, token: other }).catch((again: unknown) => {
        throw isRefusal(again) ? refusal(purpose, again, this.#auth) : again;
      });
    }
  }

  #tooLate({ reason }: AbortSignal, last: VaultFailure | undefined): unknown {
    if (!(reason instanceof DOMException && reason.name === "TimeoutError")) return reason;
    if (last !== undefined) return unavailable(last);
    return new KeywardError("PROVIDER_UNAVAILABLE", `Vault did not answer within ${this.freshness.timeoutMs} ms`, {
      hint: "Check the address (`address` or VAULT_ADDR), and the health of Vault: `GET /v1/sys/health`.",
    });
  }

  async #loggedIn<Result>(work: () => Promise<Result>): Promise<Result> {
    try {
      return await work();
    } catch (error) {
      throw error instanceof VaultFailure && !error.isPassing && !error.isMisaddressed
        ? loginRefused(error, this.#auth)
        : error;
    }
  }
}

/** Returns the error for a failure that any request to Vault could have, such as a missing answer. */
export function unavailable(failure: VaultFailure): KeywardError {
  const [problem, hint] = explain(failure);
  return new KeywardError("PROVIDER_UNAVAILABLE", problem, { hint });
}

function explain(failure: VaultFailure): readonly [problem: string, hint: string] {
  const { status, reasons, message } = failure;
  if (failure.isUntrusted) {
    const hint =
      "Pass the certificate authority that signed the certificate in the option `ca`, or as a file whose path is in VAULT_CACERT. If this authority is set already, use an address whose host name is in the certificate.";
    return [`The certificate of Vault is not trusted (${message})`, hint];
  }
  if (failure.isUnknownNamespace) {
    return [
      "The configured namespace does not exist in Vault (status 404)",
      "Correct `namespace`, or the environment variable VAULT_NAMESPACE.",
    ];
  }
  if (failure.isMisaddressed) {
    const hint =
      "Set the address to the active node, or to the load balancer of all nodes. Keyward does not follow redirects, because the other server would receive the token.";
    return [`Vault at this address redirects requests to another address (${message})`, hint];
  }
  if (status === undefined) {
    return [
      `Vault cannot be reached (${message})`,
      "Check the address (`address` or VAULT_ADDR), and that this process can reach Vault at this address.",
    ];
  }
  if (reasons.some((reason) => /sealed/.test(reason))) {
    const hint =
      "If Vault was not sealed on purpose, unseal each node with `bao operator unseal` or `vault operator unseal`.";
    return ["Vault is sealed", hint];
  }
  if (status === 429) {
    return [
      "Vault refused the request because of a rate limit (status 429)",
      "Raise `refreshMs` to send fewer requests, or raise the rate limit quotas of Vault (`sys/quotas/rate-limit`).",
    ];
  }
  return [
    `Vault failed to answer (${message})`,
    "Check the health of Vault (`GET /v1/sys/health`), and look for the reason in the log of Vault.",
  ];
}

function isRefusal(error: unknown): error is VaultFailure {
  return error instanceof VaultFailure && error.status === 403;
}

function refusal({ resource, policy }: Purpose, failure: VaultFailure, auth: VaultAuth): KeywardError {
  const tokenCause =
    auth.method === "token" ? "The token may have expired, been revoked, or belong to another namespace. " : "";
  return new KeywardError(
    "PROVIDER_UNAVAILABLE",
    `${resource} cannot be accessed: Vault denied access (${failure.message})`,
    {
      hint: `${tokenCause}Check that a policy of this process contains this line: ${policy}`,
    },
  );
}

function loginRefused(failure: VaultFailure, auth: VaultAuth): KeywardError {
  const { status, message } = failure;
  if (status === 404) {
    const isApi = failure.reasons.length > 0;
    return new KeywardError(
      "PROVIDER_UNAVAILABLE",
      isApi
        ? `Vault has no login method "${auth.method}" at the configured mount (${message})`
        : `The server at the address of Vault does not have the Vault API (${message})`,
      {
        hint: isApi
          ? "Correct `mount` in `auth`, or the option `namespace`. `bao auth list` shows the login methods of a namespace with their mounts."
          : "Correct the address (`address` or VAULT_ADDR), including its path. Do not add `/v1/` to the address, because Keyward adds `/v1/` itself.",
      },
    );
  }
  return new KeywardError("PROVIDER_UNAVAILABLE", `Vault refused the login by ${auth.method} (${message})`, {
    hint: loginHint(auth, status),
  });
}

function loginHint(auth: VaultAuth, status: number | undefined): string {
  switch (auth.method) {
    case "token":
      return 'Set another token, because the current token may have expired or been revoked. Or use another login method in `auth`, such as "approle".';
    case "approle":
      return `${lockoutHint(status)}Check the role id, the namespace and the mount of the login method. If they are correct, set a new secret id, because the current secret id may have expired or been used up. ${sameCredentials}`;
    case "kubernetes":
      return "Check that the role is bound to this service account and namespace, and that `mount` in `auth` is correct.";
    case "userpass":
      return `${lockoutHint(status)}Check the user name, the password, the namespace, and the mount of the login method. ${sameCredentials}`;
  }
}

// Vault answers wrong credentials with status 400, and a locked user or role, or a missing login method, with 403.
function lockoutHint(status: number | undefined): string {
  if (status !== 403) return "";
  return "Either the login method is not mounted, or Vault has locked this user or role out (by default for 15 minutes after 5 failed logins). `bao read sys/locked-users` lists locked users and roles. Stop the process that logs in with wrong credentials before you unlock the user or role, because further failed logins would lock it out again. ";
}

const sameCredentials =
  "Keyward retries the same credentials only after a pause of up to 20 minutes, so that Vault does not lock the user or role out. Changed credentials are used at once.";

function requireAddress(given: string | undefined, allowHttp: boolean): URL {
  // The value may be a token by mistake, so no error repeats it.
  const address = requireUrl("The address of Vault (`address`, or VAULT_ADDR)", given, {
    protocols: ["http:", "https:"],
    form: "https://vault.example.com:8200",
    addressOnly: true,
  });
  if (/\/(?:v1|ui)(?:\/|$)/.test(address.pathname)) {
    throw new KeywardError("VALUE_INVALID", "The address of Vault contains /v1 or /ui", {
      hint: "Remove /v1 or /ui from the address, as in https://vault.example.com:8200. Keyward adds the path of the API.",
    });
  }
  const isLocal = /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(address.hostname);
  if (address.protocol === "http:" && !isLocal && !allowHttp) {
    throw new KeywardError("VALUE_INVALID", "The address of Vault uses plain HTTP to another machine", {
      hint: "Use an https address. Set `dangerouslyAllowHttp: true` only if no attacker can read the traffic between this process and Vault.",
    });
  }
  return address;
}
