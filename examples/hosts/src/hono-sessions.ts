// hono-sessions: sessions that are encrypted at rest.
import { KeywardError, type KeywardKeyv } from "@keyward/core";
import { Hono, type MiddlewareHandler } from "hono";
import { type Session, type SessionData, type Store, sessionMiddleware } from "hono-sessions";

interface Content {
  readonly user: string;
}

/** Middleware that stores sessions in a Keyv that `createKeyv` made. Sessions end when they were not used for `lifetimeMs`. */
function encryptedSessions(sessions: KeywardKeyv, cookieSecret: string, lifetimeMs: number): MiddlewareHandler {
  const { touch } = sessions.encryptedStore;
  if (touch === undefined) throw new TypeError("Pass createKeyv a store with `replace`, such as RedisStore");

  // hono-sessions takes an error of `getSessionById` for a missing session, and creates another session. So each request has
  // a store of its own, which refuses to create the session after such an error.
  const storeOfRequest = (): Store => {
    let failure: unknown;
    return {
      async getSessionById(id = "") {
        try {
          const session = await sessions.get<SessionData>(id);
          // `touch` keeps what other requests have written meanwhile.
          if (session !== undefined) await touch(id, Date.now() + lifetimeMs);
          // The expiry of the record is what counts.
          return session && { ...session, _expire: null };
        } catch (error) {
          failure = error;
          throw error;
        }
      },
      async createSession(id, session) {
        if (failure !== undefined) throw failure;
        await sessions.set(id, session, lifetimeMs);
      },
      async persistSessionData(id, session) {
        await sessions.set(id, session, lifetimeMs);
      },
      async deleteSession(id) {
        await sessions.delete(id);
      },
    };
  };

  return (context, next) =>
    sessionMiddleware({
      store: storeOfRequest(),
      encryptionKey: cookieSecret,
      expireAfterSeconds: lifetimeMs / 1000,
      autoExtendExpiration: false, // true writes the whole session after each request, and undoes concurrent writes
      cookieOptions: { path: "/", httpOnly: true, sameSite: "Lax", maxAge: lifetimeMs / 1000 },
    })(context, next);
}

/** An application whose sessions end when they were not used for `lifetimeMs`. */
export function honoApplication(sessions: KeywardKeyv, cookieSecret: string, lifetimeMs = 30 * 60_000) {
  const application = new Hono<{ Variables: { session: Session<Content> } }>();
  application.use(encryptedSessions(sessions, cookieSecret, lifetimeMs));
  application.post("/login/:user", (context) => {
    context.get("session").set("user", context.req.param("user"));
    return context.json({ user: context.req.param("user") });
  });
  application.get("/me", (context) => context.json({ user: context.get("session").get("user") }));
  application.post("/logout", (context) => {
    context.get("session").deleteSession();
    return context.json({ user: null });
  });
  // A session that cannot be decrypted ends here. It is not a request without a session.
  application.onError((error, context) => {
    if (!(error instanceof KeywardError)) throw error;
    return context.json({ code: error.code }, 500);
  });
  return application;
}
