import { createHash } from "node:crypto";
import { KeywardError, RetryPause, singleFlight } from "@keyward/core";
import { type LoginRequest, readCredentials, type VaultAuth } from "./vault-auth.ts";
import { fieldOf, type VaultClient, VaultFailure } from "./vault-client.ts";

/** A token in use. Times are of `performance.now()`. */
interface Session {
  readonly token: string;
  /** Whether it came from a login, and another can be had in the same way. */
  readonly loggedIn: boolean;
  readonly renewable: boolean;
  readonly leaseMs: number;
  /** When it ends; infinite where it does not, or nobody knows. */
  readonly endsAtMs: number;
  /** When something should be done about that. */
  readonly actAtMs: number;
}

// A token is renewed, or another one had, when this much of its lease is over.
const leaseShare = 2 / 3;
// A token whose end a renewal moved by less than this much of its lease has come to the end of its longest life.
const prolongedShare = 1 / 10;
const shortestLeaseS = 0.5;
// A renewal that fails is tried again when a third of what is left is over, but after no less than this much of the lease.
const shortestRetryShare = 1 / 20;
// Refused credentials are tried again after 10 s, a minute, 6 minutes, and then every 16 minutes, or up to a fifth later.
// By default, Vault locks a name out at the fifth failure, and forgets those before after 15 minutes without another.
const refusalPauses = { firstMs: 10_000, factor: 6, longestMs: 16 * 60_000 };
const longestTimerMs = 2 ** 31 - 1;

/**
 * The token of a process: had by a login, renewed before it ends, had anew when it cannot be renewed or was revoked. The
 * timer that renews it keeps neither the process nor the session alive.
 */
export class VaultSession {
  readonly #client: VaultClient;
  readonly #auth: VaultAuth;
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #timeoutMs: number;
  readonly #begin = singleFlight(async ({ signal }) => this.#session ?? (await this.#login(signal)));
  readonly #prolong = singleFlight(({ signal }) => this.#renewOrLogin(signal));
  /** Credentials that Vault refused, by their hash, and what it said. */
  #refused: { readonly credentials: string; readonly failure: VaultFailure } | undefined;
  readonly #refusalPause = new RetryPause(refusalPauses);
  #session: Session | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** @param timeoutMs For how many milliseconds it is tried to renew a token that nobody waits for. */
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
   * A token that has not ended.
   *
   * @throws KeywardError or VaultFailure why there is none.
   */
  async token(signal: AbortSignal): Promise<string> {
    const session = this.#session;
    if (session === undefined) return (await this.#begin({ signal })).token;
    if (performance.now() < session.actAtMs) return session.token;
    return (await this.#prolong({ signal })).token;
  }

  /**
   * Another token than one that Vault refused; undefined where there is none.
   *
   * @throws KeywardError or VaultFailure why a login failed.
   */
  async replace(refused: string, signal: AbortSignal): Promise<string | undefined> {
    if (this.#session?.token === refused) this.#session = undefined;
    const { token } = this.#session ?? (await this.#begin({ signal }));
    return token === refused ? undefined : token;
  }

  async #renewOrLogin(signal: AbortSignal): Promise<Session> {
    const session = this.#session;
    if (session === undefined) return await this.#login(signal);
    // Somebody else was here first.
    if (performance.now() < session.actAtMs) return session;
    try {
      return await this.#successor(session, signal);
    } catch (error) {
      // The token lives, so it is used; what failed is tried again with the next use.
      if (hasEnded(session)) throw error;
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
    } else if (!session.loggedIn && !hasEnded(session)) {
      return session;
    }
    return await this.#login(signal);
  }

  async #renew(session: Session, signal: AbortSignal): Promise<Session> {
    const { token, loggedIn } = session;
    const request = { method: "POST", path: "auth/token/renew-self", body: {}, token, signal } as const;
    const auth = fieldOf(await this.#client.request(request), "auth");
    const seconds = leaseLeftS(fieldOf(auth, "lease_duration"));
    const renewed = this.#keep(token, { lease_duration: seconds, renewable: fieldOf(auth, "renewable") }, loggedIn);
    // Then it was given what is left; from now on it is not renewed, but replaced.
    if (renewed.endsAtMs - session.endsAtMs > session.leaseMs * prolongedShare) return renewed;
    return this.#use({ ...renewed, renewable: false });
  }

  async #login(signal: AbortSignal): Promise<Session> {
    const { token, login } = await readCredentials(this.#auth, this.#env);
    if (login === undefined) return await this.#adopt(token, signal);
    const auth = fieldOf(await this.#post(login, signal), "auth");
    const given = fieldOf(auth, "client_token");
    if (typeof given === "string" && given !== "") return this.#keep(given, auth, true);
    throw new KeywardError("PROVIDER_UNAVAILABLE", "Vault let this process in without giving it a token", {
      hint: "Does the method need a second factor? Use one that a program can log in with.",
    });
  }

  /** Asks with credentials, unless these were refused a short while ago: too many failures lock out everybody. */
  async #post({ path, body, locksOut }: LoginRequest, signal: AbortSignal): Promise<unknown> {
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

  /** A token that was not had by a login: Vault tells how long it lives, if the token may ask. */
  async #adopt(token: string, signal: AbortSignal): Promise<Session> {
    try {
      const answer = await this.#client.request({ method: "GET", path: "auth/token/lookup-self", token, signal });
      const data = fieldOf(answer, "data");
      const seconds = typeof fieldOf(data, "expire_time") === "string" ? leaseLeftS(fieldOf(data, "ttl")) : 0;
      const lease = { lease_duration: seconds, renewable: fieldOf(data, "renewable") };
      return this.#keep(token, lease, false);
    } catch (error) {
      if (!(error instanceof VaultFailure) || error.status !== 403) throw error;
      // Refused the question alone, or everything: what it is used for will show.
      return this.#keep(token, {}, false);
    }
  }

  #keep(token: string, lease: unknown, loggedIn: boolean): Session {
    const seconds = fieldOf(lease, "lease_duration");
    const leaseMs = typeof seconds === "number" && seconds > 0 ? seconds * 1_000 : Number.POSITIVE_INFINITY;
    const nowMs = performance.now();
    return this.#use({
      token,
      loggedIn,
      renewable: fieldOf(lease, "renewable") === true,
      leaseMs,
      endsAtMs: nowMs + leaseMs,
      actAtMs: nowMs + leaseMs * leaseShare,
    });
  }

  #use(session: Session): Session {
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

  /** What fails here fails again, and is told, with the next use. */
  async #renewInTime(session: Session): Promise<void> {
    if (this.#session !== session) return;
    // Credentials may be long in coming, and all who ask later wait for this.
    await this.#prolong({ signal: AbortSignal.timeout(this.#timeoutMs) }).catch(() => undefined);
    // It was not answered: again, well before the end.
    if (this.#session !== session || hasEnded(session)) return;
    const leftMs = session.endsAtMs - performance.now();
    const retryMs = Math.max(leftMs / 3, session.leaseMs * shortestRetryShare);
    this.#use({ ...session, actAtMs: performance.now() + retryMs });
  }
}

/** What is left of a lease that ends: Vault says 0 of the last second, and 0 of a lease that never ends. */
function leaseLeftS(seconds: unknown): number {
  return Math.max(Number(seconds), shortestLeaseS);
}

function hasEnded({ endsAtMs }: Session): boolean {
  return performance.now() >= endsAtMs;
}
