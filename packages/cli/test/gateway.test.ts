import { chmod, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { createServer, type ServerResponse } from "node:http";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { AdminApiError, AdminClient } from "@keyward/admin/client";
import { EncryptedStore, Keyring, reencrypt } from "@keyward/core";
import { auditScope, auditStore, scopeOfServiceRecord } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { copyOfService, newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

/** Answers as a web server that is not the service. */
function answerWithoutDate(response: ServerResponse): void {
  response.sendDate = false;
  response.end("hello");
}

const tokenText = /kwt_\w+/;

async function tokensIn(folder: string): Promise<{ readonly operator: string; readonly admin: string }> {
  const [name, ...others] = (await readdir(folder)).filter((file) => file.startsWith("first-tokens"));
  expect(others).toEqual([]);
  const path = join(folder, name ?? "");
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  const text = await readFile(path, "utf8");
  return {
    operator: /^operator +(\S+)/m.exec(text)?.[1] ?? "",
    admin: /^admin +(\S+)/m.exec(text)?.[1] ?? "",
  };
}

describe("keyward gateway init", () => {
  it("makes a folder that only its owner can read, and that Git ignores", async () => {
    const folder = await newFolder();
    await newService(folder);
    const own = join(folder, ".keyward");
    expect((await stat(own)).mode & 0o777).toBe(0o700);
    for (const file of ["keyring.json", "service.db", "audit.db"]) {
      expect({ file, mode: (await stat(join(own, file))).mode & 0o777 }).toEqual({ file, mode: 0o600 });
    }
    expect(await readFile(join(own, ".gitignore"), "utf8")).toBe("*\n");
    expect(await readFile(join(folder, "keyward.config.ts"), "utf8")).not.toContain("import {");
    const { stdout } = await keyward(folder, {}, "keyring", "show", "--json");
    expect(JSON.parse(stdout)).toMatchObject({ keyring: { storeNames: ["service", "audit"] } });
  });

  it.each(["module", "commonjs", undefined])("works beside a package.json of the type %s", async (type) => {
    const folder = await newFolder();
    await writeFile(join(folder, "package.json"), JSON.stringify({ type }));
    await newService(folder);
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 0, stderr: "" });
  });

  it("prints the tokens in only one of two commands that run at once, and fails in the other one", async () => {
    const folder = await newFolder();
    const ended = await Promise.all([1, 2].map(() => keyward(folder, {}, "gateway", "init", "--print-tokens")));
    const exitCodes = ended.map(({ exitCode }) => exitCode).toSorted();
    expect({ exitCodes, ended }).toMatchObject({ exitCodes: [0, 1] });
    const printed = ended.map(({ stdout, stderr }) => stdout + stderr);
    expect(printed.filter((text) => tokenText.test(text))).toHaveLength(1);
    expect(printed.filter((text) => text.includes("ALREADY_INITIALIZED"))).toHaveLength(1);
    const third = await keyward(folder, {}, "gateway", "init", "--print-tokens");
    expect(third).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining("keyward gateway start") });
    const { stdout } = await keyward(folder, {}, "keyring", "show", "--json");
    expect(JSON.parse(stdout)).toMatchObject({ keyring: { keys: [{}] } });
  });

  it.each([
    ["the configuration", ["keyward.config.ts"]],
    ["the configuration and the folder", ["keyward.config.ts", ".keyward"]],
    ["the folder", [".keyward"]],
  ])("completes the work of a command that was stopped after it had made %s", async (_, made) => {
    const folder = await newFolder();
    const other = await newFolder();
    await newService(other);
    if (made.includes("keyward.config.ts")) {
      await writeFile(join(folder, "keyward.config.ts"), await readFile(join(other, "keyward.config.ts")), {
        mode: 0o644,
      });
    }
    if (made.includes(".keyward")) await mkdir(join(folder, ".keyward"), { mode: 0o700 });
    await newService(folder);
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 0 });
  });

  it("refuses a folder with another configuration, and prints what to add to it", async () => {
    const folder = await newFolder();
    await keyward(folder, {}, "init");
    const ended = await keyward(folder, {}, "gateway", "init");
    expect(ended).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('gateway: { store: "sqlite:') });
    expect(await readdir(folder)).not.toContain(".keyward");
  });

  it("sets up the service in an application's configuration, and the keyring then lists the service's stores too", async () => {
    const folder = await newFolder();
    await keyward(folder, {}, "init", "--format", "json");
    const path = join(folder, "keyward.config.json");
    const config: object = JSON.parse(await readFile(path, "utf8"));
    await writeFile(
      path,
      JSON.stringify({ ...config, scope: "tenant", gateway: { store: "sqlite:a.db", audit: "b.db" } }),
    );
    const ended = await keyward(folder, {}, "gateway", "init", "--json");
    expect(ended).toMatchObject({ exitCode: 0 });
    expect(JSON.parse(ended.stdout)).toMatchObject({ file: null, keyringCreated: false });
    const { stdout } = await keyward(folder, {}, "keyring", "show", "--json");
    expect(JSON.parse(stdout)).toMatchObject({ keyring: { storeNames: ["sessions", "service", "audit"] } });
    const rotated = await keyward(
      folder,
      {},
      "--empty-store",
      "sessions",
      "rotate",
      "--unregistered",
      "0s",
      "--grace",
      "0s",
    );
    expect(rotated).toMatchObject({ exitCode: 0 });
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 0 });
  });

  it("refuses a folder .keyward that others can open", async () => {
    const folder = await newFolder();
    await mkdir(join(folder, ".keyward"));
    await chmod(join(folder, ".keyward"), 0o755);
    expect(await keyward(folder, {}, "gateway", "init")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("chmod 700"),
    });
  });

  it("makes no keyring if the store is encrypted under another keyring", async () => {
    const folder = await newFolder();
    await newService(folder);
    await rm(join(folder, ".keyward", "keyring.json"));
    const ended = await keyward(folder, {}, "gateway", "init");
    expect(ended).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("keyward keyring import") });
    expect(await readdir(join(folder, ".keyward"))).not.toContain("keyring.json");
  });
});

