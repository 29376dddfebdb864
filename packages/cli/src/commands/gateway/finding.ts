/** The result of one check of the service. */
export interface Finding {
  readonly level: "good" | "warning" | "problem";
  readonly subject: "configuration" | "files" | "keys" | "store" | "audit" | "secrets" | "service" | "clock";
  readonly message: string;
  /** What to do; `null` if the level is good. */
  readonly hint: string | null;
  /** The code of the error with which the check failed; `null` if there was no error. */
  readonly code: string | null;
}

/** Returns the finding of a check that found no problem. */
export function good(subject: Finding["subject"], message: string): Finding {
  return { level: "good", subject, message, hint: null, code: null };
}

/** Returns the finding of a check that found a problem. */
export function problem(subject: Finding["subject"], message: string, hint: string): Finding {
  return { level: "problem", subject, message, hint, code: null };
}

/** Returns the finding of a check that found something that may become a problem. */
export function warning(subject: Finding["subject"], message: string, hint: string): Finding {
  return { level: "warning", subject, message, hint, code: null };
}
