import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv, EncryptedStore, Keyring, reencrypt } from "@keyward/core";
import { HttpStore } from "@keyward/http-kv";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { makeBareApplication } from "../../../test/bare-application.ts";
import { sourceOfCommand } from "../../../test/command-files.ts";
import { run, type ServerProcess, serve, serveIn } from "../../../test/servers/keyward-kv.ts";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";
import { keyward, startKeyward } from "./keyward-process.ts";

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "keyward-kv-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Allows values that are larger than the buffers of a connection. */
const large = ["--max-value-bytes", "8000000"];

async function start(...parameters: string[]): Promise<ServerProcess> {
  const server = await serve(...parameters);
  onTestFinished(async () => {
    await server.stop();
  });
  return server;
}

/** Opens a connection for raw requests. `received` returns the answers so far. */
async function rawConnection(
  url: string,
): Promise<{ socket: Socket; received: () => string; closed: Promise<unknown> }> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const chunks: Buffer[] = [];
  socket.on("data", (chunk) => chunks.push(chunk));
  socket.on("error", () => undefined);
  const closed = once(socket, "close");
  onTestFinished(() => {
    socket.destroy();
  });
  await once(socket, "connect");
  return { socket, received: () => Buffer.concat(chunks).toString("latin1"), closed };
}