describe("keyward gateway start", () => {
  it("logs its start and its stop, prints what its folder contains, and exits with code 0", async () => {
    const folder = await newFolder();
    await copyOfService(folder);
    const gateway = await startGateway(folder);
    expect(await gateway.stop()).toBe(0);
    const { stderr } = gateway.printed();
    expect(stderr).toContain(`A copy of ${join(folder, ".keyward")} is everything`);
    const events = stderr.split("\n").flatMap((line) => (line.startsWith("{") ? [JSON.parse(line).event] : []));
    expect(events).toEqual(["start", "stopping", "stop"]);
    const { stdout } = await keyward(folder, {}, "audit", "verify", "--json");
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, openChains: [] });
  });

  it("stops gracefully with exit code 0 even if its parent process sends the same signal a second time", async () => {
    const folder = await newFolder();
    await copyOfService(folder);
    const gateway = await startGateway(folder);
    expect(await gateway.stopThroughParent()).toBe(0);
    const { stdout } = await keyward(folder, {}, "audit", "verify", "--json");
    expect(JSON.parse(stdout)).toMatchObject({ ok: true, openChains: [] });
  });

  it("opens no debugger on SIGUSR1, because other users could read the keys through it", async () => {
    const folder = await newFolder();
    await copyOfService(folder);
    const gateway = await startGateway(folder);
    process.kill(gateway.processId, "SIGUSR1");
    // The debugger is opened before the process can handle a further signal.
    expect(await gateway.stop()).toBe(0);
    expect(gateway.printed().stderr).not.toContain("Debugger");
  });

  it("has stored every change that it has answered when it is stopped under load", async () => {
    const folder = await newFolder();
    const { admin } = await copyOfService(folder);
    const gateway = await startGateway(folder);
    const client = new AdminClient({ url: gateway.url, token: admin });
    await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
    const answered: string[] = [];
    const failed: unknown[] = [];
    const write = async (writer: number) => {
      for (let index = 0; ; index++) {
        const slug = `s-${writer}-${index}`;
        try {
          await client.createServer({ slug, url: "https://mcp.example.com/mcp" });
          answered.push(slug);
        } catch (error) {
          failed.push(error);
          return;
        }
      }
    };
    const writing = Promise.all([1, 2, 3].map(write));
    await expect.poll(() => answered.length).toBeGreaterThan(10);
    expect(await gateway.stop()).toBe(0);
    await writing;
    expect(failed.every((error) => error instanceof AdminApiError)).toBe(true);
    const again = await startGateway(folder);
    const env = { KEYWARD_URL: again.url, KEYWARD_TOKEN: admin };
    const { stdout } = await keyward(folder, env, "servers", "list", "--json");
    const { servers }: { servers: { slug: string }[] } = JSON.parse(stdout);
    expect(servers.map(({ slug }) => slug)).toEqual(expect.arrayContaining(answered));
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 0 });
  });

  it("sets the service up in an empty store, and writes the tokens into a file", async () => {
    const folder = await newFolder();
    await copyOfService(folder);
    for (const name of ["service.db", "audit.db"]) await rm(join(folder, ".keyward", name));
    const gateway = await startGateway(folder);
    const { stdout, stderr } = gateway.printed();
    expect(JSON.parse(stdout)).toMatchObject({ initialized: true });
    expect(stdout + stderr).not.toMatch(tokenText);
    const { admin } = await tokensIn(join(folder, ".keyward"));
    const env = { KEYWARD_URL: gateway.url, KEYWARD_TOKEN: admin };
    expect(await keyward(folder, env, "servers", "list")).toMatchObject({ exitCode: 0 });
  });

  it("refuses a store of another program, and a folder without a configuration", async () => {
    const folder = await newFolder();
    expect(await keyward(folder, {}, "gateway", "start")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("keyward gateway init"),
    });
    await keyward(folder, {}, "init", "--format", "json");
    const path = join(folder, "keyward.config.json");
    const config: object = JSON.parse(await readFile(path, "utf8"));
    const gateway = { store: "sqlite:sessions.sqlite", audit: "audit.db" };
    await writeFile(path, JSON.stringify({ ...config, gateway }));
    expect(await keyward(folder, {}, "gateway", "start", "--port", "0", "--admin-port", "0")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("has no secrets service"),
    });
  });

  it("revokes all tokens of a backup, even those of the last admins", async () => {
    const folder = await newFolder();
    const { admin } = await copyOfService(folder);
    const before = new Date().toISOString();
    const gateway = await startGateway(folder, {}, "--revoke-tokens-before", before);
    const list = (token: string) =>
      keyward(folder, { KEYWARD_URL: gateway.url, KEYWARD_TOKEN: token }, "servers", "list");
    expect(await list(admin)).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("TOKEN_REFUSED") });
    expect(gateway.printed().stderr).toContain("Revoked 2 tokens");
    const { stdout } = await keyward(folder, {}, "tokens", "recover", "--workspace", "main");
    expect(await list(stdout.trim())).toMatchObject({ exitCode: 0 });
    const refused = await keyward(folder, {}, "gateway", "start", "--revoke-tokens-before", "yesterday");
    expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("A time is 2030-01-31") });
  });
});

