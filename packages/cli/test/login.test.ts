import { chmod, mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { copyOfService, newFolder, startGateway } from "./gateway-process.ts";
import { keyward, keywardReading } from "./keyward-process.ts";
import { Terminal } from "./terminal.ts";

const value = "ghp_typed-on-a-terminal-1234";

/** A service that runs, and the environment of a person who has not logged in yet. */
async function begin() {
  const folder = await newFolder();
  const service = await copyOfService(folder);
  const gateway = await startGateway(folder);
  const home = await newFolder();
  const env = { XDG_CONFIG_HOME: home };
  return { ...service, url: gateway.url, env, file: join(home, "keyward", "login.json") };
}

async function logIn({ folder, env, url, admin }: Awaited<ReturnType<typeof begin>>): Promise<void> {
  expect(await keywardReading(`${admin}\n`, folder, env, "login", "--url", url)).toMatchObject({ exitCode: 0 });
}

describe("keyward login", () => {
  it("asks for the URL and the token without an echo, and writes a file that only its owner can read", async () => {
    const { folder, env, url, admin, file } = await begin();
    const terminal = new Terminal(folder, env, "login");
    await terminal.answer("The URL of the service", url);
    await terminal.answer("The token", admin);
    expect(await terminal.end()).toBe(0);
    expect(terminal.text).toContain(`You are logged in at ${url} as first admin (admin)`);
    expect(terminal.printed).not.toContain(admin);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect((await stat(join(file, ".."))).mode & 0o777).toBe(0o700);
    expect(JSON.parse(await readFile(file, "utf8"))).toEqual({ version: 1, url, token: admin });
    expect(await keyward(folder, env, "servers", "list")).toMatchObject({ exitCode: 0 });
  });

  it("refuses an invalid URL before it asks for the token", async () => {
    const terminal = new Terminal(await newFolder(), {}, "login", "--url", "ftp://keyward.example.com");
    expect(await terminal.end()).toBe(2);
    expect(terminal.text).toContain("is not a URL that begins with http:// or https://");
    expect(terminal.text).not.toContain("The token");
  });

  it("replaces a former login, and logout removes the login", async () => {
    const begun = await begin();
    const { folder, env, url, operator, file } = begun;
    await logIn(begun);
    await keywardReading(operator, folder, env, "login", "--url", url);
    expect(await readFile(file, "utf8")).toContain(operator);
    expect(await keyward(folder, env, "logout")).toMatchObject({ exitCode: 0 });
    expect(await keyward(folder, env, "servers", "list")).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("You are not logged in"),
    });
  });

  it("stores nothing if the service refuses the token or does not answer", async () => {
    const { folder, env, url, admin, file } = await begin();
    const refused = await keywardReading(`${admin}x`, folder, env, "login", "--url", url);
    expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("TOKEN_REFUSED") });
    const silent = await keywardReading(admin, folder, env, "login", "--url", "http://127.0.0.1:1");
    expect(silent).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("SERVICE_UNREACHABLE") });
    const plain = await keywardReading(admin, folder, env, "login", "--url", "http://keyward.example.com");
    expect(plain).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("plain HTTP") });
    for (const { stdout, stderr } of [refused, silent, plain]) expect(stdout + stderr).not.toContain(admin);
    await expect(stat(file)).rejects.toThrow("ENOENT");
  });

  it.each([[["--token", "TOKEN"]], [["--token=TOKEN"]], [["TOKEN"]], [["--url", "TOKEN"]], [["--TOKEN"]]])(
    "refuses a token in the command line and never repeats the token: %j",
    async (flags) => {
      const token = "kwt_aaaaaaaaaaaa_bbbbbbbbbbbb_cccccccccccccccccccccccccccccccccccccccccccccccccc";
      const given = flags.map((flag) => flag.replace("TOKEN", token));
      for (const format of [[], ["--json"]]) {
        const ended = await keyward(await newFolder(), { XDG_CONFIG_HOME: "/none" }, "login", ...given, ...format);
        expect(ended.exitCode).toBe(2);
        expect(ended.stdout + ended.stderr).not.toContain(token);
      }
    },
  );

  it("writes a login that later commands refuse if others can read the file, or if the file is not a login", async () => {
    const begun = await begin();
    const { folder, env, file } = begun;
    await logIn(begun);
    await chmod(file, 0o644);
    const list = async () => await keyward(folder, env, "servers", "list");
    expect(await list()).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("Other users may read") });
    await chmod(file, 0o600);
    await writeFile(file, '{"token":"kwt_secret"');
    expect(await list()).toMatchObject({ exitCode: 2, stderr: expect.stringMatching(/is not a login(?!.*kwt_)/s) });
  });

  it("writes a login that is not used if KEYWARD_URL and KEYWARD_TOKEN are set; only one of them is refused", async () => {
    const begun = await begin();
    const { folder, env, url, admin, operator } = begun;
    await logIn(begun);
    const as = async (variables: Readonly<Record<string, string>>) =>
      await keyward(folder, { ...env, ...variables }, "workspaces", "list");
    expect(await as({})).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("NOT_ALLOWED") });
    expect(await as({ KEYWARD_URL: url, KEYWARD_TOKEN: operator })).toMatchObject({ exitCode: 0 });
    expect(await as({ KEYWARD_TOKEN: admin })).toMatchObject({
      exitCode: 2,
      stderr: expect.stringContaining("KEYWARD_URL"),
    });
    expect(await as({ KEYWARD_URL: "http://127.0.0.1:1" })).toMatchObject({ exitCode: 2 });
  });
});

