import { getRequestListener } from "@hono/node-server";
import { createKeyv, Keyring, type KeywardKeyv } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { expressApplication } from "../src/express-session.ts";
import { fastifyApplication } from "../src/fastify-session.ts";
import { honoApplication } from "../src/hono-sessions.ts";
import { Browser } from "./browser.ts";
import { listen } from "./loopback.ts";
import { evictAll, namespaces, recordsIn, storedText, tamperWith } from "./stored-records.ts";

const cookieSecret = "a secret for the cookies, at least 32 characters";
const lifetimeMs = 60_000;

/**
 * Starts an application on the loopback interface, and returns its address. `GET /slow` answers when the promise of
 * `finish` resolves.
 */
type Start = (sessions: KeywardKeyv, finish: () => Promise<void>) => Promise<string>;

const hosts: Readonly<Record<string, Start>> = {
  "express-session": async (sessions, finish) => {
    const application = expressApplication(sessions, cookieSecret, lifetimeMs);
    application.get("/slow", async (_, response) => {
      await finish();
      response.json({});
    });
    return await listen(application);
  },
  "@fastify/session": async (sessions, finish) => {
    const application = await fastifyApplication(sessions, cookieSecret, lifetimeMs);
    application.get("/slow", async () => {
      await finish();
      return {};
    });
    onTestFinished(() => application.close());
    return await application.listen({ host: "127.0.0.1", port: 0 });
  },
  "hono-sessions": async (sessions, finish) => {
    const application = honoApplication(sessions, cookieSecret, lifetimeMs);
    application.get("/slow", async (context) => {
      await finish();
      return context.json({});
    });
    return await listen(getRequestListener(application.fetch));
  },
};

const cases = Object.entries(hosts).flatMap(([host, start]) =>
  namespaces.map(([where, options]) => [`${host} ${where}`, start, options] as const),
);

afterEach(() => {
  vi.useRealTimers();
});

describe.each(cases)("the encrypted sessions of %s", (_, start, options) => {
  async function open() {
    const store = new MemoryStore();
    const slow = { entered: Promise.withResolvers<void>(), finish: Promise.withResolvers<void>() };
    const finish = () => {
      slow.entered.resolve();
      return slow.finish.promise;
    };
    const origin = await start(createKeyv({ store, keys: Keyring.generate(), ...options }), finish);
    const browser = new Browser(origin);
    return { store, slow, browser };
  }

  it("last across requests, and leave no plaintext in the store", async () => {
    const { store, browser } = await open();
    expect(await browser.get("/me")).toMatchObject({ status: 200, body: { user: null } });
    expect(await browser.post("/login/ada-lovelace")).toMatchObject({ status: 200 });
    expect(await browser.get("/me")).toMatchObject({ status: 200, body: { user: "ada-lovelace" } });
    const records = await recordsIn(store);
    expect(records.map(({ namespace }) => namespace)).toContain(options.namespace ?? "");
    expect(new Set(records.map(({ namespace }) => namespace)).size).toBe(1);
    expect(await storedText(store)).not.toMatch(/ada-lovelace|user|cookie|_data|expires/);
    await browser.post("/logout");
    expect(await browser.get("/me")).toMatchObject({ status: 200, body: { user: null } });
  });

  it("cause responses with status 500 and keep their record if it was tampered with, and count as logged out if it is missing", async () => {
    const { store, browser } = await open();
    await browser.post("/login/ada");
    await tamperWith(store);
    const tampered = await storedText(store);
    for (const answer of [await browser.get("/me"), await browser.post("/login/eve"), await browser.get("/me")])
      expect(answer).toMatchObject({ status: 500, body: { code: "RECORD_TAMPERED" } });
    expect(await storedText(store)).toBe(tampered);
    await evictAll(store);
    expect(await browser.get("/me")).toMatchObject({ status: 200, body: { user: null } });
  });

  it("have their expiry extended by each request, and end if they are not used", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const { browser } = await open();
    await browser.post("/login/ada");
    for (const _ of [1, 2, 3]) {
      vi.setSystemTime(Date.now() + lifetimeMs * 0.75);
      const { body, cookieExpires } = await browser.get("/me");
      expect(body).toEqual({ user: "ada" });
      // An expiry in a cookie has no milliseconds.
      expect(cookieExpires).toBeGreaterThan(Date.now() + lifetimeMs - 1100);
    }
    vi.setSystemTime(Date.now() + lifetimeMs * 1.25);
    expect(await browser.get("/me")).toMatchObject({ status: 200, body: { user: null } });
  });

  it("keep the write of one request if a concurrent request only reads the session", async () => {
    const { slow, browser } = await open();
    await browser.post("/login/ada");
    const reading = browser.tab().get("/slow");
    await slow.entered.promise;
    await browser.post("/login/grace");
    slow.finish.resolve();
    expect(await reading).toMatchObject({ status: 200 });
    expect(await browser.get("/me")).toMatchObject({ body: { user: "grace" } });
  });

  it("do not come back if they end while a request reads them", async () => {
    const { slow, browser } = await open();
    await browser.post("/login/ada");
    const tab = browser.tab();
    const reading = tab.get("/slow");
    await slow.entered.promise;
    await browser.post("/logout");
    slow.finish.resolve();
    expect(await reading).toMatchObject({ status: 200 });
    expect(await tab.get("/me")).toMatchObject({ status: 200, body: { user: null } });
  });
});

it.each(Object.entries(hosts))(
  "%s refuses a store without the method replace, because it cannot extend a session",
  async (_, start) => {
    const records = new Map<string, unknown>();
    const store = {
      get: async (key: string) => records.get(key),
      set: async (key: string, value: unknown) => records.set(key, value),
      delete: async (key: string) => records.delete(key),
      clear: async () => records.clear(),
    };
    const sessions = createKeyv({ store, keys: Keyring.generate() });
    await expect(start(sessions, async () => {})).rejects.toThrow("a store with `replace`");
  },
);
