import { execFile } from "node:child_process";
import { type EventEmitter, once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import KeyvRedis6 from "@keyv/redis";
import { type KeyvRedisStore, keyvRedis, type RedisSource, RedisStore } from "@keyward/store-redis";
import { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import {
  describeWithRedis,
  findRedisServers,
  type RedisCluster,
  type RedisNode,
  startCluster,
  startRedis,
  startTlsRedis,
} from "../../../test/servers/redis.ts";
import { expectRefusal } from "../../../test/store/refusals.ts";
import { expectNoSecrets, marker } from "../../../test/store/secrets.ts";
import { KeyvRedis5, KeyvValkey } from "./keyv-5-adapters.ts";

const servers = await findRedisServers();
const run = promisify(execFile);
const timeoutMs = 1_000;

type Open = (url: string) => RedisStore | KeyvRedisStore;

const overIoredis: Record<string, Open> = {
  RedisStore: (url) => new RedisStore(url, { timeoutMs }),
  "keyvRedis over @keyv/valkey 1": (url) => keyvRedis(KeyvValkey(url, { useRedisSets: false }), { timeoutMs }),
};
const overNodeRedis: Record<string, Open> = {
  "keyvRedis over @keyv/redis 5": (url) => keyvRedis(KeyvRedis5(url), { timeoutMs }),
  "keyvRedis over @keyv/redis 6": (url) => keyvRedis(new KeyvRedis6(url), { timeoutMs }),
};
const stores = { ...overIoredis, ...overNodeRedis };

describeWithRedis(servers, "a server that cannot be used", () => {
  let plain: RedisNode;
  let secured: RedisNode;
  let web: Server;
  let webPort: number;
  beforeAll(async () => {
    [plain, secured] = await Promise.all([startRedis(servers), startTlsRedis(servers)]);
    await plain.command("ACL", "SETUSER", "someone", "on", ">right", "+@all", "~*");
    web = createServer((_, response) => response.end("no Redis"));
    web.listen(0, "127.0.0.1");
    await once(web, "listening");
    const address = web.address();
    if (address === null || typeof address === "string") throw new Error("There is no port");
    webPort = address.port;
  });
  afterAll(async () => {
    web.closeAllConnections();
    web.close();
    await Promise.all([plain.stop(), secured.stop()]);
  });

  const failures: Record<string, { url: () => string; message: string; stores?: Record<string, Open> }> = {
    "refuses the connection": { url: () => "redis://127.0.0.1:1", message: "Redis refuses the connection" },
    "has an unknown host name": {
      url: () => "redis://nowhere.invalid",
      message: "Redis has an unknown host name",
    },
    "has another password": {
      url: () => `redis://someone:wrong@127.0.0.1:${plain.port}`,
      message: "Redis refuses the login",
    },
    "requires TLS": {
      url: () => `redis://127.0.0.1:${secured.port}`,
      message: "Redis closes connections before they are ready",
    },
    "does not use TLS": {
      url: () => `rediss://127.0.0.1:${plain.port}`,
      message: "Redis does not complete a connection in time",
      stores: { RedisStore: (url) => new RedisStore(url, { timeoutMs }) },
    },
    "has a certificate that is not trusted": {
      url: () => secured.url,
      message: "Redis has a certificate that this process does not trust",
    },
    "is not a Redis server": {
      url: () => `redis://127.0.0.1:${webPort}`,
      message: "The server does not use the protocol of Redis",
    },
    "has no database with that number": {
      url: () => `${plain.url}/99`,
      message: "Redis has no database with this number",
    },
  };

  it("a call to a server that cannot be used rejects with the reason, with every client library", async () => {
    // All at once, because each call waits for its timeout.
    const reported = Object.entries(failures).flatMap(([name, { url, message, stores: tested = stores }]) =>
      Object.entries(tested).map(async ([client, open]) => {
        const store = open(url());
        const refused = () => store.set("key", "value").catch((caught: unknown) => caught);
        // On a busy machine a call may time out before the reason is known.
        await expect
          .poll(refused, { timeout: 30_000, message: `a server that ${name}, ${client}` })
          .toMatchObject({ code: "STORE_UNAVAILABLE", message });
        await store.disconnect().catch(() => undefined);
      }),
    );
    await Promise.all(reported);
  });

  it("a store throws no uncaught exception if a socket emits a second error, even a socket of a later attempt to connect", async () => {
    const client = new Redis(secured.url, { retryStrategy: () => 1, lazyConnect: true });
    client.on("error", () => undefined);
    onTestFinished(() => client.disconnect());
    const store = new RedisStore(client, { timeoutMs });
    const sockets = new Set<EventEmitter>();
    client.on("connecting", () => setImmediate(() => sockets.add(Reflect.get(client, "stream"))));
    const refused = () => store.set("key", "value").catch(() => undefined);
    await expect.poll(async () => refused().then(() => sockets.size), { timeout: 30_000 }).toBeGreaterThan(2);
    for (const socket of sockets) expect(() => socket.emit("error", new Error("the second error"))).not.toThrow();
  });

  it("a store throws no uncaught exception if it disconnects during a TLS handshake", async () => {
    const uncaught: unknown[] = [];
    const others = process.listeners("uncaughtException");
    const note = (error: unknown) => uncaught.push(error);
    process.removeAllListeners("uncaughtException");
    process.on("uncaughtException", note);
    onTestFinished(() => {
      process.off("uncaughtException", note);
      for (const other of others) process.on("uncaughtException", other);
    });
    for (let turn = 0; turn < 60; turn++) {
      const store = new RedisStore(secured.url, { timeoutMs: 100 });
      const refused = expectRefusal(store.set("key", "value"), "STORE_UNAVAILABLE");
      await sleep(turn % 12);
      await store.disconnect();
      await refused;
    }
    expect(uncaught).toEqual([]);
  });

  it("a store whose selected database does not exist writes nothing into database 0", async () => {
    await plain.command("FLUSHALL");
    for (const open of Object.values(overIoredis)) {
      const store = open(`${plain.url}/99`);
      onTestFinished(() => store.disconnect());
      await expectRefusal(store.set("key", "value"), "STORE_UNAVAILABLE");
      await expectRefusal(store.scan(), "STORE_UNAVAILABLE");
    }
    expect(await plain.command("DBSIZE")).toBe(0);
  });
});

describe("a URL whose password is not percent-encoded", () => {
  const urls = [
    `redis://:${marker}/x@127.0.0.1:6379`,
    `redis://:${marker}#x@127.0.0.1:6379`,
    `redis://:${marker}?x@127.0.0.1:6379`,
    `redis://:${marker}%zz@127.0.0.1:6379`,
    // URL accepts the next ones, because the password begins like a port.
    `redis://user:12/${marker}@127.0.0.1:6379`,
    `redis://user:12#${marker}@127.0.0.1:6379`,
    `redis://user:12?${marker}@127.0.0.1:6379`,
    `user:12/${marker}@127.0.0.1:6379`,
    `redis+tls://:${marker}@127.0.0.1:6379`,
    "",
  ];

  it.each(urls)("is refused with an error that contains no part of the URL: %s", async (url) => {
    await expectRefusal(() => new RedisStore(url), "VALUE_INVALID");
    await expectRefusal(() => new RedisStore({ nodes: [url] }), "VALUE_INVALID");
    if (URL.canParse(url)) await expectRefusal(() => new RedisStore(new URL(url)), "VALUE_INVALID");
  });
});

describe("a password in options that ioredis refuses", () => {
  it("does not appear in the error that the constructor of RedisStore throws", async () => {
    await expectRefusal(() => new RedisStore({ password: marker, name: marker, sentinels: [] }), "VALUE_INVALID");
  });
});

describeWithRedis(servers, "a password", () => {
  const password = `${marker}/#?@%:ü`;
  let node: RedisNode;
  let cluster: RedisCluster;
  beforeAll(async () => {
    [node, cluster] = await Promise.all([startRedis(servers), startCluster(servers)]);
    for (const each of [node, ...cluster.nodes]) {
      await each.command("ACL", "SETUSER", "someone", "on", `>${password}`, "+@all", "~*");
    }
  });
  afterAll(async () => {
    await Promise.all([node.stop(), cluster.stop()]);
  });

  function urlOf(port: number): string {
    return `redis://someone:${encodeURIComponent(password)}@127.0.0.1:${port}`;
  }

  it("a password may have any characters if it is percent-encoded, whether the URL is a string or a URL object", async () => {
    for (const source of [urlOf(node.port), new URL(urlOf(node.port))]) {
      const store = new RedisStore(source);
      onTestFinished(() => store.disconnect());
      expect(await store.set("key", "value")).toBe(true);
    }
  });

  it("a password does not appear when a store is inspected, no matter how the store received the password", async () => {
    const sources: RedisSource[] = [
      urlOf(node.port),
      new URL(urlOf(node.port)),
      { host: "127.0.0.1", port: node.port, username: "someone", password },
      { nodes: [urlOf(cluster.nodes[0]?.port ?? 0)], options: { redisOptions: { username: "someone", password } } },
    ];
    const shown = [
      ...sources.map((source) => new RedisStore(source)),
      ...Object.values(stores).map((open) => open(urlOf(node.port))),
    ];
    for (const store of shown) {
      onTestFinished(() => store.disconnect());
      await store.set("key", "value");
      expectNoSecrets(store);
      if (store instanceof RedisStore) expectNoSecrets(store.namespaced("view"));
    }
  });

  it("a password is not printed by ioredis if DEBUG is set, and neither are keys and values of records", async () => {
    const directory = mkdtempSync(join(import.meta.dirname, "debug-"));
    onTestFinished(() => rmSync(directory, { recursive: true }));
    const program = join(directory, "program.ts");
    writeFileSync(
      program,
      `import { RedisStore } from "@keyward/store-redis";
       const [source, key, value] = JSON.parse(process.argv[2] ?? "");
       const store = new RedisStore(source);
       await store.set(key, value);
       await store.disconnect();`,
    );
    const logins = { username: "someone", password };
    const sources = [
      urlOf(node.port),
      { host: "127.0.0.1", port: node.port, ...logins },
      { host: "127.0.0.1", port: node.port, ...logins, protocol: 2 },
      { nodes: cluster.startupNodes, options: { redisOptions: logins } },
    ];
    for (const source of sources) {
      const given = JSON.stringify([source, `${marker} key`, `${marker} value`]);
      const { stderr } = await run(process.execPath, [program, given], { env: { ...process.env, DEBUG: "*" } });
      expect(stderr).toMatch(/write command\[.*set\(/i);
      expect(stderr).not.toContain(marker);
    }
  });
});
