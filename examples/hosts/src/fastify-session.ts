// @fastify/session: sessions that are encrypted at rest.
import { callbackify } from "node:util";
import fastifyCookie from "@fastify/cookie";
import fastifySession from "@fastify/session";
import type { KeywardKeyv } from "@keyward/core";
import fastify, { type FastifyInstance, type Session } from "fastify";

declare module "fastify" {
  interface Session {
    user?: string;
  }
}

/** A session store over a Keyv that `createKeyv` made. */
class EncryptedSessions implements fastifySession.SessionStore {
  readonly #sessions: KeywardKeyv;
  readonly #lifetimeMs: number;

  constructor(sessions: KeywardKeyv, lifetimeMs: number) {
    this.#sessions = sessions;
    this.#lifetimeMs = lifetimeMs;
  }

  get(id: string, callback: (error: unknown, session?: Session) => void): void {
    callbackify(async () => {
      const session = await this.#sessions.get<Session>(id);
      // The stored cookie has the expiry of the last write. The expiry of the record is what counts.
      return session && { ...session, cookie: { ...session.cookie, expires: null } };
    })(callback);
  }

  set(id: string, session: Session, callback: (error?: unknown) => void): void {
    callbackify(() => this.#sessions.set(id, session, this.#lifetimeMs))(callback);
  }

  destroy(id: string, callback: (error?: unknown) => void): void {
    callbackify(() => this.#sessions.delete(id))(callback);
  }
}

/** An application whose sessions end when they were not used for `lifetimeMs`. */
export async function fastifyApplication(
  sessions: KeywardKeyv,
  cookieSecret: string,
  lifetimeMs = 30 * 60_000,
): Promise<FastifyInstance> {
  const { touch } = sessions.encryptedStore;
  if (touch === undefined) throw new TypeError("Pass createKeyv a store with `replace`, such as RedisStore");
  const application = fastify();
  const cookie = { path: "/", httpOnly: true, secure: "auto", sameSite: "lax" } as const;
  await application.register(fastifyCookie);
  await application.register(fastifySession, {
    store: new EncryptedSessions(sessions, lifetimeMs),
    secret: cookieSecret,
    cookieName: "session",
    cookie: { ...cookie, maxAge: lifetimeMs },
    saveUninitialized: false,
    rolling: false, // `rolling: true` writes the whole session after each request, and undoes concurrent writes
  });
  // The plugin has saved a session that this request changed. Any other session only gets a new expiry: `touch` keeps what
  // other requests have written meanwhile, and does not bring back a session that another request has destroyed.
  application.addHook("onSend", async ({ session }, reply) => {
    if (!session?.sessionId || session.isSaved()) return;
    const expires = Date.now() + lifetimeMs;
    if (await touch(session.sessionId, expires))
      reply.setCookie("session", session.encryptedSessionId, { ...cookie, expires: new Date(expires) });
  });
  application.post<{ Params: { user: string } }>("/login/:user", async (request) => {
    request.session.user = request.params.user;
    return { user: request.session.user };
  });
  // Fastify answers 500 with the code of the error if the session cannot be decrypted.
  application.get("/me", async (request) => ({ user: request.session.user ?? null }));
  application.post("/logout", async (request) => {
    await request.session.destroy();
    return { user: null };
  });
  return application;
}