describe("keyward-kv serve", () => {
  it("accepts no further request after SIGTERM, finishes the request in progress, and exits with code 0", async () => {
    const at = folder();
    const tenants = join(at, "tenants.json");
    const file = join(at, "kv.sqlite");
    const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
    const server = await start("--tenants", tenants, "--store", `sqlite:${file}`);
    const { socket, received, closed } = await rawConnection(server.url);
    const idle = await rawConnection(server.url);
    const head = `PUT /key HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\ncontent-length: 10\r\n\r\n`;
    // An answer to the first request shows that the second, sent with it, has arrived too.
    socket.write(`GET /key HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\n\r\n${head}01234`);
    await vi.waitFor(() => expect(received()).toContain("404"), 5_000);

    server.process.kill("SIGTERM");
    await idle.closed;
    await vi.waitFor(async () => expect(await connects(server.url)).toBe(false), 5_000);
    expect(server.process.exitCode).toBeNull();
    socket.write("56789");
    await vi.waitFor(() => expect(received()).toContain("200"), 5_000);
    await closed;
    expect(await server.stop()).toBe(0);

    const again = await start("--tenants", tenants, "--store", `sqlite:${file}`);
    expect(await new HttpStore({ url: again.url, apiKey }).get("key")).toBe("0123456789");
  });

  it("keeps running after the program that reads its log has exited", async () => {
    const server = await start("--tenants", join(folder(), "tenants.json"), "--store", "memory:");
    server.process.stderr?.destroy();
    for (let request = 0; request < 5; request++) expect((await fetch(`${server.url}/health`)).status).toBe(200);
    expect(await server.stop()).toBe(0);
  });

  it("finishes sending an answer after SIGTERM, and then closes the connection", async () => {
    const tenants = join(folder(), "tenants.json");
    const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
    const server = await start("--tenants", tenants, "--store", "memory:", "--drain-ms", "600000", ...large);
    const value = randomBytes(8_000_000);
    await new HttpStore({ url: server.url, apiKey }).set("large", value);
    const { socket, received, closed } = await rawConnection(server.url);
    socket.once("data", () => socket.pause());
    socket.write(`GET /large HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\n\r\n`);
    await vi.waitFor(() => expect(received()).toContain("200"), 5_000);
    server.process.kill("SIGTERM");
    await vi.waitFor(async () => expect(await connects(server.url)).toBe(false), 5_000);
    socket.resume();
    await closed;
    expect(Buffer.from(received(), "latin1").subarray(-value.length).equals(value)).toBe(true);
    expect(await server.stop()).toBe(0);
  });

  it("waits for the request in progress after SIGTERM, but at most for --drain-ms", async () => {
    const tenants = join(folder(), "tenants.json");
    const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
    const server = await start("--tenants", tenants, "--store", "memory:", "--drain-ms", "100");
    const { socket, closed } = await rawConnection(server.url);
    socket.write(`PUT /key HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\ncontent-length: 10\r\n\r\n0`);
    await vi.waitFor(
      async () => expect(await new HttpStore({ url: server.url, apiKey }).has("key")).toBe(false),
      20_000,
    );
    server.process.kill("SIGTERM");
    await closed;
    expect(await server.stop()).toBe(0);
  });

  it("closes the connection of a client that sends its headers slowly", async () => {
    const tenants = join(folder(), "tenants.json");
    const timeouts = ["--body-timeout-ms", "600000", "--idle-timeout-ms", "600000"];
    const server = await start("--tenants", tenants, "--store", "memory:", "--headers-timeout-ms", "200", ...timeouts);
    const { socket, received, closed } = await rawConnection(server.url);
    socket.write("GET /key HTTP/1.1\r\nhost: kv\r\n");
    await closed;
    expect(received()).toContain("408");
  });

  it("closes the connection of a client that sends its body or reads an answer slowly", async () => {
    const at = folder();
    const [tenants, file] = [join(at, "tenants.json"), join(at, "kv.sqlite")];
    const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
    const times = [
      "--headers-timeout-ms",
      "200",
      "--body-timeout-ms",
      "200",
      "--idle-timeout-ms",
      "600",
      "--drain-ms",
      "600000",
    ];
    // Written through a server with longer timeouts, since a large body is slow to arrive on a busy machine.
    const patient = await start("--tenants", tenants, "--store", `sqlite:${file}`, ...large);
    await new HttpStore({ url: patient.url, apiKey }).set("large", randomBytes(8_000_000));
    expect(await patient.stop()).toBe(0);
    const server = await start("--tenants", tenants, "--store", `sqlite:${file}`, ...times);
    const store = new HttpStore({ url: server.url, apiKey });

    const [body, reading] = await Promise.all([rawConnection(server.url), rawConnection(server.url)]);
    body.socket.write(
      `PUT /key HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\ncontent-length: 10\r\n\r\n0`,
    );
    reading.socket.pause();
    reading.socket.write(`GET /large HTTP/1.1\r\nhost: kv\r\nauthorization: Bearer ${apiKey}\r\n\r\n`);
    await body.closed;
    expect(body.received()).toContain("408");
    expect(await store.has("large")).toBe(true);
    // The answer is larger than the buffers of the system, so only the timeout ends the connection of the slow reader.
    expect(await server.stop()).toBe(0);
    reading.socket.resume();
    await reading.closed;
    expect(reading.received().length).toBeLessThan(8_000_000);
  });

  it("accepts an API key that is added, and refuses an API key that is revoked, without a restart", async () => {
    const tenants = join(folder(), "tenants.json");
    const server = await start("--tenants", tenants, "--store", "memory:");
    await vi.waitFor(() => expect(server.output()).toContain("every request is refused"), 20_000);
    const apiKey = run(
      "tenants",
      "add",
      "--tenants",
      tenants,
      "--tenant",
      "acme",
      "--namespace",
      "prod",
      "--scopes",
      "read",
    );
    const store = new HttpStore({ url: server.url, apiKey });
    expect(await store.get("key")).toBeUndefined();
    await expect(store.set("key", "value")).rejects.toThrow("scope write");
    const id = apiKey.split("_")[1] ?? "";
    expect(run("tenants", "list", "--tenants", tenants).split("\n")).toEqual([
      expect.stringMatching(/^id +tenant +namespace +scopes +state$/),
      expect.stringMatching(new RegExp(`^${id} +acme +prod +read +good$`)),
    ]);
    run("tenants", "revoke", "--tenants", tenants, id);
    await expect(store.get("key")).rejects.toThrow("401");
    expect(run("tenants", "list", "--tenants", tenants)).toContain("revoked");
    expect(readFileSync(tenants, "utf8")).not.toContain(apiKey);
  });

  it.each([
    [["serve"], "--tenants"],
    [["serve", "--tenants", "none.json", "--store", "other"], "Begin the source with one of memory:, sqlite:"],
    [["serve", "--tenants", "none.json", "--store", "sqlite:"], "has no path"],
    [["serve", "--tenants", "none.json", "--store", "memory:", "--store", "memory:"], "more than once"],
    [["serve", "--tenants", "none.json", "--store", "https://kv.example.com"], "another HTTP KV server"],
    [["serve", "--tenants", "none.json", "--port", "x"], "A port is a number"],
    [["tenants", "add", "--tenants", "none.json", "--tenant", "a/b"], "tenant"],
    [["tenants", "add", "--tenants", "none.json", "--tenant", "a", "--scopes", "admin"], "read, write, list"],
    [["tenants", "add", "--tenants", "none.json", "--tenant", "a", "--expires", "soon"], "not a time"],
    [["tenants", "revoke", "--tenants", "none.json", "none"], "no API key"],
    [["tenants", "list", "--tenants", "none.json"], "does not exist"],
    [["tenants", "add", "--tenants", "none.json", "--tenant", "a", "--expires", "2020-01-31"], "passed"],
    [["serve", "--tenants", "none.json", "--store", "memory:", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"],
    [
      ["serve", "--tenants", "none.json", "--store", "memory:", "--max-bytes-in-memory", "9"],
      "-memory` of the HTTP KV server is 9, which",
    ],
    [["serve", "--tenants", "none.json", "--store", "memory:", "--base-path", "kv"], "`--base-path` is not the path"],
    [["serve", "--tenants", "none.json", "--port", "65536"], "65535"],
    [["serve", "--tenants", "none.json", "--drain-ms", "99999999999"], "between 0 and 1073741824"],
  ])("fails with a message about the mistake in the arguments %j", (parameters, message) => {
    expect(() => run(...parameters)).toThrow(message);
  });
});

it("keyward-kv --version prints the version of keyward-kv", () => {
  expect(run("--version")).toMatch(/^\d+\.\d+\.\d+/);
});

it("keyward-kv serve --store memory: loses its records when the process exits", async () => {
  const tenants = join(folder(), "tenants.json");
  const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
  const first = await start("--tenants", tenants, "--store", "memory:");
  const store = new HttpStore({ url: first.url, apiKey });
  await store.setMany([
    { key: "text", value: "täxt" },
    { key: "bytes", value: Uint8Array.of(0, 255) },
  ]);
  expect(await store.getMany(["text", "bytes"])).toEqual(["täxt", Buffer.of(0, 255)]);
  expect(await store.replace("text", "täxt", "new")).toBe(true);
  expect((await store.scan()).entries).toHaveLength(2);
  expect(await first.stop()).toBe(0);
  const second = await start("--tenants", tenants, "--store", "memory:");
  expect((await new HttpStore({ url: second.url, apiKey }).scan()).entries).toEqual([]);
});

it("keyward-kv stores records in keyward-kv.sqlite by default, or in the store that KEYWARD_KV_STORE names", async () => {
  const at = folder();
  const tenants = join(at, "tenants.json");
  const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
  const put = async (value: string, env: Readonly<Record<string, string>>) => {
    const server = await serveIn(at, env, "--tenants", tenants);
    onTestFinished(async () => void (await server.stop()));
    await new HttpStore({ url: server.url, apiKey }).set("key", value);
    expect(await server.stop()).toBe(0);
  };
  await put("first", {});
  expect(readFileSync(join(at, "keyward-kv.sqlite"), "latin1")).toContain("first");
  await put("second", { KEYWARD_KV_STORE: "sqlite:other.sqlite" });
  expect(readFileSync(join(at, "other.sqlite"), "latin1")).toContain("second");
  await put("third", { KEYWARD_KV_STORE: "" });
  expect(readFileSync(join(at, "keyward-kv.sqlite"), "latin1")).toContain("third");
});

describe("keyward kv", () => {
  it("has the same commands as keyward-kv, and prints JSON with --json", async () => {
    const at = folder();
    const json = async (...commandLine: string[]) => {
      const { exitCode, stdout } = await keyward(at, {}, "kv", ...commandLine, "--tenants", "tenants.json", "--json");
      return { exitCode, printed: JSON.parse(stdout) };
    };
    const { exitCode, printed } = await json("tenants", "add", "--tenant", "acme", "--expires", "2100-01-31");
    expect({ exitCode, printed }).toEqual({
      exitCode: 0,
      printed: { apiKey: expect.any(String), apiKeyId: expect.any(String) },
    });
    const server = startKeyward(
      at,
      {},
      "kv",
      "serve",
      "--tenants",
      "tenants.json",
      "--store",
      "memory:",
      "--port",
      "0",
    );
    onTestFinished(() => void server.kill("SIGKILL"));
    const lines: string[] = [];
    server.stdout.on("data", (data) => lines.push(String(data)));
    await expect.poll(() => lines.join(""), { timeout: 30_000 }).toMatch(/listens on (\S+)\n/);
    const url = /listens on (\S+)/.exec(lines.join(""))?.[1] ?? "";
    const store = new HttpStore({ url, apiKey: printed.apiKey });
    await store.set("key", "value");
    expect(await store.get("key")).toBe("value");
    expect(await json("tenants", "revoke", printed.apiKeyId)).toEqual({
      exitCode: 0,
      printed: { apiKeyId: printed.apiKeyId },
    });
    await expect(store.get("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    const { printed: listed } = await json("tenants", "list");
    const revoked = { id: printed.apiKeyId, tenant: "acme", state: "revoked", revokedAtMs: expect.any(Number) };
    expect(listed.apiKeys).toEqual([expect.objectContaining(revoked)]);
    expect(JSON.stringify(listed)).not.toContain("hash");
    const exited = once(server, "exit");
    server.kill("SIGTERM");
    expect(await exited).toEqual([0, null]);
  });

  it("prints no password of a store that is refused", async () => {
    const password = randomBytes(8).toString("hex");
    for (const source of [`redis://:${password}@localhost?unknown=1`, `https://x:${password}@localhost`]) {
      const { exitCode, stdout, stderr } = await keyward(
        folder(),
        { KEYWARD_KV_STORE: source },
        ...["kv", "serve", "--tenants", "tenants.json"],
      );
      expect(exitCode).not.toBe(0);
      expect(stderr).toMatch(/\((?:VALUE_INVALID|USAGE)\)/);
      expect(stdout + stderr).not.toContain(password);
    }
  });
});

describe("without @keyward/http-kv", () => {
  // The application also lacks every package that only the other commands need.
  const application = () => {
    const at = makeBareApplication(import.meta.url, folder());
    cpSync(new URL("../package.json", import.meta.url), join(at, "package.json"));
    symlinkSync(new URL("../node_modules/commander", import.meta.url), join(at, "node_modules", "commander"));
    return (executable: string, ...parameters: string[]) =>
      spawnSync(process.execPath, [join(at, "src", executable), ...parameters], { cwd: at, encoding: "utf8" });
  };

  it.each([
    ["keyward-kv.ts", []],
    ["keyward.ts", ["kv"]],
  ])("%s prints its help, and the error of a command names the missing package", (executable, group) => {
    const run = application();
    const help = run(executable, ...group, "--help");
    expect(help).toMatchObject({ status: 0, stderr: "" });
    expect(help.stdout).toMatch(/serve .*\n.*tenants /s);
    expect(run(executable, ...group, "serve", "--help").stdout).toContain("KEYWARD_KV_STORE");
    const failed = run(executable, ...group, "tenants", "add", "--tenants", "tenants.json", "--tenant", "acme");
    expect(failed.status).toBe(1);
    expect(failed.stderr).toContain("needs the package @keyward/http-kv, which is not installed (STORE_INVALID)");
    expect(failed.stderr).toContain("npm install @keyward/http-kv");
  });
});

it("keyward-kv prints on an older Node.js which version it needs, before it loads any package", () => {
  const older = `data:text/javascript,Object.defineProperty(process, "versions", { value: { node: "20.19.0" } })`;
  const { status, stderr } = spawnSync(process.execPath, ["--import", older, sourceOfCommand("keyward-kv"), "--help"], {
    encoding: "utf8",
  });
  expect(stderr).toBe("keyward-kv: this is Node.js 20.19.0, and keyward-kv needs Node.js 22.19 or newer.\n");
  expect(status).toBe(1);
});

const redisServers = await findRedisServers({ anyWillDo: true });

describeWithRedis(redisServers, "keyward-kv over Redis", () => {
  it("still has all records after a restart, and continues a scan that began before the restart", async () => {
    const redis = await startRedis(redisServers);
    onTestFinished(() => redis.stop());
    const tenants = join(folder(), "tenants.json");
    // A shared Redis may have records of other tests, so these tenants have random names.
    const [apiKey = "", otherApiKey = ""] = ["a", "b"].map((name) =>
      run("tenants", "add", "--tenants", tenants, "--tenant", `${name}-${randomBytes(8).toString("hex")}`),
    );
    const first = await start("--tenants", tenants, "--store", redis.url);
    const store = (url: string, as = apiKey) => new HttpStore({ url, apiKey: as });
    const keys = Array.from({ length: 300 }, (_, index) => `key/${index} ä:%`);
    const namespaces = ["", "flows"];
    for (const namespace of namespaces) {
      await store(first.url)
        .namespaced(namespace)
        .setMany(keys.map((key, index) => ({ key, value: index % 2 === 0 ? `${index}` : Uint8Array.of(index % 256) })));
    }
    await store(first.url).set("short", "value", Date.now() + 1_500);
    await store(first.url).set("long", "value", Date.now() + 3_600_000);
    await store(first.url).reserved().set("key", "reserved");
    const ring = Keyring.generate();
    await createKeyv({ store: store(first.url), keys: ring, namespace: "sealed" }).set("session", { step: 1 });
    const { cursor = "", entries } = await store(first.url).scan({ limit: 50 });
    expect(await first.stop()).toBe(0);

    vi.stubEnv("KEYWARD_KV_STORE", redis.url);
    onTestFinished(() => {
      vi.unstubAllEnvs();
    });
    const second = await start("--tenants", tenants);
    for (const namespace of namespaces) {
      expect(await store(second.url).namespaced(namespace).getMany(keys)).toEqual(
        keys.map((_, index) => (index % 2 === 0 ? `${index}` : Buffer.of(index % 256))),
      );
    }
    const found = new Set(entries.map(({ namespace, key }) => `${namespace} ${key}`));
    for (let at: string | undefined = cursor; at !== undefined; ) {
      const page = await store(second.url).scan({ cursor: at, limit: 50 });
      for (const { namespace, key } of page.entries) found.add(`${namespace} ${key}`);
      at = page.cursor;
    }
    for (const namespace of namespaces) {
      for (const key of keys) expect(found.has(`${namespace} ${key}`), `${namespace} ${key}`).toBe(true);
    }
    expect(await createKeyv({ store: store(second.url), keys: ring, namespace: "sealed" }).get("session")).toEqual({
      step: 1,
    });
    expect(await store(second.url).reserved().get("key")).toBe("reserved");
    expect(await store(second.url).replace(keys[0] ?? "", "0", "new")).toBe(true);
    expect(await store(second.url).replace(keys[0] ?? "", "0", "newer")).toBe(false);
    await expect.poll(() => store(second.url).has("short"), { timeout: 5_000 }).toBe(false);
    expect(await store(second.url).has("long")).toBe(true);

    expect(await store(second.url, otherApiKey).getMany(keys.slice(0, 5))).toEqual(Array(5).fill(undefined));
    expect((await store(second.url, otherApiKey).scan()).entries).toEqual([]);
    await store(second.url, otherApiKey).clear();
    for (const namespace of [...namespaces, "sealed"]) await store(second.url).namespaced(namespace).clear();
    expect(await store(second.url).hasMany(keys)).toEqual(keys.map(() => false));
  });
});

it("keyward-kv prints the id of a log entry and no password if its Redis server cannot be reached", async () => {
  const tenants = join(folder(), "tenants.json");
  const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
  const password = randomBytes(8).toString("hex");
  const server = await start("--tenants", tenants, "--store", `redis://:${password}@127.0.0.1:1?timeoutMs=500`);
  const answer = await fetch(`${server.url}/key`, { headers: { authorization: `Bearer ${apiKey}` } });
  expect(answer.status).toBe(503);
  const body = await answer.text();
  const { id } = JSON.parse(body);
  expect(await server.stop()).toBe(0);
  expect(server.output()).toContain(id);
  expect(body + server.output()).not.toContain(password);
});

it("a server stores and logs no plaintext of encrypted records, and logs no key of a record", async () => {
  const at = folder();
  const tenants = join(at, "tenants.json");
  const apiKey = run("tenants", "add", "--tenants", tenants, "--tenant", "acme");
  const server = await start("--tenants", tenants, "--store", `sqlite:${join(at, "kv.sqlite")}`);
  const ring = Keyring.generate("first");
  const plaintexts = Array.from({ length: 50 }, () => randomBytes(30).toString("hex"));
  const names = plaintexts.map(() => `session-${randomBytes(8).toString("hex")}`);

  const keyv = createKeyv({ store: new HttpStore({ url: server.url, apiKey }), keys: ring, namespace: "flows" });
  for (const [index, name] of names.entries()) await keyv.set(name, { secret: plaintexts[index] }, 3_600_000);
  for (const [index, name] of names.entries()) expect(await keyv.get(name)).toEqual({ secret: plaintexts[index] });
  await keyv.delete(names[0] ?? "");
  const next = ring.add({ id: "second", material: randomBytes(32) }).promote("second");
  const bytes = new HttpStore({ url: server.url, apiKey }).namespaced("bytes");
  await new EncryptedStore(bytes, { keys: ring }).set("raw", Buffer.from(plaintexts[1] ?? ""));
  expect(await reencrypt(new EncryptedStore(bytes, { keys: next }))).toMatchObject({ reencrypted: 50, unreadable: 0 });
  const wrong = new HttpStore({ url: server.url, apiKey, retries: 0 });
  await expect(wrong.set("x".repeat(5_000), plaintexts[2])).rejects.toMatchObject({ code: "VALUE_INVALID" });
  for (const path of [names[1], `${names[2]}/`, `%${names[3]}`]) {
    await fetch(`${server.url}/${path}`, { headers: { authorization: `Bearer ${apiKey}x` } });
  }

  expect(await server.stop()).toBe(0);
  const log = server.output();
  const stored = readdirSync(at)
    .map((name) => readFileSync(join(at, name), "latin1"))
    .join("\n");
  expect(log.split("\n").length).toBeGreaterThan(100);
  expect(stored).toContain("kw1:second:");
  expect(stored).toContain(names[1]);
  for (const secret of [apiKey, apiKey.split("_").slice(2).join("_"), ...plaintexts.flatMap(encodings)]) {
    expect(stored.includes(secret), "the files contain a secret").toBe(false);
    expect(log.includes(secret), "the log contains a secret").toBe(false);
  }
  for (const name of names.flatMap(encodings)) expect(log.includes(name), "the log contains a key").toBe(false);
});

/** Returns the forms a text may have in a file: unchanged, in hex, and in base64 from each of the three offsets. */
function encodings(text: string): string[] {
  const inBase64 = [0, 1, 2].map((offset) => {
    const encoded = Buffer.from("\0".repeat(offset) + text).toString("base64");
    return encoded.slice(offset === 0 ? 0 : 4, -4);
  });
  return [text, Buffer.from(text).toString("hex"), ...inBase64];
}

async function connects(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const connected = await Promise.race([
    once(socket, "connect").then(() => true),
    once(socket, "error").then(() => false),
  ]).catch(() => false);
  socket.destroy();
  return connected;
}