describe("keyward gateway doctor", () => {
  it("prints what to do about files that others can read, and about a damaged audit", async () => {
    const folder = await newFolder();
    await copyOfService(folder);
    await chmod(join(folder, ".keyward", "service.db"), 0o644);
    const loose = await keyward(folder, {}, "gateway", "doctor");
    expect(loose).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("`chmod 600 ") });
    await chmod(join(folder, ".keyward", "service.db"), 0o600);
    const whole = await keyward(folder, {}, "gateway", "doctor");
    expect(whole).toMatchObject({ exitCode: 0, stderr: "" });
    const own = (name: string) => join(folder, ".keyward", name);
    await writeFile(own("first-tokens-audit.db-aaaaaa.txt.bbbbbbbbbbbb.unfinished"), "");
    await chmod(own("keyring.json"), 0o640);
    await chmod(own("service.db"), 0o400);
    await chmod(join(folder, ".keyward"), 0o750);
    const found = await keyward(folder, {}, "gateway", "doctor");
    expect(found.exitCode).toBe(1);
    expect(found.stdout).toMatch(/may read or change .*\.keyward\n/);
    expect(found.stdout).toMatch(/may read or change .*keyring\.json\n/);
    expect(found.stdout).toMatch(/the service cannot use .*service\.db\n/);
    expect(found.stdout).toMatch(/unfinished has the first tokens/);
    await chmod(own("keyring.json"), 0o600);
    await chmod(own("service.db"), 0o600);
    await rename(join(folder, ".keyward"), join(folder, "elsewhere"));
    await chmod(join(folder, "elsewhere"), 0o700);
    await symlink("elsewhere", join(folder, ".keyward"));
    const database = new DatabaseSync(own("service.db"));
    database.exec("UPDATE entries SET value = zeroblob(60) WHERE CAST(key AS TEXT) LIKE '%token%'");
    database.close();
    const other = createServer((_, response) => void answerWithoutDate(response)).listen(0, "127.0.0.1");
    onTestFinished(() => void other.close());
    await expect.poll(() => other.address()).not.toBeNull();
    const address = other.address();
    const url = `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}`;
    const moved = await keyward(folder, {}, "gateway", "doctor", "--url", url);
    expect(moved.stdout).toMatch(/\.keyward is a link/);
    expect(moved.stdout).toMatch(/PROBLEM {2}store: [1-9]\d* records are damaged/);
    expect(moved.stdout).toMatch(/is not the secrets service/);
    expect(moved.stdout).toMatch(/warning {2}clock: cannot be compared/);
    await rm(own("audit.db"));
    const missing = await keyward(folder, {}, "gateway", "doctor");
    expect(missing).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(/its audit is empty: .*audit.db/) });
    expect(await readdir(join(folder, ".keyward"))).not.toContain("audit.db");
  });

  it("warns of a secret that expires soon, as the log of the service does", async () => {
    const folder = await newFolder();
    const { admin } = await copyOfService(folder);
    const first = await startGateway(folder);
    const client = new AdminClient({ url: first.url, token: admin });
    await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
    const expires = new Date(Date.now() + 3_600_000).toISOString();
    await client.setSecret("github", { name: "TOKEN", value: "a-value-that-ends-soon", expires });
    const { stdout } = await keyward(folder, {}, "gateway", "doctor", "--url", first.url);
    expect(stdout).toMatch(/warning {2}secrets: TOKEN of the server github expires soon/);
    await first.stop();
    const second = await startGateway(folder);
    await expect.poll(() => second.printed().stderr).toContain('"event":"secret-expires"');
  });
});

