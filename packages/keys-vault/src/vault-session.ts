import { createHash } from "node:crypto";
import { KeywardError, RetryPause, singleFlight } from "@keyward/core";
import { type LoginRequest, readCredentials, type VaultAuth } from "./vault-auth.ts";
import { fieldOf, type VaultClient, VaultFailure } from "./vault-client.ts";

/** The token that a process uses, with its lease. Points in time are values of `performance.now()`. */
interface Session {
  readonly token: string;
  /** True if the token comes from a login, which can be repeated. */
  readonly loggedIn: boolean;
  readonly renewable: boolean;
  readonly leaseMs: number;
  /** Time at which the token expires. Infinity if the token does not expire, or if the time is unknown. */
  readonly expiresAtMs: number;
  /** Time at which the token should be renewed or replaced. */
  readonly actAtMs: number;
}

// A token is renewed or replaced after this part of its lease.
const leaseShare = 2 / 3;
// If a renewal extends a token by less than this part of its lease, the token has reached its maximum lifetime.
const extendedShare = 1 / 10;
const shortestLeaseS = 0.5;
// A failed renewal is retried after a third of the remaining time, but not before this part of the lease has passed since
// the failure.
const shortestRetryShare = 1 / 20;
// Refused credentials are retried after pauses of 10 s, 1 minute, 6 minutes, and then 16 minutes. Each pause is extended by
// up to a fifth.
// By default, Vault locks a user or role out at the fifth failed login, and resets the count after 15 minutes without one.
const refusalPauses = { firstMs: 10_000, factor: 6, longestMs: 16 * 60_000 };
const longestTimerMs = 2 ** 31 - 1;

/**
 * The Vault token of a process. Logs in to get a token, and renews the token before it expires. Logs in again if the
 * token cannot be renewed or was revoked. The timer that renews the token does not prevent the process from exiting, or
 * the session from being garbage-collected.
 */
