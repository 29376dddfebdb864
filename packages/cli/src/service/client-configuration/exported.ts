/** The clients whose configuration `keyward export` prints. */
export const exportClients = ["claude-code", "cursor", "vscode", "windsurf"] as const;

/** A client whose configuration `keyward export` prints. */
export type ExportClient = (typeof exportClients)[number];

/** An entry of a client's configuration that points at the gateway. */
export interface GatewayEntry {
  readonly name: string;
  readonly url: string;
}

/** The environment variable in which a client finds the token. */
export const tokenVariable = "KEYWARD_CALL_TOKEN";

/** Returns the configuration of a client, with a placeholder for the token. */
export function clientConfiguration(client: ExportClient, entries: readonly GatewayEntry[]): object {
  const all = (entryOf: (url: string) => object) =>
    Object.fromEntries(entries.map(({ name, url }) => [name, entryOf(url)]));
  switch (client) {
    case "claude-code":
      return { mcpServers: all((url) => ({ type: "http", url, headers: headersWith(`\${${tokenVariable}}`) })) };
    case "cursor":
      return { mcpServers: all((url) => ({ url, headers: headersWith(`\${env:${tokenVariable}}`) })) };
    case "windsurf":
      return { mcpServers: all((serverUrl) => ({ serverUrl, headers: headersWith(`\${env:${tokenVariable}}`) })) };
    case "vscode":
      return {
        inputs: [{ type: "promptString", id: "keyward", description: "Token of Keyward", password: true }],
        servers: all((url) => ({ type: "http", url, headers: headersWith(`\${input:keyward}`) })),
      };
  }
}

/** Returns the path of the file that a client reads. */
export function configurationFile(client: ExportClient): string {
  return {
    "claude-code": ".mcp.json",
    cursor: ".cursor/mcp.json",
    vscode: ".vscode/mcp.json",
    windsurf: "~/.codeium/windsurf/mcp_config.json",
  }[client];
}

function headersWith(token: string): object {
  return { Authorization: `Bearer ${token}` };
}