describe("a rotation beside a running service", () => {
  it("re-encrypts the service and the audit while an admin writes, and no request of the admin fails", async () => {
    const folder = await newFolder();
    const { admin } = await copyOfService(folder);
    const { url } = await startGateway(folder);
    const client = new AdminClient({ url, token: admin });
    await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
    const stop = new AbortController();
    const failed: unknown[] = [];
    let calls = 0;
    const writing = (async () => {
      while (!stop.signal.aborted) {
        const value = `value-number-${calls}-of-the-rotation`;
        // Slower than the limit of requests.
        await new Promise((resolve) => setTimeout(resolve, 30));
        await client.setSecret("github", { name: "TOKEN", value }).catch((error: unknown) => failed.push(error));
        calls++;
      }
    })();
    await expect.poll(() => calls).toBeGreaterThan(5);
    const rotated = await keyward(folder, {}, "rotate", "--new-key", "next", "--grace", "0s", "--json");
    expect(rotated).toMatchObject({ exitCode: 0 });
    expect(JSON.parse(rotated.stdout)).toMatchObject({ rotation: { step: "done", to: "next" } });
    const census = await keyward(folder, {}, "census", "--json");
    const before = calls;
    await expect.poll(() => calls).toBeGreaterThan(before + 5);
    stop.abort();
    await writing;
    expect(failed).toEqual([]);
    const { stores }: { stores: Record<string, { recordsByKey: object; broken: number }> } = JSON.parse(census.stdout);
    for (const name of ["service", "audit"]) {
      expect(Object.keys(stores[name]?.recordsByKey ?? {})).toEqual(["next"]);
      expect(stores[name]).toMatchObject({ broken: 0, unsealed: 0 });
    }
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 0 });
    expect(await keyward(folder, {}, "doctor")).toMatchObject({ exitCode: 0 });
    expect(await keyward(folder, {}, "retire", "next")).toMatchObject({ exitCode: 1 });
  });
});

