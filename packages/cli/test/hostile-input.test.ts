import { execFileSync } from "node:child_process";
import { createServer } from "node:http";
import { homedir } from "node:os";
import { join } from "node:path";
import { hasToken as hasTokenOfService } from "@keyward/secrets/fields";
import { describe, expect, it, onTestFinished } from "vitest";
import { readTime } from "../src/declarations/arguments.ts";
import { CommandError } from "../src/exit-codes.ts";
import { listAll } from "../src/service/listed.ts";
import { loginPath } from "../src/service/login-file.ts";
import { textOfFile } from "../src/service/secret-value.ts";
import { errorResult } from "../src/terminal/output.ts";
import { hasToken } from "../src/terminal/without-tokens.ts";
import { newFolder } from "./gateway-process.ts";
import { keyward, keywardReading } from "./keyward-process.ts";

const token = "kwt_service_tl0qvoqf3yxc_K2OPoY6xNiiw3El1XPIjsSFIjmJmxnU8hgQryOkE50d4dA2ku";

/** Starts a server that gives one answer to every request, and notes the requests. */
async function answering(body: object): Promise<{ readonly url: string; readonly requests: string[] }> {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url}`);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(body));
  });
  server.listen(0, "127.0.0.1");
  onTestFinished(() => void server.close());
  await expect.poll(() => server.address()).not.toBeNull();
  const address = server.address();
  return { url: `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}`, requests };
}

describe("a time in a flag", () => {
  it.each(["2026-02-31", "2026-13-01", "2025-02-29T12:00:00Z", "2026-04-31T00:00:00+02:00", "0000-00-00"])(
    "is refused if the day does not exist: %s",
    (text) => expect(() => readTime(text)).toThrow("A time is 2030-01-31"),
  );

  it("may be the last day of February in a leap year", () => {
    expect(readTime("2028-02-29T23:59:59-12:00")).toBe("2028-03-01T11:59:59.000Z");
  });
});

describe("the file of the login", () => {
  it.each(["", "relative", undefined])("is not written to the folder of the process if HOME is %j", (home) => {
    expect(loginPath({ HOME: home, XDG_CONFIG_HOME: "" })).toBe(join(homedir(), ".config", "keyward", "login.json"));
  });
});

describe("a pipe instead of a file", () => {
  it("does not keep a stopped command waiting for a writer", async () => {
    const pipe = join(await newFolder(), "pipe");
    execFileSync("mkfifo", [pipe]);
    const stop = new AbortController();
    const reading = textOfFile(pipe, { signal: stop.signal });
    stop.abort();
    await expect(reading).rejects.toThrow("cannot be read");
  });
});

describe("a token at the wrong place in a command line", () => {
  it.each([
    ["changes", "--from", token],
    ["--env", token, "login"],
    ["servers", "show", token],
  ])("is not repeated: %s %s %s", async (...words) => {
    const env = { KEYWARD_URL: "http://127.0.0.1:1", KEYWARD_TOKEN: "kwt_x", XDG_CONFIG_HOME: "/none" };
    for (const format of [[], ["--json"]]) {
      const ended = await keyward(await newFolder(), env, ...words, ...format);
      expect(ended.exitCode).not.toBe(0);
      expect(ended.stdout + ended.stderr).not.toContain("K2OPoY6");
    }
  });

  it("is recognized by the command and by the service in the same way, even if its end is missing", () => {
    const found = Array.from(token, (_, index) => {
      const part = token.slice(0, index + 1);
      return [hasToken(part), hasTokenOfService(part)];
    });
    const known = token.length - 33;
    expect(found.slice(0, known - 1)).toEqual(Array(known - 1).fill([false, false]));
    expect(found.slice(known - 1)).toEqual(Array(34).fill([true, true]));
  });

  it.each([
    ["without its first character", token.slice(1)],
    ["without its prefix", token.slice("kwt_".length)],
    ["percent-encoded", token.replaceAll("_", "%5F")],
    ["written with hyphens", token.replaceAll("_", "-")],
    ["written with a full-width prefix", token.replace("kwt", "ｋｗｔ")],
  ])("is refused by commands, and repeated by no error, if it is %s", async (_, disguised) => {
    expect([hasToken(disguised), hasTokenOfService(disguised)]).toEqual([true, true]);
    const folder = await newFolder();
    for (const flags of [
      ["servers", "add", "github", `https://mcp.example.com/${disguised}`],
      ["changes", "--from", disguised],
    ]) {
      const { exitCode, stdout, stderr } = await keyward(folder, {}, ...flags);
      expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
      expect(stderr).not.toContain(token.slice(-40));
    }
    const { message } = errorResult(new CommandError("USAGE", `no "${disguised}" here`, { hint: "None." }));
    expect(message).toBe("no kwt_… here");
  });

  it("is not repeated by any error", () => {
    const error = errorResult(new CommandError("USAGE", `no ${token}`, { hint: `pass ${token}` }));
    expect(error).toMatchObject({ message: "no kwt_…", hint: "pass kwt_…" });
  });
});

describe("a hostile server", () => {
  it("cannot make a list command run forever by sending pages without items", async () => {
    const context = { signal: new AbortController().signal, output: { notice: () => undefined } };
    const readPage = async () => ({ items: [], next: "more", unreadable: [] });
    await expect(listAll({ ...context, output: Object(context.output) }, readPage, {})).rejects.toThrow(
      "without items",
    );
  });

  it("cannot add lines to the output through the name of an owner, and the token is not sent to a proxy", async () => {
    const owner = "ada\u001b[8m\nkeyward: all is well";
    const ids = { tokenId: "abcdefabcdef", workspace: "abcdefabcdef" };
    const whoami = { ...ids, owner, role: "admin", expires: null, callUrl: null };
    const { url, requests } = await answering(whoami);
    const proxy = await answering({});
    const env = { XDG_CONFIG_HOME: await newFolder(), NODE_USE_ENV_PROXY: "1", HTTP_PROXY: proxy.url };
    const ended = await keywardReading(token, await newFolder(), env, "login", "--url", url);
    expect(ended).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("ada\\x1b[8m\\x0akeyward") });
    expect({ sent: requests.length, toProxy: proxy.requests }).toEqual({ sent: 1, toProxy: [] });
  });
});
