import type { Role } from "../model.ts";

/** A permission of a role. Each method of `SecretsAdmin` and each route of the admin API requires one right. */
export type Right =
  | "whoami"
  | "workspaces.read"
  | "workspaces.change"
  | "servers.call"
  | "servers.read"
  | "servers.change"
  | "secrets.read"
  | "secrets.change"
  | "tokens.read"
  | "tokens.change"
  | "changes.read"
  | "calls.read"
  | "calls.explain"
  | "keys.read";

/** The roles that have each right. The compiler refuses a right without an entry. */
export const rolesWithRight: Readonly<Record<Right, readonly Role[]>> = {
  whoami: ["member", "auditor", "admin", "operator"],
  "workspaces.read": ["operator"],
  "workspaces.change": ["operator"],
  "servers.call": ["member"],
  "servers.read": ["admin"],
  "servers.change": ["admin"],
  "secrets.read": ["admin"],
  "secrets.change": ["admin"],
  // An operator manages the tokens of operators, an admin manages the tokens of one workspace.
  "tokens.read": ["admin", "operator"],
  "tokens.change": ["admin", "operator"],
  "changes.read": ["auditor", "admin", "operator"],
  "calls.read": ["auditor", "admin"],
  "calls.explain": ["admin"],
  "keys.read": ["operator"],
};

/**
 * Returns whether a role has a right.
 *
 * @example
 * console.log(hasRight("admin", "secrets.change"), hasRight("member", "secrets.read")); // true false
 */
export function hasRight(role: Role, right: Right): boolean {
  return rolesWithRight[right].includes(role);
}
