import type { Context } from "../../context.ts";
import { CommandError } from "../../exit-codes.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { callPath } from "../../service/call-address.ts";
import {
  clientConfiguration,
  configurationFile,
  type ExportClient,
  tokenVariable,
} from "../../service/client-configuration/exported.ts";
import { listAll } from "../../service/listed.ts";

/** The options of `keyward export`. */
export interface ClientExportOptions {
  readonly client: ExportClient;
  /** True to print one entry for each MCP server; false to print one entry for all servers. */
  readonly eachServer: boolean;
}

/** The name of the entry for all servers. */
const nameOfAll = "team";

/** Prints the configuration of a client that points at the gateway. The token is a placeholder. */
export async function exportClient(context: Context, { client, eachServer }: ClientExportOptions): Promise<void> {
  const { output } = context;
  const { client: admin } = await adminAccess(context);
  const { callUrl } = await admin.whoAmI();
  if (callUrl === null) {
    throw new CommandError("USAGE", "The service runs without a gateway, so a client cannot point at its gateway", {
      hint: "Check the URL of the service, which `keyward login` has stored, or KEYWARD_URL.",
    });
  }
  const { items, complete } = eachServer
    ? await listAll(context, (page) => admin.listServers(page), {})
    : { items: [], complete: true };
  const servers = items.filter(({ kind, disabled, deleting }) => kind === "mcp" && !disabled && !deleting);
  if (eachServer && servers.length === 0) {
    throw new CommandError("USAGE", "The workspace has no MCP server that can be called", {
      hint: "Add one with `keyward servers add <slug> <url>`, or import those of a client with `keyward import <file>`.",
    });
  }
  const left = items.length - servers.length;
  if (left > 0) output.notice(`${left} servers have no entry, because they are disabled, or are not MCP servers.`);
  const entries = eachServer
    ? servers.map(({ slug, kind }) => ({ name: slug, url: `${callUrl}${callPath(slug, kind)}` }))
    : [{ name: nameOfAll, url: `${callUrl}/mcp` }];
  const configuration = JSON.stringify(clientConfiguration(client, entries), undefined, 2);
  output.progress(`Add the entries to ${configurationFile(client)}. ${howToken(client)}`);
  output.result(configuration, { client, configuration, complete });
}

function howToken(client: ExportClient): string {
  const make = "A member's token: `keyward tokens create --owner <owner>`.";
  if (client === "vscode") return `The client asks for the token, and stores it. ${make}`;
  return `The client takes the token from the environment variable ${tokenVariable}. ${make}`;
}
