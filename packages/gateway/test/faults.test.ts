import type { ServerResponse } from "node:http";
import { DatabaseSync } from "node:sqlite";
import type { WrappableStore } from "@keyward/core";
import { serviceNamespace } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished } from "vitest";
import { answerJson, bodyOf, startInstallation, startUpstream, testValue } from "./installation.ts";

/** A store whose reads can be made to fail or to wait, like the reads of an unavailable or slow store. */
class FaultyStore {
  readonly store: WrappableStore;
  before: () => Promise<void> = async () => {};

  constructor() {
    this.store = this.#guarded(new MemoryStore());
  }

  /** Lets reads wait until `release` is called. `waiting` returns how many reads have begun since. */
  hold(): { readonly waiting: () => number; readonly release: () => void } {
    const { promise, resolve } = Promise.withResolvers<void>();
    let waiting = 0;
    this.before = () => {
      waiting++;
      return promise;
    };
    return { waiting: () => waiting, release: resolve };
  }

  #guarded(store: WrappableStore): WrappableStore {
    return new Proxy(store, {
      get: (target, property) => {
        const member: unknown = Reflect.get(target, property, target);
        if (typeof member !== "function") return member;
        return (...given: unknown[]) => {
          const run = () => member.apply(target, given);
          if (property === "namespaced") return this.#guarded(run());
          return property === "get" || property === "getMany" ? this.before().then(run) : run();
        };
      },
    });
  }
}

/** The keys of the records of the service that begin with a text, and what is stored there. */
async function recordsUnder(store: MemoryStore, prefix: string) {
  const { entries } = await store.scan();
  return entries.filter(({ namespace, key }) => namespace === serviceNamespace && key.startsWith(prefix));
}

async function startCounted(store?: WrappableStore) {
  const upstream = await startUpstream((_, response) => answerJson(response, { ok: true }));
  const installation = await startInstallation([upstream], store === undefined ? {} : { store });
  await installation.addServer({ slug: "api", url: upstream.origin });
  return { upstream, ...installation };
}

async function codeOf(calling: Promise<Response>): Promise<unknown> {
  const answer = await calling;
  const { code }: { code?: unknown } = JSON.parse(await answer.text());
  return [answer.status, code];
}

