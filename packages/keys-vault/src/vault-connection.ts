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

/** Where Vault or OpenBao is, as whom a process comes, and how fresh its ring is kept. */
export interface VaultConnectionOptions extends KeyFreshness {
  /** Such as `https://vault.example.com:8200`; default the variable `VAULT_ADDR`. */
  readonly address?: string;
  /** How the process shows who it is; default `{ method: "token" }`. */
  readonly auth?: VaultAuth;
  /** The namespace, of Vault Enterprise or OpenBao; default the variable `VAULT_NAMESPACE`. */
  readonly namespace?: string;
  /**
   * The authorities that the server's certificate may be signed by, in PEM; default what the file holds that
   * `VAULT_CACERT` names, and without that those that Node trusts.
   */
  readonly ca?: string;
  /** After how many milliseconds one request counts as not answered. Default 5,000. */
  readonly requestTimeoutMs?: number;
  /** Lets plain `http:` be used for more than this machine: token and keys can then be read on the way. Default false. */
  readonly dangerouslyAllowHttp?: boolean;
  /** Where the variables are read; default `process.env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** The names of these options, for those that add their own. */
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

/** One request, and whether it may be made again when nobody knows what became of it; default true. */
type Request = Omit<VaultRequest, "token" | "signal"> & { readonly repeatable?: boolean };

/** What one request is for, in words for an error. */
export interface Purpose {
  /** What is reached, such as `The secret "app/keyring"`. */
  readonly what: string;
  /** The lines that a policy must have for it. */
  readonly policy: string;
}

const defaultRefreshMs = 60_000;
const defaultRequestTimeoutMs = 5_000;
// Between them up to 400, 800 and 1,600 ms, at least half of that each.
const retries = 3;
const firstPauseMs = 200;
const timeoutShare = 0.9;

/** Requests to Vault as one who may make them: with a token, in bounded time, again where that helps. */
export class VaultConnection {
  /** How fresh a ring is kept that comes over this connection. */
  readonly freshness: ReturnType<typeof requireFreshness>;
  readonly #client: VaultClient;
  readonly #session: VaultSession;
  readonly #auth: VaultAuth;

  /**
   * @throws KeywardError `VALUE_INVALID` for an address that is none, or plain HTTP beyond this machine, and for settings
   * that are out of range.
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

  /** A signal that ends when a load or a save has taken too long, and when the one given does. */
  inTime(signal: AbortSignal | undefined): AbortSignal {
    // A little before the core gives up, who could not say what was wrong.
    const timeout = AbortSignal.timeout(Math.ceil(this.freshness.timeoutMs * timeoutShare));
    return signal === undefined ? timeout : AbortSignal.any([signal, timeout]);
  }

  /**
   * The body of the answer.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` when Vault does not answer, is sealed or refuses.
   * @throws VaultFailure for any other answer: what it means depends on what was asked. For a request that must not be
   * made twice, also when nobody knows whether it was carried out.
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
          // What was refused for its rate was not carried out.
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
   * The answer to a question that may remain open; `undefined` where there is none.
   *
   * @throws KeywardError `PROVIDER_UNAVAILABLE` where no request to this address can be answered.
   */
  async ask(path: string, signal: AbortSignal): Promise<unknown> {
    try {
      return await this.#client.request({ method: "GET", path, signal, token: await this.#session.token(signal) });
    } catch (error) {
      if (error instanceof VaultFailure && error.isMisaddressed) throw unavailable(error);
      return undefined;
    }
  }

