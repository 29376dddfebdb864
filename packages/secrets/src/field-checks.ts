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