export class VaultSession {
  readonly #client: VaultClient;
  readonly #auth: VaultAuth;
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #timeoutMs: number;
  readonly #start = singleFlight(async ({ signal }) => this.#session ?? (await this.#login(signal)));
  readonly #extend = singleFlight(({ signal }) => this.#renewOrLogin(signal));
  /** Hash of the credentials that Vault refused last, and the failure. */
  #refused: { readonly credentials: string; readonly failure: VaultFailure } | undefined;
  readonly #refusalPause = new RetryPause(refusalPauses);
  #session: Session | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** @param timeoutMs How long a renewal of the token by the timer may take, in milliseconds. */
  constructor(
    client: VaultClient,
    auth: VaultAuth,
    env: Readonly<Record<string, string | undefined>>,
    timeoutMs: number,
  ) {
    this.#client = client;
    this.#auth = auth;
    this.#env = env;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * Returns a token for Vault that has not expired. Logs in or renews the token first, if that is necessary.
   *
   * @throws KeywardError or VaultFailure if the login or the renewal failed and no valid token is left.
   */
  async token(signal: AbortSignal): Promise<string> {
    const session = this.#session;
    if (session === undefined) return (await this.#start({ signal })).token;
    if (performance.now() < session.actAtMs) return session.token;
    return (await this.#extend({ signal })).token;
  }

  /**
   * Returns a token to use instead of a token that Vault refused; `undefined` if a new login returns the refused token
   * again.
   *
   * @param refused The token that Vault refused.
   * @throws KeywardError or VaultFailure if the login failed.
   */
  async replace(refused: string, signal: AbortSignal): Promise<string | undefined> {
    if (this.#session?.token === refused) this.#session = undefined;
    const { token } = this.#session ?? (await this.#start({ signal }));
    return token === refused ? undefined : token;
  }

  async #renewOrLogin(signal: AbortSignal): Promise<Session> {
    const session = this.#session;
    if (session === undefined) return await this.#login(signal);
    // Another call has renewed or replaced the token.
    if (performance.now() < session.actAtMs) return session;
    try {
      return await this.#successor(session, signal);
    } catch (error) {
      // The token is still valid, so it stays in use. The next use retries the renewal.
      if (hasExpired(session)) throw error;
      return session;
    }
  }

  async #successor(session: Session, signal: AbortSignal): Promise<Session> {
    if (session.renewable) {
      try {
        return await this.#renew(session, signal);
      } catch (error) {
        if (!(error instanceof VaultFailure) || error.isPassing) throw error;
      }
    } else if (!session.loggedIn && !hasExpired(session)) {
      return session;
    }
    return await this.#login(signal);
  }

  async #renew(session: Session, signal: AbortSignal): Promise<Session> {
    const { token, loggedIn } = session;
    const request = { method: "POST", path: "auth/token/renew-self", body: {}, token, signal } as const;
    const auth = fieldOf(await this.#client.request(request), "auth");
    const seconds = leaseLeftS(fieldOf(auth, "lease_duration"));
    const renewed = this.#startSession(
      token,
      { lease_duration: seconds, renewable: fieldOf(auth, "renewable") },
      loggedIn,
    );
    // The token has reached its maximum lifetime. From now on it is not renewed, but replaced.
    if (renewed.expiresAtMs - session.expiresAtMs > session.leaseMs * extendedShare) return renewed;
    return this.#setSession({ ...renewed, renewable: false });
  }

  async #login(signal: AbortSignal): Promise<Session> {
    const { token, login } = await readCredentials(this.#auth, this.#env);
    if (login === undefined) return await this.#adopt(token, signal);
    const auth = fieldOf(await this.#postLogin(login, signal), "auth");
    const given = fieldOf(auth, "client_token");
    if (typeof given === "string" && given !== "") return this.#startSession(given, auth, true);
    throw new KeywardError("PROVIDER_UNAVAILABLE", "Vault accepted the login of this process, but returned no token", {
      hint: "If the login method requires a second factor, use a login method without a second factor. Otherwise look for the reason in the audit log of Vault.",
    });
  }

  /**
   * Sends a login request. If Vault refused the same credentials a short time ago, throws the earlier failure instead,
   * because repeated failures would lock the user or role out.
   */
  async #postLogin({ path, body, locksOut }: LoginRequest, signal: AbortSignal): Promise<unknown> {
    const credentials = createHash("sha256")
      .update(JSON.stringify([path, body]))
      .digest("hex");
    const refused = this.#refused;
    if (refused?.credentials === credentials && this.#refusalPause.leftMs() > 0) throw refused.failure;
    try {
      const answer = await this.#client.request({ method: "POST", path, body, token: undefined, signal });
      this.#refused = undefined;
      this.#refusalPause.succeeded();
      return answer;
    } catch (error) {
      if (locksOut && error instanceof VaultFailure && (error.status === 400 || error.status === 403)) {
        this.#refused = { credentials, failure: error };
        this.#refusalPause.failed();
      }
      throw error;
    }
  }

  /** Starts a session with a token that does not come from a login. Requests the lease of the token from Vault. */
  async #adopt(token: string, signal: AbortSignal): Promise<Session> {
    try {
      const answer = await this.#client.request({ method: "GET", path: "auth/token/lookup-self", token, signal });
      const data = fieldOf(answer, "data");
      const seconds = typeof fieldOf(data, "expire_time") === "string" ? leaseLeftS(fieldOf(data, "ttl")) : 0;
      const lease = { lease_duration: seconds, renewable: fieldOf(data, "renewable") };
      return this.#startSession(token, lease, false);
    } catch (error) {
      if (!(error instanceof VaultFailure) || error.status !== 403) throw error;
      // The policy of the token may deny only this lookup. If the token is invalid, its first use fails.
      return this.#startSession(token, {}, false);
    }
  }

  #startSession(token: string, lease: unknown, loggedIn: boolean): Session {
    const seconds = fieldOf(lease, "lease_duration");
    const leaseMs = typeof seconds === "number" && seconds > 0 ? seconds * 1_000 : Number.POSITIVE_INFINITY;
    const nowMs = performance.now();
    return this.#setSession({
      token,
      loggedIn,
      renewable: fieldOf(lease, "renewable") === true,
      leaseMs,
      expiresAtMs: nowMs + leaseMs,
      actAtMs: nowMs + leaseMs * leaseShare,
    });
  }

  #setSession(session: Session): Session {
    this.#session = session;
    clearTimeout(this.#timer);
    const inMs = session.actAtMs - performance.now();
    if (session.renewable && inMs < longestTimerMs) {
      const self = new WeakRef(this);
      this.#timer = setTimeout(() => VaultSession.#wake(self, session), Math.max(inMs, 0)).unref();
    }
    return session;
  }

  static #wake(self: WeakRef<VaultSession>, session: Session): void {
    const alive = self.deref();
    if (alive !== undefined) void alive.#renewInTime(session);
  }

  /** Renews or replaces the token of a session. A failure is not reported here, because the next use fails in the same way. */
  async #renewInTime(session: Session): Promise<void> {
    if (this.#session !== session) return;
    // The time limit matters because later calls wait for this renewal.
    await this.#extend({ signal: AbortSignal.timeout(this.#timeoutMs) }).catch(() => undefined);
    // The renewal failed. It is retried well before the token expires.
    if (this.#session !== session || hasExpired(session)) return;
    const leftMs = session.expiresAtMs - performance.now();
    const retryMs = Math.max(leftMs / 3, session.leaseMs * shortestRetryShare);
    this.#setSession({ ...session, actAtMs: performance.now() + retryMs });
  }
}

/**
 * Returns the remaining seconds of a lease that ends, at least {@link shortestLeaseS}. In the last second of such a lease,
 * Vault returns 0, as for a lease without end.
 */
function leaseLeftS(seconds: unknown): number {
  return Math.max(Number(seconds), shortestLeaseS);
}

function hasExpired({ expiresAtMs }: Session): boolean {
  return performance.now() >= expiresAtMs;
}