  /** Asks with a token, and once more with another one where that is refused. */
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
      hint: "Check the address (VAULT_ADDR), and its health: GET sys/health.",
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

/** What Vault's not answering, or answering that it cannot, is as an error. */
export function unavailable(failure: VaultFailure): KeywardError {
  const [problem, hint] = explain(failure);
  return new KeywardError("PROVIDER_UNAVAILABLE", problem, { hint });
}

function explain(failure: VaultFailure): readonly [problem: string, hint: string] {
  const { status, reasons, message } = failure;
  if (failure.isUntrusted) {
    const hint = "Give `ca` (or VAULT_CACERT) the authority that signed it, and the address by a name that it has.";
    return [`The certificate of Vault is not trusted (${message})`, hint];
  }
  if (failure.isUnknownNamespace) {
    return ["Vault does not have this namespace (status 404)", "Correct `namespace`, or the variable VAULT_NAMESPACE."];
  }
  if (failure.isMisaddressed) {
    const hint = "Give the address of the active node, or of what stands before all: redirections are not followed.";
    return [`Vault at this address sends elsewhere (${message})`, hint];
  }
  if (status === undefined) {
    return [
      `Vault cannot be reached (${message})`,
      "Check the address (VAULT_ADDR) and that it is reachable from here.",
    ];
  }
  if (reasons.some((reason) => /sealed/.test(reason))) {
    const hint =
      "Unless it was sealed on purpose, unseal it: `bao operator unseal` or `vault operator unseal`, on each of its nodes.";
    return ["Vault is sealed", hint];
  }
  if (status === 429) {
    return ["Vault refuses so many requests (status 429)", "See to its rate limit quotas: sys/quotas/rate-limit."];
  }
  return [`Vault cannot answer (${message})`, "See to its health and its log: GET sys/health."];
}

function isRefusal(error: unknown): error is VaultFailure {
  return error instanceof VaultFailure && error.status === 403;
}

function refusal({ what, policy }: Purpose, failure: VaultFailure, auth: VaultAuth): KeywardError {
  const who =
    auth.method === "token" ? "The token may have ended, been revoked, or be of another namespace; or its" : "Its";
  return new KeywardError("PROVIDER_UNAVAILABLE", `${what} is refused to this process (${failure.message})`, {
    hint: `${who} policies may lack: ${policy}`,
  });
}

function loginRefused(failure: VaultFailure, auth: VaultAuth): KeywardError {
  const { status, message } = failure;
  if (status === 404) {
    const isApi = failure.reasons.length > 0;
    return new KeywardError(
      "PROVIDER_UNAVAILABLE",
      isApi
        ? `Vault has no login by ${auth.method} there (${message})`
        : `What answers at the address of Vault is not its API (${message})`,
      {
        hint: isApi
          ? "Correct where the method is mounted (`mount` of `auth`), or the namespace. `bao auth list` shows the methods."
          : "Correct the address (VAULT_ADDR), its path included: what the API adds to it begins with /v1/.",
      },
    );
  }
  return new KeywardError("PROVIDER_UNAVAILABLE", `Vault refuses the login by ${auth.method} (${message})`, {
    hint: loginHint(auth, status),
  });
}

function loginHint(auth: VaultAuth, status: number | undefined): string {
  switch (auth.method) {
    case "token":
      return "Give another token: this one may have ended or been revoked. Or give another method, such as approle.";
    case "approle":
      return `${lockoutHint(status)}Check the role id, the namespace and the mount, and give a new secret id: this one may have ended or been used up. ${sameCredentials}`;
    case "kubernetes":
      return "Check that the role is bound to this service account and namespace, and where the method is mounted.";
    case "userpass":
      return `${lockoutHint(status)}Check the name, the password, the namespace, and where the method is mounted. ${sameCredentials}`;
  }
}

// Credentials that are wrong are answered with 400.
function lockoutHint(status: number | undefined): string {
  if (status !== 403) return "";
  return "Vault answers so where the method is not mounted, and where failed logins have locked this name out (by default 5 of them, for 15 minutes): `bao read sys/locked-users` shows it. End what logs in with wrong credentials before you unlock it. ";
}

const sameCredentials =
  "Unchanged credentials are tried again only after a pause of up to 20 minutes, so that Vault does not lock the name out; changed ones at once.";

function requireAddress(given: string | undefined, allowHttp: boolean): URL {
  // It may be a token in the wrong place, which no error repeats.
  const address = requireUrl("The address of Vault (`address`, or VAULT_ADDR)", given, {
    protocols: ["http:", "https:"],
    form: "https://vault.example.com:8200",
    addressOnly: true,
  });
  if (/\/(?:v1|ui)(?:\/|$)/.test(address.pathname)) {
    throw new KeywardError("VALUE_INVALID", "The address of Vault has /v1 or /ui in its path", {
      hint: "Leave it out, as in https://vault.example.com:8200: the path of the API is added to the address.",
    });
  }
  const isLocal = /^(?:localhost|127(?:\.\d+){3}|\[::1\])$/.test(address.hostname);
  if (address.protocol === "http:" && !isLocal && !allowHttp) {
    throw new KeywardError("VALUE_INVALID", "The address of Vault is plain HTTP, beyond this machine", {
      hint: "Use https. Where the network itself is safe: `dangerouslyAllowHttp: true`.",
    });
  }
  return address;
}
