import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { promisify } from "node:util";
import type { Command } from "commander";
import { expect, it, onTestFinished } from "vitest";
import { collect, readList } from "../src/declarations/arguments.ts";
import { CommandLineError, nameOwnHelp } from "../src/new-program.ts";
import { programFor } from "../src/program.ts";
import { Results } from "../src/terminal/results.ts";
import { newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward, keywardReading, startKeyward } from "./keyward-process.ts";

const run = promisify(execFile);

/** Returns the forms in which a value could be printed or stored. */
function formsOf(value: string): readonly string[] {
  const bytes = Buffer.from(value);
  return [
    value,
    encodeURIComponent(value),
    JSON.stringify(value).slice(1, -1),
    bytes.toString("hex"),
    // Without the last characters, which depend on what follows.
    ...[0, 1, 2].flatMap((shift) => {
      const shifted = Buffer.concat([Buffer.alloc(shift, 0x20), bytes]);
      return (["base64", "base64url"] as const).map((encoding) => shifted.toString(encoding).slice(shift + 1, -4));
    }),
  ];
}

function expectNone(what: string, text: string, values: readonly string[]): void {
  const found = values.flatMap(formsOf).filter((form) => text.includes(form));
  expect({ what, found: found.length }).toEqual({ what, found: 0 });
}

/** Returns the command lines and the environment of the running processes. */
async function processes(): Promise<string> {
  const { stdout } = await run("ps", ["axeww", "-o", "args"], { maxBuffer: 64 * 2 ** 20 });
  return stdout;
}

it("no output, log, file or process contains the value of a secret", { timeout: 180_000 }, async () => {
  const folder = await newFolder();
  const { admin, operator } = await newService(folder);
  const home = await newFolder();
  const gateway = await startGateway(folder);
  const values = ["stdin", "file", "env", "again"].map((name) => `${name}&"${randomBytes(12).toString("base64")}`);
  const [ofStdin = "", ofFile = "", ofEnv = "", again = ""] = values;
  await writeFile(join(home, "value.txt"), ofFile);
  await writeFile(join(home, "values.env"), `ENV_KEY='${ofEnv}'\nSHORT=x\n`);
  const env = { XDG_CONFIG_HOME: home };
  const outputs: string[] = [];
  const keep = async (input: string, ...commandLine: readonly string[]) => {
    const { stdout, stderr } = await keywardReading(input, folder, env, ...commandLine);
    outputs.push(stdout, stderr);
    return stdout;
  };
  await keep(admin, "login", "--url", gateway.url);
  await keep("", "servers", "add", "github", "https://mcp.example.com/mcp");
  await keep(ofStdin, "secrets", "set", "github", "STDIN_KEY", "--bearer");
  await keep("", "secrets", "set", "github", "FILE_KEY", "--from-file", join(home, "value.txt"));
  await keep("", "secrets", "import", "github", join(home, "values.env"));
  await keep(again, "secrets", "set", "github", "STDIN_KEY", "--json", "--no-redact");
  await keep(again, "secrets", "set", "github", "STDIN_KEY", "--if-revision", "0");
  await keep(again, "secrets", "set", "none", "STDIN_KEY");
  await keep("", "secrets", "inject", "github", "FILE_KEY", "--template", "token {value}");
  const token = (await keep("", "tokens", "create", "--owner", "ci", "--servers", "github")).trim();
  for (const format of [[], ["--json"]]) {
    for (const words of [
      ["secrets", "list", "github"],
      ["servers", "show", "github"],
      ["tokens", "list"],
      ["changes"],
      ["calls", "list"],
      ["secrets", "explain", "--server", "github", "--token-id", token.split("_")[2] ?? ""],
    ]) {
      await keep("", ...words, ...format);
    }
    for (const words of [["audit", "export"], ["audit", "verify"], ["gateway", "doctor"], ["doctor"], ["census"]]) {
      await keep("", ...words, ...format);
    }
  }
  await keep("", "inspect", "value/x", "--store", "service");
  for (const [index, text] of outputs.entries()) {
    expectNone(`output ${index}`, text, values);
    // `tokens create` prints the token once, because this is its purpose.
    expectNone(`output ${index}`, text.replace(`${token}\n`, ""), [token, admin, operator]);
  }
  const { stdout, stderr } = gateway.printed();
  expectNone("the log", stdout + stderr, [...values, token, admin, operator]);
  expectNone("the login", await readFile(join(home, "keyward", "login.json"), "utf8"), values);
  expectNone("the configuration", await readFile(join(folder, "keyward.config.ts"), "utf8"), [...values, admin]);
  // A command that waits for its value, as an attacker on the machine sees it.
  const waiting = startKeyward(folder, env, "secrets", "set", "github", "STDIN_KEY");
  onTestFinished(() => void waiting.kill("SIGKILL"));
  expectNone("the processes", await processes(), [...values, token, admin, operator]);
  expect(await gateway.stop()).toBe(0);
  const files = await readdir(join(folder, ".keyward"));
  expect(files).toEqual(expect.arrayContaining(["service.db", "audit.db"]));
  for (const file of files) {
    const text = await readFile(join(folder, ".keyward", file), "latin1");
    expectNone(file, text, [...values, token, admin, operator, "STDIN_KEY", "mcp.example.com"]);
  }
});

