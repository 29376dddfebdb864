import { once } from "node:events";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { AdminClient } from "@keyward/admin/client";
import { describe, expect, it, onTestFinished } from "vitest";
import { copyOfService, newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward, keywardReading, startKeyward } from "./keyward-process.ts";

/** Starts a service. `run` runs a command as the first admin. */
async function start(...flags: readonly string[]) {
  const folder = await newFolder();
  const { admin } = await copyOfService(folder);
  const { url, callUrl, printed } = await startGateway(folder, {}, ...flags);
  const env = { KEYWARD_URL: url, KEYWARD_TOKEN: admin };
  const run = async (...commandLine: readonly string[]) => await keyward(folder, env, ...commandLine);
  return { folder, env, admin, callUrl, printed, run, client: new AdminClient({ url, token: admin }) };
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

  it("prints, as servers set does, which server needs an allowed address", async () => {
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

  it("prints, as servers set does, that no flag can allow the address of a metadata service", async () => {
    const { run } = await start();
    const urls = [
      "http://169.254.169.254",
      "https://169.254.1.1:8443",
      "https://[fd00:ec2::254]",
      "https://100.100.100.200",
    ];
    for (const [index, url] of urls.entries()) {
      const { stderr, exitCode } = await run("servers", "add", `server-${index}`, url);
      expect({ url, exitCode, stderr }).toEqual({
        url,
        exitCode: 0,
        stderr: expect.stringContaining("refuses each call"),
      });
      expect(stderr).not.toContain("--allow-address");
    }
    const { stderr } = await run("servers", "set", "server-0", "--url", "https://[fe80::1]");
    expect(stderr).toContain("never calls metadata services and link-local addresses");
  });

  it("refuses another scheme, and prints which schemes a URL may have", async () => {
    const { run } = await start();
    const { stderr } = await run("servers", "add", "files", "ftp://files.example.com");
    expect(stderr).toContain("begins with `https://` or `http://`");
  });
});

describe("keyward servers set", () => {
  it("refuses a command line that changes nothing", async () => {
    expect(await keyward(await newFolder(), {}, "servers", "set", "api", "--if-revision", "1")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("has nothing to change"),
    });
  });

  it("prints the names of only those secrets whose values were set for another origin", async () => {
    const { run, client } = await start();
    await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
    const set = async (name: string) => await client.setSecret("github", { name, value: "a-value-of-a-test" });
    await set("FIRST");
    const moved = await run("servers", "set", "github", "--url", "https://other.example.com/mcp");
    expect(moved.stderr).toContain("Calls cannot use these values");
    expect(moved.stderr).toContain(": FIRST. Set each");
    await set("SECOND");
    const back = await run("servers", "set", "github", "--url", "https://mcp.example.com/mcp");
    expect(back.stderr).toContain(": SECOND. Set each");
    await set("SECOND");
    const same = await run("servers", "set", "github", "--url", "https://mcp.example.com/v2");
    expect(same).toMatchObject({ exitCode: 0, stderr: expect.not.stringContaining("Calls cannot use") });
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
    expect((await create()).urls).toEqual([
      `${callUrl}/mcp`,
      `${callUrl}/s/<server>/mcp`,
      `${callUrl}/s/<server>/<path>`,
    ]);
    await client.createServer({ slug: "linear", url: "https://linear.example.com/mcp" });
    expect((await create("--servers", "github,billing,linear")).urls).toEqual([
      `${callUrl}/mcp`,
      `${callUrl}/s/github/mcp`,
      `${callUrl}/s/billing/`,
      `${callUrl}/s/linear/mcp`,
    ]);
    expect((await create("--tools", "search")).urls).toEqual([`${callUrl}/mcp`, `${callUrl}/s/<server>/mcp`]);
    expect((await create("--tools", "search", "--methods", "GET")).urls).toEqual([`${callUrl}/s/<server>/<path>`]);
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

  it("reports that the configured URL is the URL for calls, and not the URL of the admin API", async () => {
    const { folder, env, admin, callUrl } = await start();
    const login = await keywardReading(admin, folder, { XDG_CONFIG_HOME: folder }, "login", "--url", callUrl);
    expect(login).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("is the gateway for calls") });
    expect(login.stderr).toContain("Use the URL of the admin API");
    const wrong = await keyward(folder, { ...env, KEYWARD_URL: callUrl }, "servers", "list");
    expect(wrong.stderr).toContain("is the gateway for calls");
    const call = await fetch(`${env.KEYWARD_URL}/s/github/mcp`, { headers: { authorization: `Bearer ${admin}` } });
    expect(await call.json()).toMatchObject({ code: "ROUTE_NOT_FOUND", hint: expect.stringContaining("the gateway") });
  });

  it("describes an invalid field in the same words whether the command or the service refuses the field", async () => {
    const { folder, env, run, client } = await start();
    await client.createServer({ slug: "billing", url: "https://api.example.com", kind: "http" });
    expect((await run("calls", "explain", "nonsense")).stderr).toContain('The field "id" must be the id of a call');
    expect((await run("calls", "list", "--token-id", "nonsense")).stderr).toContain("must be an id of 12");
    expect((await run("tokens", "rotate", "nonsense")).stderr).toContain('The field "id" must be an id of 12');
    const set = async (value: string) =>
      (await keywardReading(value, folder, env, "secrets", "set", "billing", "TOKEN")).stderr.split("\n")[0];
    expect(await set("a-value\tb")).toContain("must be a text without control characters");
    for (const value of ["a".repeat(8_193), "é".repeat(8_000)]) {
      // The command refuses a longer value itself, before it is sent.
      const refused = client.setSecret("billing", { name: "TOKEN", value });
      await expect(refused).rejects.toMatchObject({
        code: "FIELD_INVALID",
        message: "The request is not valid: the body field value must have at most 8192 bytes",
      });
    }
  });

  it("prints the flag for another port if another process uses the port", async () => {
    const { url, callUrl } = await start().then(({ env, callUrl: calls }) => ({
      url: env.KEYWARD_URL,
      callUrl: calls,
    }));
    const folder = await newFolder();
    await copyOfService(folder);
    const free = ["--port", "0", "--admin-port", "0"];
    for (const [flag, taken] of [
      ["--port", callUrl],
      ["--admin-port", url],
    ] as const) {
      const flags = free.map((word, index) => (free[index - 1] === flag ? new URL(taken).port : word));
      const { exitCode, stderr } = await keyward(folder, {}, "gateway", "start", ...flags);
      expect({ flag, exitCode, stderr }).toMatchObject({
        exitCode: 1,
        stderr: expect.stringContaining(`\`${flag} <number>\``),
      });
    }
  });

  it("prints the command that imports a keyring if the keyring is missing", async () => {
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

describe("keyward tokens rotate", () => {
  it("prints when both tokens expire, and that another rotation of the former token does not extend its life", async () => {
    const { run, client } = await start();
    const { info } = await client.createToken({ owner: "ci", role: "member" });
    const first = await run("tokens", "rotate", info.id, "--overlap", "1h");
    expect(first.stderr).toMatch(new RegExp(`former token \\(id ${info.id}\\) ends at 20\\S+Z at the latest`));
    expect(first.stderr).not.toContain("does not lengthen");
    const second = await run("tokens", "rotate", info.id, "--overlap", "1d");
    const tokens = (await client.listTokens({ owner: "ci" })).items;
    const former = tokens.find(({ id }) => id === info.id);
    expect(second.stderr).toContain(`former token (id ${info.id}) ends at ${former?.expires} at the latest`);
    expect(second.stderr).toContain(`The new token ends at ${former?.expires}, as the former one would have`);
    expect((await run("tokens", "rotate", info.id, "--overlap", "0s")).stderr).toContain("is refused from now on");
  });
});

describe("keyward tokens", () => {
  it("lists the limits of a token, and prints no URL of an MCP server for a token without POST", async () => {
    const { run, client, callUrl } = await start();
    await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
    const created = await run("tokens", "create", "--owner", "ci", "--methods", "get,head", "--json");
    expect(JSON.parse(created.stdout).urls).toEqual([`${callUrl}/s/<server>/<path>`]);
    await run("tokens", "create", "--owner", "bot", "--servers", "github", "--tools", "search,list");
    const shown = await run("tokens", "create", "--owner", "all");
    expect(shown.stderr).toContain(`The URL for a client of all MCP servers: ${callUrl}/mcp\n`);
    const { stdout } = await run("tokens", "list");
    expect(stdout).toContain("all servers; methods GET,HEAD");
    const inDays = (days: number) => new Date(Date.now() + days * 24 * 3_600_000).toISOString();
    await client.createToken({ owner: "soon", role: "member", expires: inDays(1) });
    await client.createToken({ owner: "later", role: "member", expires: inDays(3) });
    const listed = (await run("tokens", "list")).stdout;
    expect(listed).toMatch(/soon .* until \d{4}-\d\d-\d\d \d\d:\d\d UTC {2}/);
    expect(listed).toMatch(/later .* until \d{4}-\d\d-\d\d {2}/);
    expect(stdout).toContain("github; tools search,list");
  });

  it("revoke prints that an owner has no token to revoke, and asks for no confirmation", async () => {
    const { run, client } = await start();
    expect(await run("tokens", "revoke", "--owner", "nobody")).toMatchObject({
      exitCode: 0,
      stdout: "The owner has no token that is not revoked.\n",
    });
    await client.createToken({ owner: "ci", role: "member" });
    expect((await run("tokens", "revoke", "--owner", "ci")).stderr).toContain("(NOT_CONFIRMED)");
  });
});

describe("a hint", () => {
  it("names the variable that is used instead of the login", async () => {
    const { folder, env, run, client } = await start();
    const refused = await keyward(folder, { ...env, KEYWARD_TOKEN: `${env.KEYWARD_TOKEN}x` }, "servers", "list");
    expect(refused.stderr).toContain("If the environment variable KEYWARD_TOKEN is set");
    const { token } = await client.createToken({ owner: "ci", role: "member" });
    const notAllowed = await keyward(folder, { ...env, KEYWARD_TOKEN: token }, "servers", "list");
    expect(notAllowed.stderr).toContain("If the environment variable KEYWARD_TOKEN is set");
    const operator = await run("tokens", "create", "--owner", "ops", "--role", "operator");
    expect(operator.stderr).toContain("Only an operator creates a token with the role operator");
  });

  it("prints what is wrong with a value, and which path is a folder and not a file", async () => {
    const { folder, env, client, run } = await start();
    await client.createServer({ slug: "api", url: "https://api.example.com", kind: "http" });
    const set = async (value: string) => await keywardReading(value, folder, env, "secrets", "set", "api", "TOKEN");
    expect(await set("a-first-line\na-second-line\n")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("The value has more than one line, so nothing was set"),
    });
    expect((await set("short")).stderr).toContain("The value has fewer than 8 bytes, so nothing was set");
    const folders = [
      ["secrets", "set", "api", "TOKEN", "--from-file", "."],
      ["secrets", "import", "api", "."],
      ["audit", "verify", "--anchor", "."],
      ["audit", "anchor", "--out", "."],
    ];
    for (const commandLine of folders) {
      const { exitCode, stderr } = await run(...commandLine);
      expect({ commandLine, exitCode, stderr }).toMatchObject({
        exitCode: 2,
        stderr: expect.stringContaining("The path is a folder, and not a file"),
      });
    }
    // The service of this test still runs, so its chains are open.
    expect((await run("audit", "verify")).stdout).not.toMatch(/\b1 (?:entries|chains)\b/);
    expect((await run("audit", "verify")).stdout).toContain("its process still runs, or was killed");
    expect(await run("audit", "anchor", "--out", "missing/anchors")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("its folder does not exist"),
    });
  });
});

describe("keyward secrets explain", () => {
  it("prints that the address is looked up only at a call, and refuses --tool for a server without tools", async () => {
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

describe("keyward calls explain", () => {
  it("tells which entry of the log has the cause if the server cannot be reached", async () => {
    const { run, client, callUrl, printed } = await start("--allow-address", "127.0.0.1:1");
    await client.createServer({ slug: "gone", url: "http://127.0.0.1:1", kind: "http" });
    const { token } = await client.createToken({ owner: "ci", role: "member" });
    const answer = await fetch(`${callUrl}/s/gone/x`, { headers: { authorization: `Bearer ${token}` } });
    const callId = answer.headers.get("x-request-id") ?? "";
    const entry = `"requestId":"${callId}"`;
    const { stdout } = await run("calls", "explain", callId);
    expect(stdout).toContain("refused: SERVER_UNAVAILABLE");
    expect(stdout).toContain(`the log of the gateway has it, in the entry with ${entry}`);
    const line = printed()
      .stderr.split("\n")
      .find((text) => text.includes(entry));
    expect(JSON.parse(line ?? "")).toMatchObject({ code: "SERVER_UNAVAILABLE", detail: expect.any(String) });
  });
});

describe("keyward calls tail", () => {
  it("prints no advice to continue when it is stopped, because no work is unfinished", async () => {
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
