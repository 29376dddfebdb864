import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { inspect, promisify } from "node:util";
import { createKeyv, Keyring, KeywardError } from "@keyward/core";
import { createApiKey, createKvHandler } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import { type NamedStore, storeFrom } from "@keyward/stores-from";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { makeBareApplication } from "../../../test/bare-application.ts";
import {
  describeWithRedis,
  findRedisServers,
  type RedisNode,
  startCluster,
  startRedis,
  startSentinelGroup,
  startTlsRedis,
} from "../../../test/servers/redis.ts";

const run = promisify(execFile);
const servers = await findRedisServers();
const folder = mkdtempSync(join(tmpdir(), "keyward-stores-from-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function refusal(source: string | undefined, options?: Parameters<typeof storeFrom>[1]): Promise<KeywardError> {
  try {
    await storeFrom(source, options);
  } catch (error) {
    if (error instanceof KeywardError) return error;
    throw error;
  }
  throw new Error("The source was not refused");
}

/** Expects that a store keeps encrypted records, replaces them atomically, scans them, and has a reserved space. */
async function expectWorking(store: NamedStore): Promise<void> {
  onTestFinished(() => store.disconnect());
  const flows = createKeyv({ store, keys: Keyring.generate(), namespace: "flows" });
  await flows.set("session:42", { step: "checkout" });
  expect(await flows.get("session:42")).toEqual({ step: "checkout" });
  const view = store.namespaced("flows");
  const stored = await store.scan({});
  expect(stored.entries.map(({ namespace, key }) => ({ namespace, key }))).toEqual([
    { namespace: "flows", key: "session:42" },
  ]);
  expect(await view.has("session:42")).toBe(true);
  expect((await store.reserved().scan({})).entries.map(({ key }) => key)).toEqual(["check"]);
}

describe("storeFrom", () => {
  it("returns a store in memory for the source memory:", async () => {
    await expectWorking(await storeFrom(" memory:\n"));
  });

  it("returns a store in the SQLite file at a path that contains a question mark, a space and a percent sign", async () => {
    const path = join(folder, "what? 100%.sqlite");
    await expectWorking(await storeFrom(`sqlite:${path}`));
    expect(existsSync(path)).toBe(true);
  });

  it("returns a store over HTTP for an http: source on this machine, with the API key from the environment variable", async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry], basePath: "/kv" });
    const server = createServer(async (request, response) => {
      const hasBody = request.method !== "GET" && request.method !== "HEAD";
      const answer = await handler(
        new Request(`http://${request.headers.host}${request.url}`, {
          method: request.method ?? "GET",
          headers: Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
          ...(hasBody ? { body: Buffer.concat(await Readable.from(request).toArray()) } : {}),
        }),
      );
      response.writeHead(answer.status, Object.fromEntries(answer.headers));
      response.end(Buffer.from(await answer.arrayBuffer()));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void server.close());
    const address = server.address();
    if (typeof address !== "object" || address === null) throw new Error("The server has no port");
    const url = `http://127.0.0.1:${address.port}/kv?timeoutMs=5000&retries=1`;
    await expectWorking(await storeFrom(url, { env: { KEYWARD_KV_API_KEY: apiKey } }));
    const other = await storeFrom(`${url}&apiKeyIn=ACME_KEY`, { env: { ACME_KEY: apiKey } });
    onTestFinished(() => other.disconnect());
    expect((await other.scan({})).entries).toHaveLength(1);
  });
});

describeWithRedis(servers, "storeFrom with Redis", () => {
  let redis: RedisNode;
  beforeAll(async () => {
    redis = await startRedis(servers);
  });
  afterAll(() => redis.stop());

  it("storeFrom returns a store in the database and with the prefix that the source names", async () => {
    await redis.command("FLUSHALL");
    await expectWorking(await storeFrom(`${redis.url.replace(/\/\d*$/, "")}/3?prefix=app&timeoutMs=2000`));
    // The record and the check record.
    expect(String(await redis.command("INFO", "keyspace"))).toMatch(/^db3:keys=2,/m);
  });

  it("storeFrom returns a store over TLS for a rediss: source, with the password that is percent-encoded in the source", async () => {
    const node = await startTlsRedis(servers);
    onTestFinished(() => node.stop());
    const { password = "", tls } = node.options;
    const ca = join(folder, "ca.pem");
    writeFileSync(ca, String(tls?.ca));
    const program = `
      import { storeFrom } from "@keyward/stores-from";
      const store = await storeFrom(process.argv[1]);
      await store.set("key", "value");
      console.log(await store.get("key"));
      await store.disconnect();
    `;
    const source = `rediss://default:${encodeURIComponent(password)}@localhost:${node.port}`;
    const parameters = ["--conditions", "development", "--input-type=module", "--eval", program, source];
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: ca };
    const cwd = fileURLToPath(new URL("..", import.meta.url));
    expect((await run(process.execPath, parameters, { env, cwd })).stdout.trim()).toBe("value");
  });

  it("storeFrom returns a store on a Cluster for a source with mode=cluster, even if the first node does not answer", async () => {
    const cluster = await startCluster(servers);
    onTestFinished(() => cluster.stop());
    const [{ port: first } = { port: 0 }, { port: second } = { port: 0 }] = cluster.startupNodes;
    await expectWorking(await storeFrom(`redis://127.0.0.1:${first}?mode=cluster`));
    await expectReads(await storeFrom(`redis://127.0.0.1:1?mode=cluster&nodes=127.0.0.1:${first},127.0.0.1:${second}`));
  });

  it("storeFrom returns a store on the primary of a Sentinel group, even if the first Sentinel does not answer", async () => {
    const group = await startSentinelGroup(servers, { onDemand: true });
    onTestFinished(() => group.stop());
    const [first, second] = group.sentinels.map(({ port }) => `127.0.0.1:${port}`);
    await expectWorking(await storeFrom(`redis://${first}/0?sentinel=${group.name}`));
    await expectReads(await storeFrom(`redis://127.0.0.1:1?sentinel=${group.name}&nodes=${first},${second}`));
  });

  async function expectReads(store: NamedStore): Promise<void> {
    onTestFinished(() => store.disconnect());
    expect((await store.scan({})).entries.map(({ key }) => key)).toEqual(["session:42"]);
  }
});

