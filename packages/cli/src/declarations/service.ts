import type { CallOutcome, ChangeAction } from "@keyward/admin/client";
import { type Command, InvalidArgumentError, Option } from "commander";
import type { OpenContext } from "../context.ts";
import { readDuration } from "../terminal/durations.ts";
import { amountBetween, collect, readFutureTime, readList, readTime } from "./arguments.ts";

const actions = [
  "service.initialize",
  "audit.begin",
  "workspace.create",
  "workspace.delete",
  "server.create",
  "server.update",
  "server.delete",
  "secret.set",
  "secret.delete",
  "secret.inject",
  "token.create",
  "token.revoke",
  "token.rotate",
  "token.recover",
] as const satisfies readonly ChangeAction[];
const outcomes = ["answered", "failed", "refused", "left"] as const satisfies readonly CallOutcome[];
const methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] as const;
const largestRevision = 2 ** 40;
const longestOverlapMs = 30 * 24 * 3_600_000;
const shortestPauseMs = 100;
/** The largest number of items that `--limit` accepts. */
const mostListed = 100_000;

/** Declares the commands of the admin API: workspaces, servers, secrets, tokens, changes, calls and the audit. */
export function declareService(program: Command, context: OpenContext): void {
  declareWorkspaces(program.command("workspaces").description("Manage the workspaces. For operators."), context);
  declareServers(program.command("servers").description("Manage the servers of the workspace."), context);
  declareSecrets(
    program.command("secrets").description("Set and delete the secrets of servers. No command prints a value."),
    context,
  );
  declareTokens(program.command("tokens").description("Manage the tokens of the workspace, or of operators."), context);
  limited(program.command("changes").description("List who changed what, newest first. Never a value."))
    .option("--owner <owner>", "only the changes of this owner")
    .option("--server <slug>", "only the changes of this server")
    .addOption(new Option("--action <action>", "only the changes of this kind").choices(actions))
    .option("--from <time>", "only the changes at or after a time, such as 2030-01-31", readTime)
    .option("--until <time>", "only the changes before a time", readTime)
    .action(
      async (options) => await (await import("../commands/service/changes.ts")).listChanges(await context(), options),
    );
  declareCalls(
    program.command("calls").description("Show who called what through the gateway. Never a value."),
    context,
  );
  declareAudit(
    program.command("audit").description("Verify and export the audit, on the machine that has the keyring."),
    context,
  );
}

function declareWorkspaces(workspaces: Command, context: OpenContext): void {
  const load = () => import("../commands/service/workspaces.ts");
  workspaces
    .command("create <name>")
    .description("Create a workspace, and print the token of its first admin.")
    .requiredOption("--owner <owner>", "the label of the admin's token, such as the name of a person")
    .action(async (name: string, options) => await (await load()).createWorkspace(await context(), name, options));
  limited(workspaces.command("list").description("List the workspaces, newest first.")).action(
    async (options) => await (await load()).listWorkspaces(await context(), options),
  );
  conditional(
    workspaces.command("delete <name>").description("Delete a workspace with its servers, secrets and tokens."),
  ).action(async (name: string, options) => await (await load()).deleteWorkspace(await context(), name, options));
}

function declareServers(servers: Command, context: OpenContext): void {
  const load = () => import("../commands/service/servers.ts");
  const kind = (ifMissing: string) =>
    new Option(
      "--kind <kind>",
      `mcp for an MCP server, called at /s/<slug>/mcp; http for any other HTTP API, called at /s/<slug>/<path> (default: ${ifMissing})`,
    ).choices(["mcp", "http"]);
  const forwardHeader = () =>
    new Option("--forward-header <name>", "a header of callers that is forwarded too; repeatable").argParser(collect);
  const relayHeader = () =>
    new Option("--relay-header <name>", "a header of answers that is relayed too; repeatable").argParser(collect);
  servers
    .command("add <slug> <url>")
    .description("Add a server: its name in URLs, and the URL that calls are sent to.")
    .addOption(kind("mcp"))
    .addOption(forwardHeader())
    .addOption(relayHeader())
    .addHelpText(
      "after",
      "\nExamples:\n  keyward servers add github https://mcp.example.com/mcp\n  keyward servers add billing https://api.example.com/v1 --kind http",
    )
    .action(
      async (slug: string, url: string, options) => await (await load()).addServer(await context(), slug, url, options),
    );
  limited(servers.command("list").description("List the servers, newest first.")).action(
    async (options) => await (await load()).listServers(await context(), options),
  );
  servers
    .command("show <slug>")
    .description("Show a server.")
    .action(async (slug: string) => await (await load()).showServer(await context(), slug));
  conditional(
    servers
      .command("set <slug>")
      .description("Change the URL, the kind or the headers of a server, or whether it is enabled."),
  )
    .option("--url <url>", "the URL. Calls cannot use values that were set for another origin")
    .addOption(kind("as it is"))
    .addOption(forwardHeader().conflicts("forwardHeaders"))
    .option("--no-forward-headers", "forward no header besides those that are always forwarded")
    .addOption(relayHeader().conflicts("relayHeaders"))
    .option("--no-relay-headers", "relay no header besides those that are always relayed")
    .addOption(new Option("--disable", "refuse calls to the server").conflicts("enable"))
    .option("--enable", "allow calls to the server again")
    .action(async (slug: string, options) => await (await load()).setServer(await context(), slug, options));
  conditional(servers.command("remove <slug>").description("Remove a server with its secrets.")).action(
    async (slug: string, options) => await (await load()).removeServer(await context(), slug, options),
  );
}

