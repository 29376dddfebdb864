import { once } from "node:events";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { AdminClient } from "@keyward/admin/client";
import { describe, expect, it, onTestFinished } from "vitest";
import { copyOfService, newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward, keywardReading, startKeyward } from "./keyward-process.ts";

/** Starts a service. `run` runs a command as the first admin. */
async function start() {
  const folder = await newFolder();
  const { admin } = await copyOfService(folder);
  const { url, callUrl } = await startGateway(folder);
  const env = { KEYWARD_URL: url, KEYWARD_TOKEN: admin };
  const run = async (...commandLine: readonly string[]) => await keyward(folder, env, ...commandLine);
  return { folder, env, admin, callUrl, run, client: new AdminClient({ url, token: admin }) };
}

describe("keyward servers add", () => {
  it("prints the kind and the path of the calls, and how to change the kind of the server", async () => {
    const { run } = await start();
    const mcp = await run("servers", "add", "github", "https://mcp.example.com/mcp");
    expect(mcp.stdout).toContain("The server github (mcp) is added");
    expect(mcp.stderr).toContain("at /s/github/mcp of the gateway");
    expect(mcp.stderr).toContain("`keyward servers set github --kind http`");
    const http = await run("servers", "add", "billing", "https://api.example.com", "--kind", "http");
    expect(http.stdout).toContain("The server billing (http) is added");
    expect(http.stderr).toContain("at /s/billing/<path> of the gateway");
    expect(http.stderr).not.toContain("--kind");
    expect((await run("servers", "show", "billing")).stdout).toContain("/s/billing/<path>");
  });

  it("prints which server needs an allowed address, and so does servers set", async () => {
    const { run } = await start();
    const flagOf = ({ stderr }: { readonly stderr: string }) => /--allow-address (\S+)`/.exec(stderr)?.[1];
    const cases = [
      ["https://mcp.example.com/mcp", undefined],
      ["https://8.8.8.8", undefined],
      ["http://127.0.0.1:3000/mcp", "127.0.0.1:3000"],
      ["http://localhost:3000", "127.0.0.1:3000"],
      ["https://10.1.2.3", "10.1.2.3:443"],
      ["https://[fd00::1]:8443", "[fd00::1]:8443"],
      ["http://mcp.example.com", "<address>:80"],
    ] as const;
    for (const [index, [url, flag]] of cases.entries()) {
      expect({ url, flag: flagOf(await run("servers", "add", `server-${index}`, url)) }).toEqual({ url, flag });
    }
    expect(flagOf(await run("servers", "set", "server-0", "--url", "http://127.0.0.1:4000"))).toBe("127.0.0.1:4000");
    expect(flagOf(await run("servers", "set", "server-0", "--disable"))).toBeUndefined();
  });

  it("refuses another scheme, and prints which schemes a URL may have", async () => {
    const { run } = await start();
    const { stderr } = await run("servers", "add", "files", "ftp://files.example.com");
    expect(stderr).toContain("begins with `https://` or `http://`");
  });
});

describe("keyward tokens create and rotate", () => {
  it("print the URL of each server of the token by its kind, and a URL for each kind without servers", async () => {
    const { run, client, callUrl } = await start();
    await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
    await client.createServer({ slug: "billing", url: "https://api.example.com", kind: "http" });
    const create = async (...flags: readonly string[]) =>
      JSON.parse((await run("tokens", "create", "--owner", "ci", "--json", ...flags)).stdout);
    const scoped = await create("--servers", "github,billing");
    expect(scoped.urls).toEqual([`${callUrl}/s/github/mcp`, `${callUrl}/s/billing/`]);
    expect((await create()).urls).toEqual([`${callUrl}/s/<server>/mcp`, `${callUrl}/s/<server>/<path>`]);
    expect((await create("--role", "admin")).urls).toEqual([]);
    // A server that is gone must not cost the new token.
    await client.deleteServer("github");
    const rotated = JSON.parse((await run("tokens", "rotate", scoped.info.id, "--json")).stdout);
    expect(rotated).toMatchObject({
      token: expect.stringMatching(/^kwt_/),
      urls: [`${callUrl}/s/github/mcp`, `${callUrl}/s/github/<path>`, `${callUrl}/s/billing/`],
    });
  });
});

