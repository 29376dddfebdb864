import type { Context } from "../../context.ts";
import { Interrupted, ProblemsPrinted } from "../../exit-codes.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { clientEntries } from "../../service/client-configuration/client-entries.ts";
import {
  EntryImport,
  type ImportedHeader,
  type ImportedServer,
} from "../../service/client-configuration/entry-import.ts";
import { textOfFile } from "../../service/secret-value.ts";
import { type ErrorResult, oneLine, table } from "../../terminal/output.ts";

/** The options of `keyward import`. */
export interface ClientImportOptions {
  /** True to change nothing, and only print what an import would do. */
  readonly dryRun: boolean;
  /** True to replace the values of existing secrets by the values in the file. */
  readonly replace: boolean;
}

/**
 * Imports the servers and credentials of a client's configuration. Continues after a server that cannot be imported. A second run
 * changes nothing that exists. Never prints a value.
 *
 * @throws ProblemsPrinted if a server was not imported, or if a secret was not set.
 */
export async function importClient(
  context: Context,
  path: string,
  { dryRun, replace }: ClientImportOptions,
): Promise<void> {
  const { output, signal, env } = context;
  const entries = clientEntries(await textOfFile(path, { signal }), env);
  const { client } = await adminAccess(context);
  const { callUrl } = await client.whoAmI();
  const notice = (line: string) => output.notice(oneLine(line));
  const running = new EntryImport(client, { dryRun, replace, callUrl, notice, signal });
  const print = () => output.result(shown(running.servers, dryRun), { dryRun, servers: running.servers });
  try {
    await running.run(entries);
  } catch (error) {
    print();
    if (error instanceof Interrupted)
      output.progress("If you run the same command again, it does not change what exists already.");
    throw error;
  }
  print();
  if (!running.servers.every(isWhole)) throw new ProblemsPrinted();
}

function isWhole({ error, headers }: ImportedServer): boolean {
  return error === null && headers.every((header) => header.error === null);
}

function shown(servers: readonly ImportedServer[], dryRun: boolean): string {
  const rows = servers.flatMap((server) => [
    [server.name, shownServer(server, dryRun)],
    ...server.headers.map((header) => [`  ${header.header ?? "(not shown)"}`, shownHeader(header, dryRun)]),
  ]);
  const count = servers.filter(isWhole).length;
  const end = dryRun
    ? "Nothing was changed."
    : "The file still has its credentials. Print the entries that replace those of the file with `keyward export`.";
  const done = `${dryRun ? "would be" : "are"} in the workspace with all of their secrets`;
  return `${table(rows)}\n${count} of ${servers.length} servers ${done}. ${end}`;
}

function shownServer({ slug, outcome, error }: ImportedServer, dryRun: boolean): string {
  switch (outcome) {
    case "added":
      return `${dryRun ? "would be added" : "added"} as ${slug}`;
    case "present":
      return `exists as ${slug}`;
    case "gateway":
      return "points at the gateway already";
    case "unknown":
      return `MAY BE ADDED: ${reasonOf(error)}`;
    case "not-imported":
      return `NOT IMPORTED: ${reasonOf(error)}`;
  }
}

function shownHeader({ outcome, note, variables, error }: ImportedHeader, dryRun: boolean): string {
  const from = variables.length === 0 ? "" : `, from ${variables.join(", ")}`;
  switch (outcome) {
    case "set":
      return `${dryRun ? "would be set" : "set"}: ${note}${from}`;
    case "replaced":
      return `${dryRun ? "would get" : "has"} a new value: ${note}${from}`;
    case "kept":
      return "left as it is: the server has a secret for this header. `--replace` sets the value of the file";
    case "skipped":
      return `skipped: ${note}`;
    case "unknown":
      return `MAY BE SET: ${reasonOf(error)}`;
    case "not-set":
      return `NOT SET: ${reasonOf(error)}`;
  }
}

function reasonOf(error: ErrorResult | null): string {
  return error === null ? "" : `${error.message}. ${error.hint}`;
}
