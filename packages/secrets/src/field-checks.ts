import type { z } from "zod";
import { hasToken, withoutToken } from "./fields.ts";
import { SecretsError } from "./secrets-error.ts";

/**
 * Checks a field that a caller has sent, and returns the field. The error names the field and the rule, and never
 * repeats what was sent, which may be a secret.
 *
 * @throws SecretsError `FIELD_INVALID`.
 */
export function requireField<Value>(name: string, schema: z.ZodType<Value>, given: unknown, rule: string): Value {
  requireNoToken(name, given);
  const read = schema.safeParse(given);
  if (read.success) return read.data;
  throw invalidField(name, rule);
}

/**
 * Checks that a text, or each text of an array, contains no token. Every field except a secret's value is shown in
 * lists or in the audit, which would reveal a token.
 *
 * @throws SecretsError `FIELD_INVALID`.
 */
export function requireNoToken(name: string, given: unknown): void {
  const texts: readonly unknown[] = Array.isArray(given) ? given : [given];
  if (texts.some((text) => typeof text === "string" && hasToken(text))) throw invalidField(name, withoutToken);
}

/** Returns the error for a field that breaks a rule. `rule` completes the sentence "The field … must be". */
export function invalidField(name: string, rule: string): SecretsError {
  return new SecretsError("FIELD_INVALID", `The field "${name}" must be ${rule}`, {
    hint: `Correct the field "${name}", and repeat the call. Nothing was changed.`,
  });
}