describe("a command of the secrets service", () => {
  it.each([
    [["tokens", "create", "--owner", "ci", "--role", "member", "--role", "admin"], "--role <role>"],
    [["tokens", "create", "--owner", "ci", "--servers", "a", "--servers", "b"], "--servers <slugs>"],
    [["servers", "add", "api", "https://api.example.com", "--kind", "mcp", "--kind", "http"], "--kind <kind>"],
    [["secrets", "set", "api", "TOKEN", "--header", "X-A", "--header", "X-B"], "--header <name>"],
    [["calls", "list", "--owner", "a", "--owner", "b"], "--owner <owner>"],
    [["gateway", "start", "--port", "1", "--port", "2"], "--port <number>"],
  ])("refuses a flag with two values: %j", async (commandLine, flag) => {
    const { exitCode, stderr } = await keyward(await newFolder(), {}, ...commandLine);
    expect(stderr).toContain(`option '${flag}' is given more than once`);
    expect(exitCode).toBe(2);
  });

  it("accepts a flag several times if the flag collects its values", async () => {
    const flags = ["--allow-address", "127.0.0.1:1", "--allow-address", "127.0.0.1:2"];
    const { stderr } = await keyward(await newFolder(), {}, "gateway", "start", ...flags);
    expect(stderr).toContain("This folder has no configuration");
  });

  it("reports that a URL is the one of the gateway for calls", async () => {
    const { folder, env, admin, callUrl } = await start();
    const login = await keywardReading(admin, folder, { XDG_CONFIG_HOME: folder }, "login", "--url", callUrl);
    expect(login).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("is the gateway for calls") });
    expect(login.stderr).toContain("Use the URL of the admin API");
    const wrong = await keyward(folder, { ...env, KEYWARD_URL: callUrl }, "servers", "list");
    expect(wrong.stderr).toContain("is the gateway for calls");
    const call = await fetch(`${env.KEYWARD_URL}/s/github/mcp`, { headers: { authorization: `Bearer ${admin}` } });
    expect(await call.json()).toMatchObject({ code: "ROUTE_NOT_FOUND", hint: expect.stringContaining("the gateway") });
  });

  it("describes a field that it refuses in the same words from each layer", async () => {
    const { folder, env, run, client } = await start();
    await client.createServer({ slug: "billing", url: "https://api.example.com", kind: "http" });
    expect((await run("calls", "explain", "nonsense")).stderr).toContain('The field "id" must be the id of a call');
    expect((await run("calls", "list", "--token-id", "nonsense")).stderr).toContain("must be an id of 12");
    expect((await run("tokens", "rotate", "nonsense")).stderr).toContain('The field "id" must be an id of 12');
    const set = async (value: string) =>
      (await keywardReading(value, folder, env, "secrets", "set", "billing", "TOKEN")).stderr.split("\n")[0];
    expect(await set("a\tb")).toBe(
      'keyward: The field "value" must have at least 8 bytes; the field "value" must not contain control characters (FIELD_INVALID)',
    );
    for (const value of ["a".repeat(8_193), "é".repeat(8_000)]) {
      // The command refuses a longer value itself, before it is sent.
      const refused = client.setSecret("billing", { name: "TOKEN", value });
      await expect(refused).rejects.toMatchObject({
        code: "FIELD_INVALID",
        message: "The request is not valid: the body field value must have at most 8192 bytes",
      });
    }
  });

  it("names the import of a keyring if the keyring is missing", async () => {
    const folder = await newFolder();
    await newService(folder);
    await rm(join(folder, ".keyward/keyring.json"));
    for (const commandLine of [
      ["gateway", "start"],
      ["gateway", "doctor"],
      ["audit", "verify"],
    ]) {
      const { exitCode, stdout, stderr } = await keyward(folder, {}, ...commandLine);
      expect(exitCode).toBe(1);
      expect(stdout + stderr).toContain("`keyward keyring import <file>`");
    }
  });
});

describe("keyward secrets explain", () => {
  it("says that the address is looked up only at a call, and refuses a tool of a server that has none", async () => {
    const { run, client } = await start();
    await client.createServer({ slug: "github", url: "http://127.0.0.1:1" });
    await client.createServer({ slug: "billing", url: "https://api.example.com", kind: "http" });
    const { info } = await client.createToken({ owner: "ci", role: "member", servers: ["github"] });
    const explain = async (...flags: readonly string[]) =>
      await run("secrets", "explain", "--token-id", info.id, "--server", ...flags);
    expect((await explain("github", "--tool", "list")).stdout).toContain("only when a call is made");
    expect(await explain("billing")).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("would refuse") });
    expect(await explain("billing", "--tool", "list")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("has no tools"),
    });
  });
});

describe("keyward calls tail", () => {
  it("ends without advice to continue, because nothing is unfinished", async () => {
    const { folder, env } = await start();
    const child = startKeyward(folder, env, "calls", "tail", "--every", "100ms");
    onTestFinished(() => void child.kill("SIGKILL"));
    let stderr = "";
    child.stderr.on("data", (data) => {
      stderr += String(data);
    });
    await expect.poll(() => stderr, { timeout: 20_000 }).toContain("until Ctrl-C");
    child.kill("SIGINT");
    expect(await once(child, "close")).toEqual([130, null]);
    expect(stderr.split("\n").slice(1)).toEqual(["keyward: stopped.", ""]);
  });
});