it("commands for records refuse the records of the service, although the keyring could decrypt these records", async () => {
  const folder = await newFolder();
  await newService(folder);
  for (const words of [
    ["get", "service", "--namespace", "keyward-service"],
    ["get", "keyward-service:service"],
    ["delete", "service", "--namespace", "keyward-service", "--yes"],
  ]) {
    const ended = await keyward(folder, {}, "record", ...words, "--store", "service");
    expect({ words, exitCode: ended.exitCode, stdout: ended.stdout }).toEqual({ words, exitCode: 2, stdout: "" });
  }
});

it("no mistake in a command line repeats the text that was given for a choice, a number or a time", async () => {
  const pasted = `ghp_${randomBytes(18).toString("hex")}`;
  const printed: string[] = [];
  const commandsIn = (command: Command): readonly Command[] => [command, ...command.commands.flatMap(commandsIn)];
  const results = new Results(process.stdout);
  const newProgram = () => {
    const stderr = Object.assign(new PassThrough(), { isTTY: false });
    stderr.on("data", (text) => printed.push(String(text)));
    const { signal } = new AbortController();
    const { stdin, stdout } = process;
    const output = { stdin, stdout, stderr, results };
    const program = programFor({ name: "keyward", ...output, env: {}, signal, allowStop: () => {} });
    nameOwnHelp(program);
    return program;
  };
  const pathOf = (command: Command): readonly string[] =>
    command.parent === null ? [] : [...pathOf(command.parent), command.name()];
  const first = newProgram();
  const ofService = first.commands.slice(first.commands.findIndex((command) => command.name() === "gateway"));
  const wrong = ofService
    .filter((command) => command.name() !== "kv")
    .flatMap(commandsIn)
    .flatMap((command) => {
      const checked = command.options.filter(
        ({ argChoices, parseArg }) =>
          (argChoices ?? parseArg) !== undefined && parseArg !== collect && parseArg !== readList,
      );
      const path = pathOf(command);
      return [[...path, `--${pasted}`], ...checked.map(({ long = "" }) => [...path, long, pasted])];
    });
  expect(wrong.length).toBeGreaterThan(60);
  for (const words of wrong) {
    const error: unknown = await newProgram()
      .parseAsync(words, { from: "user" })
      .catch((thrown: unknown) => thrown);
    expect({ words, error }).toEqual({ words, error: expect.any(CommandLineError) });
    if (error instanceof CommandLineError) printed.push(error.message, error.hint);
  }
  expect(printed.join("\n")).toContain("(not shown)");
  expect(printed.join("\n")).not.toContain(pasted);
});

it("no message of a command that runs repeats an address or a path that was pasted", async () => {
  const folder = await newFolder();
  await newService(folder);
  const pasted = `ghp_${randomBytes(18).toString("hex")}`;
  for (const words of [
    ["gateway", "start", "--allow-address", pasted],
    ["gateway", "start", "--allow-address", `${pasted}:443`],
    ["audit", "anchor", "--out", join(folder, pasted, "anchors")],
    ["audit", "verify", "--anchor", pasted],
  ]) {
    for (const format of [[], ["--json"]]) {
      const { exitCode, stdout, stderr } = await keyward(folder, {}, ...words, ...format);
      expect({ words, exitCode, found: (stdout + stderr).includes(pasted) }).toEqual({
        words,
        exitCode: 2,
        found: false,
      });
    }
  }
});

it("no message repeats a token that was passed instead of an id or a name", async () => {
  const folder = await newFolder();
  const { admin } = await newService(folder);
  const { url } = await startGateway(folder);
  const env = { KEYWARD_URL: url, KEYWARD_TOKEN: admin };
  for (const words of [
    ["tokens", "revoke", admin],
    ["tokens", "rotate", admin],
    ["tokens", "revoke", admin, "rotate"],
    ["tokens", "create", "--owner", "ci", "--expires", admin],
    ["tokens", "create", "--owner", "ci", "--role", admin],
    ["tokens", "create", "--owner", "ci", "--methods", admin],
    ["tokens", `--${admin}`],
    ["tokens", admin],
    ["secrets", admin],
    ["secrets", "list", admin],
    ["audit", "anchor", "--out", admin],
    ["audit", "anchor", "--out", `anchors/${admin}.txt`, "--json"],
    ["audit", "verify", "--anchor", admin],
    ["keyring", "export", admin],
    ["inspect", admin],
    ["census", "--store", `sqlite:${admin}`],
    ["workspaces", "create", "payments", "--owner", admin],
    ["secrets", "explain", "--server", "github", "--token-id", admin],
    ["secrets", "explain", "--server", admin, "--token-id", "aaaaaaaaaaaa"],
    ["calls", "list", "--token-id", admin],
    ["calls", "tail", "--token-id", admin],
    ["calls", "explain", admin],
    ["calls", admin],
  ]) {
    const ended = await keyward(folder, env, ...words);
    expect({ words: words.length, exitCode: ended.exitCode }).not.toMatchObject({ exitCode: 0 });
    expect(ended.stdout + ended.stderr).not.toContain(admin);
  }
  expect((await readdir(folder)).toSorted()).toEqual([".keyward", "keyward.config.ts"]);
  // Another gateway may be the server, so a token may be the value of a secret.
  await keyward(folder, env, "servers", "add", "other", "https://gateway.example.com");
  const set = await keyward(folder, env, "secrets", "set", "other", "TOKEN", admin, "--bearer");
  expect(set).toMatchObject({ exitCode: 0 });
  expect(set.stdout + set.stderr).not.toContain(admin);
});