function declareSecrets(secrets: Command, context: OpenContext): void {
  const load = () => import("../commands/service/secrets.ts");
  conditional(ruled(valued(secrets.command("set <server> <name> [value]"))))
    .usage("[options] <server> <name>")
    .description("Set a value. Asks for the value without showing it, or reads it from stdin or a file.")
    .option("--from-file <file>", "the file that has the value")
    .addHelpText(
      "after",
      "\nExamples:\n  keyward secrets set github GITHUB_TOKEN --bearer\n  keyward secrets set github GITHUB_TOKEN --bearer --from-file token.txt",
    )
    .action(
      async (server: string, name: string, value: string | undefined, options) =>
        await (await load()).setSecret(await context(), server, name, value, options),
    );
  secrets
    .command("list <server>")
    .description("List the secrets of a server: rule, revision, date and last use. Never a value.")
    .action(async (server: string) => await (await load()).listSecrets(await context(), server));
  conditional(secrets.command("delete <server> [name]").description("Delete a secret, or all secrets of a server."))
    .option("--all", "delete all secrets of the server", false)
    .action(
      async (server: string, name: string | undefined, options) =>
        await (await load()).deleteSecrets(await context(), server, name, options),
    );
  conditional(
    ruled(secrets.command("inject <server> <name>").description("Change how the value enters the request.")),
  ).action(
    async (server: string, name: string, options) =>
      await (await load()).setInjection(await context(), server, name, options),
  );
  valued(
    secrets.command("import <server> <file>").description("Set a secret for each variable of an .env file."),
  ).action(
    async (server: string, file: string, options) =>
      await (await load()).importSecrets(await context(), server, file, options),
  );
  secrets
    .command("explain")
    .description("Explain what a call would do: the secrets, the rules and the host, or why it would be refused.")
    .requiredOption("--server <slug>", "the server that would be called")
    .requiredOption("--token-id <id>", "the id of the token with which the call would be made")
    .option("--tool <name>", "the tool of an MCP server that would be called")
    .option("--method <method>", "the HTTP method with which another server would be called", readMethod)
    .addHelpText(
      "after",
      "\nThe exit code is 0 also for a call that would be refused. With --json, `refusals` is empty for a call that would be made.",
    )
    .action(async (options) => await (await load()).explainSecrets(await context(), options));
}

function declareTokens(tokens: Command, context: OpenContext): void {
  const load = () => import("../commands/service/tokens.ts");
  tokens
    .command("create")
    .description("Create a token and print it once.")
    .requiredOption("--owner <owner>", "the label of the token, such as the name of a person or a program")
    .addOption(
      new Option("--role <role>", "what the holder may do")
        .choices(["member", "auditor", "admin", "operator"])
        .default("member"),
    )
    .option("--servers <slugs>", "the servers that a member may call (default: all)", readList)
    .option(
      "--tools <names>",
      "the tools that a member may call; without --methods, no server of the kind http (default: all)",
      readList,
    )
    .option("--methods <methods>", "the HTTP methods that a member may use (default: all)", readMethods)
    .option("--expires <time>", "when the token expires, such as 2030-01-31 (default: never)", readFutureTime)
    .addHelpText("after", "\nExample:\n  keyward tokens create --owner ci --servers github")
    .action(async (options) => await (await load()).createToken(await context(), options));
  limited(tokens.command("list").description("List the tokens, newest first, without their texts."))
    .option("--owner <owner>", "only the tokens of this owner")
    .action(async (options) => await (await load()).listTokens(await context(), options));
  tokens
    .command("revoke [id]")
    .description("Revoke a token, or all tokens of an owner.")
    .option("--owner <owner>", "revoke all tokens of this owner")
    .action(async (id: string | undefined, options) => await (await load()).revokeTokens(await context(), id, options));
  tokens
    .command("rotate <id>")
    .description("Replace a token by one of the same owner, role and scopes, and print the new one once.")
    .addOption(
      new Option("--overlap <duration>", "how long the former token stays valid, at most 30d")
        .argParser(readOverlap)
        .default(3_600_000, "1h"),
    )
    .action(async (id: string, options) => await (await load()).rotateToken(await context(), id, options));
  tokens
    .command("recover")
    .description("Create a token on the machine that has the keyring, without the admin API.")
    .option("--workspace <name>", "the workspace of which the token is an admin (default: a token of an operator)")
    .option("--owner <owner>", "the label of the token", "recovered")
    .action(async (options) => await (await load()).recoverToken(await context(), options));
}

