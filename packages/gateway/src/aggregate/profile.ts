import type { JsonObject } from "./json.ts";
import { codes, RpcFailure } from "./messages.ts";

/** The name, title and version with which the endpoint of a workspace introduces itself. */
export const serverInfo = { name: "keyward", title: "Keyward", version: "1" } as const;

/** The capabilities of the endpoint. A server without one of these adds no entries to the endpoint's lists. */
export const serverCapabilities = {
  tools: { listChanged: true },
  prompts: { listChanged: true },
  resources: { listChanged: true },
  completions: {},
  logging: {},
} as const;

/** The capabilities of the endpoint for callers with sessions. */
export const legacyCapabilities = {
  ...serverCapabilities,
  resources: { listChanged: true, subscribe: true },
} as const;

export const instructions =
  "The tools and prompts of several servers: server__name is the name of one server. The URI of a resource begins with keyward+server+.";

const passedOn = ["sampling", "elicitation", "roots"];

/** Capabilities are kept for each kind of caller, and sent to each server. */
const longestCapabilities = 4_096;

/** Returns the capabilities of a caller that servers may use. @throws RpcFailure if they are too large. */
export function usableCapabilities(capabilities: JsonObject): JsonObject {
  const usable = Object.fromEntries(Object.entries(capabilities).filter(([name]) => passedOn.includes(name)));
  if (JSON.stringify(usable).length <= longestCapabilities) return usable;
  throw new RpcFailure({
    code: codes.invalidParams,
    message: `The capabilities sampling, elicitation and roots have more than ${longestCapabilities} characters together`,
  });
}
