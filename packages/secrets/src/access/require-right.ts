import { SecretsError } from "../secrets-error.ts";
import { Caller } from "./caller.ts";
import { hasRight, type Right } from "./rights.ts";

/**
 * Checks that a caller has a right.
 *
 * @throws SecretsError `NOT_ALLOWED` if the role of the caller does not have the right; `TOKEN_REFUSED` for an object
 * that is not a {@link Caller}.
 */
export function requireRight(caller: Caller, right: Right): void {
  if (!(caller instanceof Caller)) {
    throw new SecretsError("TOKEN_REFUSED", "The call has no caller", {
      hint: "Pass the caller that `authenticate` returned.",
    });
  }
  if (!hasRight(caller.role, right)) throw notAllowed();
}

/**
 * Checks that a caller has a right in a workspace, and returns the id of the workspace.
 *
 * @throws SecretsError `NOT_ALLOWED`, also for an operator, who belongs to no workspace.
 */
export function requireRightInWorkspace(caller: Caller, right: Right): string {
  requireRight(caller, right);
  if (caller.workspace === undefined) throw notAllowed();
  return caller.workspace;
}

/**
 * Returns the error for a caller without the right. The error does not reveal which servers, secrets or tokens exist.
 */
export function notAllowed(): SecretsError {
  return new SecretsError("NOT_ALLOWED", "The token does not allow this", {
    hint: "Use a token whose role may do this, or ask an admin of the workspace.",
  });
}
