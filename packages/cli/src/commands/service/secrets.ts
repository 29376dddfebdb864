import { AdminApiError, type CallExplanation, type Secret, type SecretChange } from "@keyward/admin/client";
import type { Context } from "../../context.ts";
import { CommandError, Interrupted, ProblemsPrinted } from "../../exit-codes.ts";
import { explanationResult } from "../../results/call-results.ts";
import { secretResult } from "../../results/service-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { envVariables } from "../../service/env-file.ts";
import { type InjectionFlags, injectionOf, shownInjection } from "../../service/injection-flags.ts";
import { readValue, textOfFile } from "../../service/secret-value.ts";
import { unfitVariables } from "../../service/unfit-variables.ts";
import { shownSince } from "../../terminal/durations.ts";
import { type ErrorResult, errorResult, oneLine, table } from "../../terminal/output.ts";
import { dayOf } from "../../terminal/times.ts";
import type { HttpMethod } from "./tokens.ts";

/** The options of commands that set values. */
export interface ValueOptions {
  /** When the value expires, in RFC 3339. */
  readonly expires?: string;
  /** False for `--no-redact`. */
  readonly redact: boolean;
}

/** The options of `keyward secrets set`. */
export interface SetOptions extends ValueOptions, InjectionFlags {
  readonly fromFile?: string;
  readonly ifRevision?: number;
}

const nextCall = "The change takes effect on the next call.";

/** Sets the value of a secret. Reads the value from stdin or a file, or asks for it. Never prints the value. */
export async function setSecret(
  context: Context,
  server: string,
  name: string,
  value: string | undefined,
  { fromFile, expires, redact, ifRevision, ...flags }: SetOptions,
): Promise<void> {
  const injection = injectionOf(flags);
  const { client } = await adminAccess(context);
  const text = await readValue(context, name, { value, fromFile });
  const redacted = redact ? undefined : false;
  const change = await client.setSecret(server, { name, value: text, injection, expires, redacted }, { ifRevision });
  printWarnings(context, change);
  const done = change.created ? "is set" : "has a new value";
  context.output.result(
    `${name} ${done}: ${shownInjection(change.secret.injection)}, bound to ${change.secret.origin}. ${nextCall}`,
    changeResult(change),
  );
}

/** Changes how the value of a secret enters the request. */
export async function setInjection(
  context: Context,
  server: string,
  name: string,
  { ifRevision, ...flags }: InjectionFlags & { readonly ifRevision?: number },
): Promise<void> {
  const injection = injectionOf(flags);
  if (injection === undefined) {
    throw new CommandError("USAGE", "The command line has no rule", {
      hint: "Pass one of --bearer, --basic, --header <name> and --template <text>. For the header with the name of the secret, pass this name to --header.",
    });
  }
  const { client } = await adminAccess(context);
  const change = await client.setInjection(server, name, injection, { ifRevision });
  printWarnings(context, change);
  context.output.result(`${name}: ${shownInjection(change.secret.injection)}. ${nextCall}`, changeResult(change));
}

/** Lists the secrets of a server, sorted by name. Never prints a value. */
export async function listSecrets(context: Context, server: string): Promise<void> {
  const { client } = await adminAccess(context);
  const { secrets } = await client.listSecrets(server);
  const text =
    secrets.length === 0
      ? `The server ${server} has no secrets. Set one: keyward secrets set ${server} <NAME>`
      : table(secrets.map(rowOf));
  context.output.result(text, { server, secrets: secrets.map(secretResult) });
}

/** Deletes a secret, or all secrets of a server. */
export async function deleteSecrets(
  context: Context,
  server: string,
  name: string | undefined,
  { all, ifRevision }: { readonly all: boolean; readonly ifRevision?: number },
): Promise<void> {
  if (all === (name !== undefined)) {
    throw new CommandError("USAGE", "The command deletes one secret or all secrets of a server", {
      hint: "Pass the name of the secret, or --all instead of a name.",
    });
  }
  const { client } = await adminAccess(context);
  const what =
    name === undefined ? `All secrets of the server ${server}` : `The secret ${name} of the server ${server}`;
  await context.operator.confirm(
    `${what} would be deleted. A deleted value cannot be read again.`,
    "nothing was deleted",
  );
  const names = name === undefined ? (await client.deleteAllSecrets(server, { ifRevision })).names : [name];
  if (name !== undefined) await client.deleteSecret(server, name, { ifRevision });
  const text =
    names.length === 0 ? `The server ${server} has no secrets.` : `Deleted: ${names.join(", ")}. ${nextCall}`;
  context.output.result(text, { server, names });
}

