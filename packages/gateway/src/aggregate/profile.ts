import type { JsonObject } from "./json.ts";

/** What the endpoint of a workspace says about itself. */
export const serverInfo = { name: "keyward", title: "Keyward", version: "1" } as const;

/** What the endpoint offers. A server that does not have one of these has no entries in its lists. */
export const serverCapabilities = {
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { listChanged: true },
  completions: {},
  logging: {},
} as const;

/** What the endpoint offers callers with sessions. */
export const legacyCapabilities = {
  ...serverCapabilities,
  resources: { listChanged: true, subscribe: true },
} as const;

export const instructions =
  "The tools and prompts of several servers: server__name is the name of one server. The URI of a resource begins with keyward+server+.";

const passedOn = ["sampling", "elicitation", "roots"];

/** Returns the capabilities of a caller that servers may use. */
export function usableCapabilities(capabilities: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(capabilities).filter(([name]) => passedOn.includes(name)));
}