describe("an invalid source", () => {
  const secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ";

  it.each([
    ["undefined", undefined],
    ["an empty text", " \n"],
    ["a path instead of a source", "/var/lib/app.sqlite"],
    ["an unknown scheme", `postgres://app:${secret}@localhost/app`],
    ["the name of an inherited property", "constructor:x"],
    ["text after memory:", "memory:sessions"],
    ["SQLite without a path", "sqlite:"],
    ["SQLite with a host", `sqlite://${secret}/app.sqlite`],
    ["Redis without a host", "redis:"],
    ["a password that is not percent-encoded", `redis://app:${secret}/x@localhost`],
    ["a database that is not a number", `redis://localhost/${secret}?mode=cluster`],
    ["an unknown parameter", "redis://localhost?db=3"],
    ["a secret instead of the name of a parameter", `redis://localhost?${secret}`],
    ["a repeated parameter", "redis://localhost?prefix=a&prefix=b"],
    ["an empty parameter", "redis://localhost?prefix="],
    ["a duration that is not a whole number", "redis://localhost?timeoutMs=1e3"],
    ["a duration out of range", "redis://localhost?timeoutMs=0"],
    ["an unknown mode", "redis://localhost?mode=sentinel"],
    ["a Cluster that is a Sentinel group too", "redis://localhost?mode=cluster&sentinel=main"],
    ["a Cluster with the number of a database", "redis://localhost/3?mode=cluster"],
    ["nodes without a Cluster", "redis://localhost?nodes=localhost:2"],
    ["nodes that are not hosts", `redis://localhost?mode=cluster&nodes=app:${secret}@localhost`],
    ["HTTP without an API key", "https://kv.example.com"],
    ["HTTP with an API key as a parameter", `https://kv.example.com?apiKey=${secret}`],
    ["HTTP with an API key instead of the name of a variable", `https://kv.example.com?apiKeyIn=${secret}`],
  ])("is refused: %s", async (name, source) => {
    const env = name.startsWith("HTTP without") ? {} : { KEYWARD_KV_API_KEY: createApiKey({ tenant: "acme" }).apiKey };
    const error = await refusal(source, { env });
    expect(error.code).toBe("VALUE_INVALID");
    expect(error.hint).not.toBe("");
    expect(inspect(error, { depth: null, showHidden: true })).not.toContain(secret);
  });

  it.each([
    ["credentials", `https://app:${secret}@kv.example.com`],
    ["plain HTTP to another machine", "http://kv.example.com"],
  ])("is refused by HttpStore: %s", async (_, source) => {
    const error = await refusal(source, { env: { KEYWARD_KV_API_KEY: createApiKey({ tenant: "acme" }).apiKey } });
    expect(error.code).toBe("STORE_INVALID");
    expect(inspect(error, { depth: null, showHidden: true })).not.toContain(secret);
  });

  it("storeFrom refuses an unknown option, even if the source is valid", async () => {
    expect((await refusal("memory:", Object.assign({ env: {} }, { keys: "x" }))).code).toBe("VALUE_INVALID");
  });
});

describe("a package that is not installed", () => {
  const application = makeBareApplication(import.meta.url, folder);
  const program = `
    const { storeFrom } = await import("./src/index.ts");
    await storeFrom(process.argv[1]).catch(({ code, message, hint }) => console.log(JSON.stringify({ code, message, hint })));
  `;

  it.each([
    ["memory:", "@keyward/store-memory"],
    ["sqlite:app.sqlite", "@keyward/store-sqlite"],
    ["redis://localhost", "@keyward/store-redis"],
    ["https://kv.example.com", "@keyward/http-kv"],
  ])("is named in the error for the source %s, with the command to install the package: %s", async (source, name) => {
    const env = { ...process.env, KEYWARD_KV_API_KEY: "key" };
    const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", program, source], {
      cwd: application,
      env,
    });
    expect(JSON.parse(stdout)).toEqual({
      code: "STORE_INVALID",
      message: `This source of records needs the package ${name}, which is not installed`,
      hint: `Run \`npm install ${name}\`.`,
    });
  });
});
