// express-session: sessions that are encrypted at rest.
import { callbackify } from "node:util";
import { type EncryptedStore, KeywardError, type KeywardKeyv } from "@keyward/core";
import express, { type ErrorRequestHandler, type Express } from "express";
import session, { type SessionData, Store } from "express-session";

declare module "express-session" {
  interface SessionData {
    user: string;
  }
}

/** A session store over a Keyv that `createKeyv` made. */
class EncryptedSessions extends Store {
  readonly #sessions: KeywardKeyv;
  readonly #lifetimeMs: number;
  readonly #touch: NonNullable<EncryptedStore["touch"]>;

  constructor(sessions: KeywardKeyv, lifetimeMs: number) {
    super();
    const { touch } = sessions.encryptedStore;
    if (touch === undefined) throw new TypeError("Pass createKeyv a store with `replace`, such as RedisStore");
    this.#sessions = sessions;
    this.#lifetimeMs = lifetimeMs;
    this.#touch = touch;
  }

  get(id: string, callback: (error: unknown, session?: SessionData | null) => void): void {
    callbackify(() => this.#sessions.get<SessionData>(id))(callback);
  }

  set(id: string, session: SessionData, callback: (error?: unknown) => void = () => {}): void {
    callbackify(() => this.#sessions.set(id, session, this.#lifetimeMs))(callback);
  }

  // express-session calls `touch` after a request that has not changed the session. `touch` keeps what other requests have
  // written meanwhile, and does not bring back a session that another request has destroyed.
  override touch(id: string, _session: SessionData, callback: (error?: unknown) => void = () => {}): void {
    callbackify(() => this.#touch(id, Date.now() + this.#lifetimeMs))(callback);
  }

  destroy(id: string, callback: (error?: unknown) => void = () => {}): void {
    callbackify(() => this.#sessions.delete(id))(callback);
  }
}

// A session that cannot be decrypted ends here. It is not a request without a session.
const reportError: ErrorRequestHandler = (error, _request, response, next) => {
  if (response.headersSent || !(error instanceof KeywardError)) next(error);
  else response.status(500).json({ code: error.code });
};

/** An application whose sessions end when they were not used for `lifetimeMs`. */
export function expressApplication(sessions: KeywardKeyv, cookieSecret: string, lifetimeMs = 30 * 60_000): Express {
  const application = express();
  application.use(
    session({
      store: new EncryptedSessions(sessions, lifetimeMs),
      secret: cookieSecret,
      resave: false, // without `resave: false`, each request writes the whole session, and undoes concurrent writes
      saveUninitialized: false,
      rolling: true,
      cookie: { maxAge: lifetimeMs, secure: "auto", sameSite: "lax" },
    }),
  );
  application.post("/login/:user", (request, response) => {
    request.session.user = request.params.user;
    response.json({ user: request.session.user });
  });
  application.get("/me", (request, response) => {
    response.json({ user: request.session.user ?? null });
  });
  application.post("/logout", (request, response, next) => {
    request.session.destroy((error) => (error ? next(error) : response.json({ user: null })));
  });
  application.use(reportError);
  return application;
}
