import type { z } from "zod";
import { SecretsError } from "./secrets-error.ts";

/**
 * Checks a field that a caller has sent, and returns the field. The error names the field and the rule, and never
 * repeats what was sent, which may be a secret.
 *
 * @throws SecretsError `FIELD_INVALID`.
 */
export function requireField<Value>(name: string, schema: z.ZodType<Value>, given: unknown, rule: string): Value {
  const read = schema.safeParse(given);
  if (read.success) return read.data;
  throw invalidField(name, rule);
}

/** Returns the error for a field that breaks a rule. `rule` completes the sentence "The field … must be". */
export function invalidField(name: string, rule: string): SecretsError {
  return new SecretsError("FIELD_INVALID", `The field "${name}" must be ${rule}`, {
    hint: `Correct the field "${name}", and repeat the call. Nothing was changed.`,
  });
}

/** The rules of fields that several checks name. */
export const fieldRules = {
  slug: "1 to 32 lower-case letters and digits, with single hyphens inside",
  id: "an id of 12 lower-case letters and digits",
  owner: "1 to 100 printable characters, without a space at either end",
  secretName: "1 to 128 letters, digits, `_`, `-` and `.`, beginning with a letter or `_`",
  time: "a time in milliseconds since the epoch",
} as const;