function declareCalls(calls: Command, context: OpenContext): void {
  const load = () => import("../commands/service/calls.ts");
  ofCalls(limited(calls.command("list").description("List the calls. The call that ended last is first.")))
    .option("--from <time>", "only the calls that ended at or after a time, such as 2030-01-31", readTime)
    .option("--until <time>", "only the calls that ended before a time", readTime)
    .action(async (options) => await (await load()).listCalls(await context(), options));
  ofCalls(calls.command("tail").description("Print each call that ends from now on, until Ctrl-C."))
    .addOption(
      new Option("--every <duration>", "the pause between two questions to the service")
        .argParser(readEvery)
        .default(1_000, "1s"),
    )
    .action(async (options) => await (await load()).tailCalls(await context(), options));
  calls
    .command("explain <id>")
    .description("Show all that is known about a call: who, what, how it ended, and the secrets that it used.")
    .action(async (id: string) => await (await load()).explainCall(await context(), id));
}

function ofCalls(command: Command) {
  return command
    .option("--owner <owner>", "only the calls of this owner")
    .option("--server <slug>", "only the calls to this server")
    .option("--tool <name>", "only the calls of this tool")
    .option("--token-id <id>", "only the calls with the token that has this id")
    .addOption(new Option("--outcome <outcome>", "only the calls with this outcome").choices(outcomes));
}

function declareAudit(audit: Command, context: OpenContext): void {
  const load = () => import("../commands/service/audit.ts");
  audit
    .command("verify")
    .description("Check the chains of the audit, and with --anchor that the file was not put back to an older state.")
    .option("--anchor <file>", "a file of anchors, which `keyward audit anchor` has written")
    .action(async (options) => await (await load()).verify(await context(), options));
  audit
    .command("anchor")
    .description("Print the heads of the chains as one line of JSON, to keep on another machine.")
    .option("--out <file>", "append the anchor to a file, if the audit verifies against the anchors in the file")
    .action(async (options) => await (await load()).anchor(await context(), options));
  audit
    .command("export")
    .description("Print each entry as one line of JSON, decrypted, oldest first.")
    .option("--workspace <id>", "only the entries of a workspace, or `service` for those of the installation")
    .action(async (options) => await (await load()).exportEntries(await context(), options));
}

function limited(command: Command): Command {
  return command.option(
    "--limit <number>",
    "the maximum number of items (default: 1000)",
    amountBetween(1, mostListed),
  );
}

function conditional(command: Command): Command {
  return command.option(
    "--if-revision <number>",
    "refuse the change if the current revision is another one",
    amountBetween(0, largestRevision),
  );
}

function valued(command: Command): Command {
  return command
    .option("--expires <time>", "when the value expires, such as 2030-01-31 (default: never)", readFutureTime)
    .option("--no-redact", "do not search the answers of the server for the value");
}

function ruled(command: Command): Command {
  return command
    .option("--bearer", "the header Authorization: Bearer <value>")
    .option("--basic", "the header Authorization: Basic, for a value user:password")
    .option(
      "--header <name>",
      "a header whose whole value is the value (default: the header with the name of the secret)",
    )
    .option(
      "--template <text>",
      'a header with a text around the value, such as "token {value}"; with --header, another header than Authorization',
    );
}

function readOverlap(text: string): number {
  const overlapMs = readDuration(text);
  if (overlapMs <= longestOverlapMs) return overlapMs;
  throw new InvalidArgumentError("The longest overlap is 30d.");
}

function readEvery(text: string): number {
  const everyMs = readDuration(text);
  if (everyMs >= shortestPauseMs) return everyMs;
  throw new InvalidArgumentError("The shortest pause is 100ms.");
}

function readMethod(text: string): string {
  const name = text.toUpperCase();
  if (methods.some((known) => known === name)) return name;
  throw new InvalidArgumentError(`The methods are ${methods.join(", ")}.`);
}

function readMethods(text: string): readonly string[] {
  const names = readList(text.toUpperCase());
  if (names.every((name) => methods.some((known) => known === name))) return names;
  throw new InvalidArgumentError(`The methods are ${methods.join(", ")}.`);
}
