import { KeywardError } from "@keyward/core";

/** The words with which every error message about a source of records begins. */
export const subject = "The source of the records";

/** The hint of errors about a source of records that have no more specific hint. */
export const correct = "Correct the source as the README of @keyward/stores-from describes.";

/**
 * Returns the scheme of a source: its text before the first colon.
 *
 * @throws KeywardError `VALUE_INVALID` if the source is empty, or does not begin with one of `schemes` and a colon.
 */
export function schemeOf(source: string, schemes: readonly string[]): string {
  const hint = `Begin the source with one of ${schemes.map((scheme) => `${scheme}:`).join(", ")}. If the source comes from an environment variable, check that the environment variable is set.`;
  if (source === "") throw invalidSource("is undefined or empty", hint);
  const colon = source.indexOf(":");
  const scheme = colon === -1 ? "" : source.slice(0, colon);
  if (!schemes.includes(scheme)) throw invalidSource("does not begin with a known scheme", hint);
  return scheme;
}

/**
 * Returns the error for an invalid source of records. The error does not contain the source, which may contain a
 * password.
 */
export function invalidSource(problem: string, hint = correct): KeywardError {
  return new KeywardError("VALUE_INVALID", `${subject} ${problem}`, { hint });
}
