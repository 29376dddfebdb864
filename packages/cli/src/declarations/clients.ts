import { type Command, Option } from "commander";
import type { OpenContext } from "../context.ts";
import { exportClients } from "../service/client-configuration/exported.ts";

/** Declares the commands that read and print the configuration of MCP clients. */
export function declareClients(program: Command, context: OpenContext): void {
  program
    .command("import <file>")
    .description("Import the servers and credentials of an MCP client's configuration. Never prints a value.")
    .option("--dry-run", "print what would be done, and change nothing", false)
    .option("--replace", "replace the values of existing secrets by the values in the file", false)
    .addHelpText(
      "after",
      "\nReads `mcpServers` of Claude Code, Cursor and Windsurf, and `servers` of VS Code.\nThe exit code is 0 if everything was imported. For an .env file:\nkeyward secrets import <server> <file>\n\nExamples:\n  keyward import .mcp.json --dry-run\n  keyward import .vscode/mcp.json",
    )
    .action(
      async (file: string, options) =>
        await (await import("../commands/service/import.ts")).importClient(await context(), file, options),
    );
  program
    .command("export")
    .description("Print the configuration of an MCP client that points at the gateway. Never prints a token.")
    .addOption(new Option("--client <client>", "the client").choices(exportClients).default("claude-code"))
    .option("--each-server", "print one entry for each MCP server, not one entry for all", false)
    .addHelpText("after", "\nExample:\n  keyward export --client cursor --each-server")
    .action(
      async (options) => await (await import("../commands/service/export.ts")).exportClient(await context(), options),
    );
}