describe("the keys of the service", () => {
  it("can be retired after all records of the store and of the audit were re-encrypted, and can be revoked", async () => {
    const folder = await newFolder();
    const { admin } = await copyOfService(folder);
    const run = async (...words: readonly string[]) => {
      const { exitCode, stdout } = await keyward(folder, {}, ...words, "--json");
      return { exitCode, result: JSON.parse(stdout) };
    };
    const keyring = async () => (await run("keyring", "show")).result.keyring;
    const { primary } = await keyring();
    await run("keyring", "add", "--id", "extra");
    const ring = Keyring.parse(await readFile(join(folder, ".keyward/keyring.json"), "utf8")).promote("extra");
    const sqlite = new SqliteStore(join(folder, ".keyward/service.db"));
    onTestFinished(() => sqlite.disconnect());
    const stores = {
      service: new EncryptedStore(sqlite, { keys: ring, scope: scopeOfServiceRecord }),
      audit: new EncryptedStore(auditStore(join(folder, ".keyward/audit.db")), { keys: ring, scope: auditScope }),
    };
    for (const [name, store] of Object.entries(stores)) {
      const { reencrypted } = await reencrypt(store);
      await store.disconnect();
      expect(reencrypted).toBeGreaterThan(5);
      expect(await run("retire", "extra")).toMatchObject({
        exitCode: 1,
        result: { error: { code: "KEY_IN_USE", recordsByStore: { [name]: expect.any(Number) } } },
      });
      expect(await run("reencrypt")).toMatchObject({ exitCode: 0 });
    }
    expect(await run("retire", "extra")).toMatchObject({ exitCode: 0 });
    expect(await run("retire", "extra", "--remove", "--yes")).toMatchObject({ exitCode: 0 });
    const { url } = await startGateway(folder);
    const revoked = await run("revoke", primary, "--order", "reencrypt-first", "--new-key", "last", "--grace", "0s");
    expect(revoked).toMatchObject({ exitCode: 0 });
    expect((await keyring()).keys).toMatchObject([{ id: "last" }]);
    const census: { stores: Record<string, { recordsByKey: object }> } = (await run("census")).result;
    for (const name of ["service", "audit"]) {
      expect(Object.keys(census.stores[name]?.recordsByKey ?? {})).toEqual(["last"]);
    }
    expect(await new AdminClient({ url, token: admin }).listServers()).toMatchObject({ items: [] });
    expect(await run("audit", "verify")).toMatchObject({ exitCode: 0, result: { ok: true } });
  });
});
