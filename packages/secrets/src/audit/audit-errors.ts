import { KeywardError } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";

/** Returns the error for an entry that cannot be written. */
export function cannotWrite(path: string, cause: unknown): SecretsError {
  if (cause instanceof SecretsError) return cause;
  const reason = cause instanceof KeywardError ? `: ${cause.message}` : "";
  const hint =
    cause instanceof KeywardError ? cause.hint : "Read the property `cause`, and check the disk and the permissions.";
  return new SecretsError("AUDIT_UNAVAILABLE", `The audit file ${path} cannot be written${reason}`, {
    hint: `${hint} Changes are refused until entries can be written again; no restart is needed.`,
    cause,
  });
}

/** Returns the error for a file that has been closed. */
export function auditClosed(path: string): SecretsError {
  return new SecretsError("AUDIT_UNAVAILABLE", `The audit ${path} is closed`, {
    hint: "The process is stopping. Repeat the change at another process, or after the start.",
  });
}