describe("the value of a secret", () => {
  async function withServer() {
    const begun = await begin();
    await logIn(begun);
    const { folder, env } = begun;
    await keyward(folder, env, "servers", "add", "github", "https://mcp.example.com/mcp");
    return begun;
  }

  it("is read from a terminal that does not show it", async () => {
    const { folder, env } = await withServer();
    const terminal = new Terminal(folder, env, "secrets", "set", "github", "GITHUB_TOKEN", "--bearer");
    await terminal.waitFor("The value of GITHUB_TOKEN");
    // Ctrl-T shows the answer in other programs that ask with the same library.
    terminal.press(`${value.slice(0, 8)}\x14`);
    await terminal.answer("The value of GITHUB_TOKEN", value.slice(8));
    expect(await terminal.end()).toBe(0);
    expect(terminal.text).toContain("takes effect on the next call");
    expect(terminal.printed).not.toContain(value.slice(0, 8));
    expect(terminal.printed).not.toContain("*".repeat(value.length));
    const { stdout } = await keyward(folder, env, "secrets", "list", "github");
    expect(stdout).toMatch(
      /^GITHUB_TOKEN {2}Authorization: Bearer … {2}revision 1 {2}\d{4}-\d\d-\d\d {2}never used\n$/,
    );
  });

  it("is refused if several lines are pasted, and nothing is set", async () => {
    const { folder, env } = await withServer();
    const terminal = new Terminal(folder, env, "secrets", "set", "github", "GITHUB_TOKEN");
    await terminal.answer("The value of GITHUB_TOKEN", "first-line-of-a-key\rsecond-line-of-a-key");
    expect(await terminal.end()).toBe(2);
    expect(terminal.text).toContain("more than one line");
    expect(terminal.printed).not.toContain("line-of-a-key");
    expect(await keyward(folder, env, "secrets", "list", "github")).toMatchObject({
      stdout: expect.stringContaining("has no secrets"),
    });
  });

  it("is not set if Ctrl-C ends the question", async () => {
    const { folder, env } = await withServer();
    const terminal = new Terminal(folder, env, "secrets", "set", "github", "GITHUB_TOKEN");
    await terminal.waitFor("The value of GITHUB_TOKEN");
    terminal.press("\x03");
    expect(await terminal.end()).toBe(130);
    expect(await keyward(folder, env, "secrets", "list", "github")).toMatchObject({
      stdout: expect.stringContaining("has no secrets"),
    });
  });

  it("is set without the last newline of stdin or of a file, and the command reports the removed newline", async () => {
    const { folder, env } = await withServer();
    await writeFile(join(folder, "token.txt"), `${value}\r\n`);
    const ofStdin = await keywardReading(`${value}\n`, folder, env, "secrets", "set", "github", "FIRST");
    const ofFile = await keyward(folder, env, "secrets", "set", "github", "SECOND", "--from-file", "token.txt");
    for (const ended of [ofStdin, ofFile]) {
      expect(ended).toMatchObject({
        exitCode: 0,
        stderr: expect.stringContaining("The newline at the end of the value"),
      });
    }
    const two = await keywardReading(`${value}\n\n`, folder, env, "secrets", "set", "github", "THIRD");
    expect(two).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("has more than one line") });
    for (const input of ["", "\n"]) {
      const empty = await keywardReading(input, folder, env, "secrets", "set", "github", "THIRD");
      expect(empty).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("The value is empty") });
    }
  });

  it("is accepted as an argument, with a warning about who can see the argument", async () => {
    const { folder, env } = await withServer();
    const ended = await keyward(folder, env, "secrets", "set", "github", "TOKEN", value, "--bearer");
    expect(ended).toMatchObject({
      exitCode: 0,
      stderr: expect.stringContaining("every user of this machine can see it"),
    });
    expect(ended.stdout + ended.stderr).not.toContain(value);
  });

  it("is not repeated by the error for a wrong command line", async () => {
    const { folder, env } = await withServer();
    const commandLines: readonly (readonly string[])[] = [
      ["github", "TOKEN", value, "more"],
      ["github", "TOKEN", value, "--bearer", "--basic"],
      ["github", "TOKEN", "--expires", value],
      ["github", "TOKEN", `--${value}`],
      ["github", "TOKEN", "-x", "--abcdefgh"],
      ["github", "TOKEN", "--if-revision", value],
      ["github", "TOKEN", "--from-file", value],
      ["github", "TOKEN", "--template", value],
      ["no-server", "TOKEN", value],
      ["github", "TOKEN", value, "--header", "host"],
    ];
    for (const words of commandLines) {
      const command = ["secrets", "set", ...words];
      const ended = await Promise.all(
        [[], ["--json"], ["--quiet"]].map((format) => keywardReading(value, folder, env, ...command, ...format)),
      );
      for (const { exitCode, stdout, stderr } of ended) {
        expect(exitCode).not.toBe(0);
        expect(stdout + stderr).not.toContain(value);
        expect(stdout + stderr).not.toContain("abcdefgh");
      }
    }
  });

  it("is imported from an .env file, which may set several secrets", async () => {
    const { folder, env } = await withServer();
    const lines = [
      "# a remark",
      "export FIRST_KEY=first-value-of-the-file",
      "SECOND_KEY='second value # of the file'",
      'THIRD_KEY="third value"',
      "",
    ];
    await writeFile(join(folder, "values.env"), [...lines, "SHORT=x"].join("\n"));
    const unfit = await keyward(folder, env, "secrets", "import", "github", "values.env");
    expect(unfit).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("nothing was set. Line 6: the value") });
    expect((await keyward(folder, env, "secrets", "list", "github")).stdout).not.toContain("FIRST_KEY");
    await writeFile(join(folder, "values.env"), lines.join("\n"));
    const ended = await keyward(folder, env, "secrets", "import", "github", "values.env");
    expect(ended.stdout).toMatch(/^FIRST_KEY {3}set\nSECOND_KEY {2}set\nTHIRD_KEY {3}set\n/);
    for (const part of ["first-value", "second value", "third value"]) {
      expect(ended.stdout + ended.stderr).not.toContain(part);
    }
    expect(await keyward(folder, env, "secrets", "import", "github", "values.env")).toMatchObject({
      stdout: expect.stringContaining("FIRST_KEY   has a new value"),
    });
    const unfitLines = [
      "GOOD=a-value-that-fits",
      "CONTROL='hidden-text\u0007-inside'",
      "SPACED=hidden-text\u00a0",
      "Host=hidden-text-of-a-host",
      "first_key=hidden-text-of-a-header",
      "mcp-session-id=hidden-text-of-a-session",
      "aVerySecretValue123=HIDDEN_TEXT",
    ];
    await writeFile(join(folder, "unfit.env"), unfitLines.join("\n"));
    const { exitCode, stdout, stderr } = await keyward(folder, env, "secrets", "import", "github", "unfit.env");
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
    expect(stderr.split("\n")[0]?.split("nothing was set. ")[1]?.split("; ")).toEqual([
      "Line 2: the value must be a text without control characters, such as the end of a line",
      "Line 3: the value must be a text without white space at either end",
      "Line 4: no value can be sent in the header with this name",
      "Line 5: the secret FIRST_KEY sets the same header",
      "Line 6: no value can be sent in the header with this name",
      "Line 7: the name and the value seem to be swapped (USAGE)",
    ]);
    expect(stderr).not.toMatch(/hidden.text|aVerySecret/i);
    expect((await keyward(folder, env, "secrets", "list", "github")).stdout).not.toContain("GOOD");
    await writeFile(join(folder, "wrong.env"), "FOURTH_KEY=fourth-value\nFIFTH_KEY=fifth-value#of-the-file\n");
    const refused = await keyward(folder, env, "secrets", "import", "github", "wrong.env");
    expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("Line 2 of the file") });
    expect(refused.stderr).not.toContain("fifth-value");
    expect((await keyward(folder, env, "secrets", "list", "github")).stdout).not.toContain("FOURTH_KEY");
    await mkdir(join(folder, "empty"));
    expect(await keyward(folder, env, "secrets", "import", "github", "empty")).toMatchObject({ exitCode: 2 });
  });
});