describe("while the store is unavailable", () => {
  it("a call is refused and does not reach the server, and calls work again when the store has recovered", async () => {
    const faulty = new FaultyStore();
    const { call, gateway, upstream } = await startCounted(faulty.store);
    expect((await call("/s/api/")).status).toBe(200);
    faulty.before = () => Promise.reject(new Error("connect ECONNREFUSED 10.9.8.7:6379"));
    const answer = await call("/s/api/");
    expect([answer.status, answer.headers.get("retry-after")]).toEqual([503, "5"]);
    expect(await answer.text()).not.toContain("10.9.8.7");
    expect((await fetch(`${gateway.url}/readyz`)).status).toBe(503);
    expect((await fetch(`${gateway.url}/healthz`)).status).toBe(200);
    expect(upstream.requests).toHaveLength(1);
    faulty.before = async () => {};
    await expect.poll(async () => (await call("/s/api/")).status).toBe(200);
    await expect.poll(async () => (await fetch(`${gateway.url}/readyz`)).status).toBe(200);
    for (const { headers } of upstream.requests) expect(headers.authorization).toBe(`Bearer ${testValue}`);
  });

  it("an open stream continues, and ends when its token is revoked after the store has recovered", async () => {
    const faulty = new FaultyStore();
    const upstream = await startUpstream((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: first\n\n");
    });
    const { addServer, call, admin, caller, problems } = await startInstallation([upstream], { store: faulty.store });
    await addServer({ slug: "api", url: upstream.origin });
    const answer = await call("/s/api/");
    const reader = answer.body?.getReader();
    await reader?.read();
    const [member] = (await admin.listTokens(caller)).items.filter(({ owner }) => owner === "ci");
    faulty.before = () => Promise.reject(new Error("away"));
    await expect.poll(() => problems.length, { timeout: 10_000 }).toBeGreaterThan(0);
    faulty.before = async () => {};
    await expect
      .poll(() =>
        admin.revokeToken(caller, member?.id ?? "").then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    while ((await reader?.read())?.done === false);
    expect((await call("/s/api/")).status).toBe(401);
  });

  it("a call waits until the store answers, and is forwarded once", async () => {
    const faulty = new FaultyStore();
    const { call, upstream } = await startCounted(faulty.store);
    const { waiting, release } = faulty.hold();
    const calling = call("/s/api/");
    await expect.poll(waiting).toBeGreaterThan(0);
    expect(upstream.requests).toEqual([]);
    release();
    expect((await calling).status).toBe(200);
    expect(upstream.requests).toHaveLength(1);
  });

  it("the call of a caller who disconnects is recorded, reaches no server, and does not stay open", async () => {
    const faulty = new FaultyStore();
    const { call, upstream, gateway, admin, caller } = await startCounted(faulty.store);
    const { waiting, release } = faulty.hold();
    const leaving = new AbortController();
    const calling = expect(call("/s/api/", { signal: leaving.signal })).rejects.toThrow("aborted");
    await expect.poll(waiting).toBeGreaterThan(0);
    leaving.abort();
    await calling;
    // A later request on another connection is begun when the gateway has seen that the first connection is closed.
    const before = waiting();
    const next = call("/s/api/");
    await expect.poll(waiting).toBeGreaterThan(before);
    release();
    expect((await next).status).toBe(200);
    const outcomes = async () => (await admin.listCalls(caller)).items.map(({ outcome }) => outcome).sort();
    await expect.poll(outcomes).toEqual(["answered", "left"]);
    expect(upstream.requests).toHaveLength(1);
    expect(gateway.openCalls).toBe(0);
  });
});

describe("a record that cannot be read", () => {
  it.each(["value/", "server/", "token/", "service"])(
    "makes the gateway refuse the call before it calls the server: %s",
    async (prefix) => {
      const store = new MemoryStore();
      const { call, upstream } = await startCounted(store);
      const view = store.namespaced(serviceNamespace);
      for (const { key } of await recordsUnder(store, prefix)) {
        const stored = await view.get(key);
        if (!(stored instanceof Uint8Array)) throw new TypeError(`${key} has no record`);
        const bytes = Buffer.from(stored);
        bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
        await view.set(key, bytes);
      }
      const answer = await call("/s/api/");
      expect(answer.status).toBe(503);
      expect(await answer.text()).not.toContain(testValue);
      expect(upstream.requests).toEqual([]);
    },
  );

  it("makes the gateway refuse the call before it calls the server, even if the value's record was deleted", async () => {
    const store = new MemoryStore();
    const { call, upstream } = await startCounted(store);
    const view = store.namespaced(serviceNamespace);
    for (const { key } of await recordsUnder(store, "value/")) await view.delete(key);
    expect((await call("/s/api/")).status).toBeGreaterThanOrEqual(500);
    expect(upstream.requests).toEqual([]);
  });
});

describe("while the audit cannot be written", () => {
  it("calls are refused before the server is called, and work again when the audit can be written", {
    timeout: 60_000,
  }, async () => {
    const { call, gateway, upstream, auditPath } = await startCounted();
    expect((await call("/s/api/")).status).toBe(200);
    const database = new DatabaseSync(auditPath);
    onTestFinished(() => {
      if (database.isOpen) database.close();
    });
    database.exec("BEGIN IMMEDIATE");
    // The first call waits for its entry, in vain.
    const first = call("/s/api/");
    await expect.poll(async () => (await fetch(`${gateway.url}/readyz`)).status, { timeout: 20_000 }).toBe(503);
    expect(await codeOf(first)).toEqual([503, "AUDIT_UNAVAILABLE"]);
    await expect.poll(() => codeOf(call("/s/api/")), { timeout: 30_000 }).toEqual([503, "AUDIT_UNAVAILABLE"]);
    const before = upstream.requests.length;
    for (let count = 0; count < 5; count++) {
      expect(await codeOf(call("/s/api/"))).toEqual([503, "AUDIT_UNAVAILABLE"]);
    }
    expect(upstream.requests).toHaveLength(before);
    database.close();
    await expect.poll(async () => (await call("/s/api/")).status, { timeout: 20_000 }).toBe(200);
    await expect.poll(async () => (await fetch(`${gateway.url}/readyz`)).status, { timeout: 20_000 }).toBe(200);
  });
});

describe("a gateway that is closing", () => {
  /** Starts a server whose answers end when `finish` is called. */
  async function startHeld() {
    const held: ServerResponse[] = [];
    const upstream = await startUpstream((request, response) => {
      bodyOf(request).then(
        () => {
          held.push(response);
          if (request.url === "/json") return;
          response.writeHead(200, { "content-type": "text/event-stream" });
          response.write(request.url === "/within" ? "event: message\ndata: fir" : "data: first\n\n");
        },
        () => response.destroy(),
      );
    });
    const installation = await startInstallation([upstream]);
    await installation.addServer({ slug: "api", url: upstream.origin });
    return { held, ...installation };
  }

  it("answers the calls in progress, and refuses new ones", async () => {
    const { held, call, gateway } = await startHeld();
    const kept = [call("/s/api/json", { method: "POST", body: "a" }), call("/s/api/json")];
    await expect.poll(() => held.length).toBe(2);
    const closing = gateway.close();
    await expect(
      call("/s/api/json").then(
        (answer) => answer.status,
        () => 503,
      ),
    ).resolves.toBe(503);
    for (const response of held) answerJson(response, { late: true });
    for (const answer of await Promise.all(kept)) expect(await answer.json()).toEqual({ late: true });
    await closing;
  });

  it("relays the whole result of a call that a server sends as events", async () => {
    const { held, call, gateway } = await startHeld();
    const answer = await call("/s/api/tool", { method: "POST", body: "a" });
    await expect.poll(() => held.length).toBe(1);
    const closing = gateway.close();
    held[0]?.end("data: result\n\n");
    expect(await answer.text()).toBe("data: first\n\ndata: result\n\n");
    await closing;
  });

  it("ends a stream of events that was opened with GET, between two events", async () => {
    const { held, call, gateway } = await startHeld();
    const [idle, within] = await Promise.all([call("/s/api/idle"), call("/s/api/within")]);
    await expect.poll(() => held.length).toBe(2);
    const closing = gateway.close();
    for (const response of held) if (response.req.url === "/within") response.write("st\n\ndata: second");
    expect(await idle?.text()).toBe("data: first\n\n");
    expect(await within?.text()).toBe("event: message\ndata: first\n\n");
    await closing;
  });
});

describe("under load", () => {
  it("no call fails while values are set, and each call uses a value that was valid during it", {
    timeout: 60_000,
  }, async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call, admin, caller, problems } = await startInstallation([upstream], {
      limits: { callsPerSecond: 100_000, burstCalls: 100_000 },
    });
    await addServer({ slug: "api", url: upstream.origin });
    const [statuses, errors] = [new Map<number, number>(), [] as unknown[]];
    let isSetting = true;
    const calls = Array.from({ length: 8 }, async () => {
      while (isSetting) {
        await call("/s/api/").then(
          async (answer) => {
            await answer.arrayBuffer();
            statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
          },
          (error: unknown) => errors.push(error),
        );
      }
    });
    for (let count = 0; count < 40; count++) {
      const value = `another-test-value-${count}`;
      await admin.setSecret(caller, "api", { name: "API_TOKEN", value });
      const [next] = await Promise.all([upstream.requests.length, call(`/s/api/${count}`)]);
      const after = upstream.requests.slice(next).find(({ url }) => url === `/${count}`);
      expect(after?.headers.authorization).toBe(`Bearer ${value}`);
    }
    isSetting = false;
    await Promise.all(calls);
    expect({ errors, problems, statuses: [...statuses.keys()] }).toEqual({ errors: [], problems: [], statuses: [200] });
    expect(statuses.get(200)).toBeGreaterThan(100);
  });
});