/** The result of setting one secret of a file, as `--json` prints it. */
interface ImportedSecret {
  readonly name: string;
  readonly created: boolean;
  /** Why the secret was not set; `null` if it was. */
  readonly error: ErrorResult | null;
}

/**
 * Sets a secret for each variable of an `.env` file. Continues after a variable that the service refuses. If the command
 * stops before the last variable, the result shows which secrets were set.
 *
 * @throws ProblemsPrinted if a variable was not set.
 */
export async function importSecrets(
  context: Context,
  server: string,
  path: string,
  { expires, redact }: ValueOptions,
): Promise<void> {
  const { output, signal } = context;
  const variables = envVariables(await textOfFile(path, { signal }));
  if (variables.length === 0) {
    throw new CommandError("USAGE", "The file has no variables", {
      hint: "A line of the file has the form `NAME=value`. Check the path.",
    });
  }
  const { client } = await adminAccess(context);
  // The whole file is checked before the first secret is set, so that a refused file sets no secret.
  const unfit = unfitVariables(variables, (await client.listSecrets(server)).secrets);
  if (unfit.length > 0) {
    throw new CommandError("USAGE", `The file was refused, so nothing was set. ${unfit.join("; ")}`, {
      hint: "Remove these lines from the file. Set such a secret with `keyward secrets set`, and with `--header <name>` if it needs another header.",
    });
  }
  const redacted = redact ? undefined : false;
  const secrets: ImportedSecret[] = [];
  const print = (rows: readonly (readonly string[])[], all: readonly ImportedSecret[], end: string) =>
    output.result(`${table([...secrets.map(importedRow), ...rows])}\n${end}${nextCall}`, { server, secrets: all });
  try {
    for (const { name, value } of variables) {
      signal.throwIfAborted();
      try {
        const change = await client.setSecret(server, { name, value, expires, redacted });
        secrets.push({ name, created: change.created, error: null });
        printWarnings(context, change);
      } catch (error) {
        // After other codes no further variable could be set.
        if (!(error instanceof AdminApiError) || !perSecret.includes(error.code)) throw error;
        secrets.push({ name, created: false, error: errorResult(error) });
      }
    }
  } catch (error) {
    const isStopped = error instanceof Interrupted;
    const reason = errorResult(isStopped ? stopped : error);
    const left = variables.slice(secrets.length).map(({ name }) => ({ name, created: false, error: reason }));
    const isRefused = error instanceof AdminApiError && error.status !== undefined && error.status < 500;
    const tried = `${isRefused ? "NOT SET" : "MAY BE SET"}: ${reason.message} (${reason.code})`;
    const rows = left.map(({ name }, index) => [name, index > 0 || isStopped ? notReached : tried]);
    print(rows, [...secrets, ...left], "The same command sets every variable again. ");
    throw error;
  }
  const isWhole = secrets.every(({ error }) => error === null);
  print([], secrets, isWhole ? "Delete the file, if nothing else needs it. " : "");
  if (!isWhole) throw new ProblemsPrinted();
}

const notReached = "NOT SET: the command ended before";

const stopped = new CommandError("INTERRUPTED", "The command was stopped", {
  hint: "Run the same command again. It sets every variable again.",
});

function importedRow({ name, created, error }: ImportedSecret): readonly string[] {
  const done = created ? "set" : "has a new value";
  return [name, error === null ? done : `NOT SET: ${error.message} (${error.code})`];
}

/** The options of `keyward secrets explain`. */
export interface ExplainOptions {
  readonly server: string;
  readonly tokenId: string;
  readonly tool?: string;
  readonly method?: HttpMethod;
}

