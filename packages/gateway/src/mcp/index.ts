export { type McpMessage, readMcpBody } from "./mcp-body.ts";
export type { McpHeaders } from "./mcp-headers.ts";
export { type McpRefusedCode, McpRefusedError } from "./mcp-refused-error.ts";
export { openSessionId, type SessionPlace, sealSessionId } from "./session-id.ts";
