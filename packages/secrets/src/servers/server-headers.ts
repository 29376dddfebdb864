import { invalidField, requireField } from "../field-checks.ts";
import { headersField, maxHeadersOfServer } from "../fields.ts";
import { holdingBack, isPattern } from "../header-rules.ts";

const directions = { forwardHeaders: "request", relayHeaders: "answer" } as const;

/**
 * Checks a list of headers that the gateway is to pass on. Returns each header once, in lower case; `undefined` for no
 * list.
 *
 * @throws SecretsError `FIELD_INVALID` for more than 20 headers, a text that is not the name of a header, a name with `*`, or a header
 * that the gateway sets itself or must not pass on.
 */
export function requireHeaders(
  field: keyof typeof directions,
  given: readonly string[] | undefined,
): readonly string[] | undefined {
  if (given === undefined) return undefined;
  const rule = `a list of at most ${maxHeadersOfServer} names of headers, each of at most 128 characters`;
  const names = requireField(field, headersField, given, rule).map((name) => name.toLowerCase());
  if (names.some(isPattern)) throw invalidField(field, "without `*`, because each name is the name of one header");
  for (const name of names) {
    const holding = holdingBack(directions[field], name);
    if (holding === undefined) continue;
    throw invalidField(
      field,
      `a list without ${holding}, because the gateway sets this header itself or must not pass it on`,
    );
  }
  return [...new Set(names)];
}