/** Prints which secrets a call would use and where it would go, or why the gateway would refuse the call. Prints no value. */
export async function explainSecrets(
  context: Context,
  { server, tokenId, tool, method }: ExplainOptions,
): Promise<void> {
  const { client } = await adminAccess(context);
  const explanation = await client.explainCall(server, { tokenId, tool, method });
  const { token, server: to, secrets, refusals } = explanation;
  if (tool !== undefined && to.kind === "http") {
    throw new CommandError("USAGE", `The server ${to.slug} is of the kind http, which has no tools`, {
      hint: "Run the command again without `--tool`.",
    });
  }
  if (method !== undefined && to.kind === "mcp") {
    throw new CommandError("USAGE", `The server ${to.slug} is of the kind mcp, and each call of it is a POST`, {
      hint: "Run the command again without `--method`.",
    });
  }
  const rows = [
    ["caller", `${token.owner} (${token.role}, id ${token.id})`],
    ["server", `${to.slug} (${to.kind}), revision ${to.revision}`],
    ["URL", to.url],
    ["host", to.host],
    ...secrets.map((secret) => ["secret", explainedSecret(secret)]),
    ...refusals.map((refusal) => ["REFUSED", refusalTexts[refusal]]),
  ];
  const methodNote = to.kind === "http" && method === undefined ? " Pass `--method` to check the HTTP method too." : "";
  const end =
    refusals.length === 0
      ? `The gateway would make this call, if it may connect to the address of the host. It looks the address up only when a call is made.${methodNote}`
      : "The gateway would refuse this call.";
  context.output.result(`${table(rows)}\n${end}`, explanationResult(explanation));
}

function explainedSecret({
  name,
  revision,
  injection,
  redacted,
  unusable,
}: CallExplanation["secrets"][number]): string {
  const notes = [
    ...(redacted ? [] : ["not redacted"]),
    ...(unusable === null ? [] : [unusable === "expired" ? "EXPIRED" : "SET FOR ANOTHER ORIGIN"]),
  ];
  return [`${name}, revision ${revision}`, shownInjection(injection), ...notes].join(", ");
}

const refusalTexts: Readonly<Record<CallExplanation["refusals"][number], string>> = {
  TOKEN_REVOKED: "The token is revoked. Create another one: `keyward tokens create`.",
  TOKEN_EXPIRED: "The token has expired. Create another one: `keyward tokens create`.",
  ROLE_NOT_ALLOWED: "Only a token with the role member calls servers.",
  SERVER_OUT_OF_SCOPE: "The token is limited to other servers.",
  TOOL_OUT_OF_SCOPE:
    "The token is limited to other tools. A server of the kind http has no tools, so such a token calls it only with --methods.",
  METHOD_OUT_OF_SCOPE: "The token is limited to other HTTP methods. A call of an MCP server is a POST.",
  SERVER_DISABLED: "The server is disabled. `keyward servers set <slug> --enable` allows calls again.",
  SECRET_EXPIRED: "The value of a secret has expired. Set a new one: `keyward secrets set <server> <name>`.",
  SECRET_ORIGIN_CHANGED:
    "A value was set for another origin than the URL of the server has now. Set it again: `keyward secrets set <server> <name>`.",
};

const perSecret: readonly string[] = ["FIELD_INVALID", "RULE_CONFLICT", "LIMIT_REACHED"];

function changeResult({ secret, created, warnings }: SecretChange) {
  return { secret: secretResult(secret), created, warnings };
}

function printWarnings({ output }: Context, { warnings }: SecretChange): void {
  for (const warning of warnings) output.notice(oneLine(warning));
}

function rowOf(secret: Secret): readonly string[] {
  const { name, injection, revision, setAt, lastUsed } = secret;
  const used = lastUsed === null ? "never used" : `used ${shownSince(Date.parse(lastUsed))} ago`;
  return [name, shownInjection(injection), `revision ${revision}`, dayOf(setAt), used, notesOn(secret).join(", ")];
}

function notesOn({ expires, weak, redacted, unusable }: Secret): readonly string[] {
  return [
    ...(unusable === "origin-changed" ? ["UNUSABLE: the URL has another origin, so set the value again"] : []),
    ...(unusable === "expired" ? ["UNUSABLE: expired, so set a new value"] : []),
    ...(expires === null || unusable === "expired" ? [] : [`expires ${dayOf(expires)}`]),
    ...(weak ? ["weak"] : []),
    ...(redacted ? [] : ["not redacted"]),
  ];
}
