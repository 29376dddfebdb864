import { KeywardError } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";

/** Returns the error for an entry that cannot be written. */
export function cannotWrite(path: string, cause: unknown): SecretsError {
  if (cause instanceof SecretsError) return cause;
  const reason = cause instanceof KeywardError ? `: ${cause.message}` : "";
  const hint =
    cause instanceof KeywardError ? cause.hint : "Read the property `cause`, and check the disk and the permissions.";
  return new SecretsError("AUDIT_UNAVAILABLE", `The audit file ${path} cannot be written${reason}`, {
    hint: `${hint} Changes and calls are refused until entries can be written again; no restart is needed.`,
    cause,
  });
}

/** Returns the error for an audit that this process has closed. */
export function auditClosed(path: string): SecretsError {
  return new SecretsError("AUDIT_UNAVAILABLE", `The audit ${path} is closed`, {
    hint: "The process is stopping. Repeat the change or the call at another process, or after this process has started again.",
  });
}

/** Returns the error for an entry that was not written in time, although no attempt has failed yet. */
export function notWrittenInTime(path: string, waitedMs: number): SecretsError {
  return new SecretsError("AUDIT_UNAVAILABLE", `An entry was not written to the audit file ${path} in ${waitedMs} ms`, {
    hint: "Check that the disk of the file is fast enough, and that no other process keeps the file locked. Then repeat the change or the call.",
  });
}

/** Returns the error for a change or a call that is refused because too many entries wait to be written. */
export function tooManyWait(path: string, maxWaiting: number): SecretsError {
  return new SecretsError("AUDIT_UNAVAILABLE", `${maxWaiting} entries wait to be written to the audit file ${path}`, {
    hint:
      "Repeat the change or the call in a few seconds. If this error returns, check that the disk of the file is fast enough, and that " +
      "no other process keeps the file locked.",
  });
}

/** Returns the error for a file whose record of the number of its chains cannot be parsed. */
export function invalidRegistry(): SecretsError {
  return new SecretsError("AUDIT_INVALID", "In the audit file, the record that counts the chains cannot be read", {
    hint: "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`.",
  });
}
