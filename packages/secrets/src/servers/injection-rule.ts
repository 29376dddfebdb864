import { invalidField, requireNoToken } from "../field-checks.ts";
import { isRefusedHeader, ruleField } from "../fields.ts";
import { isPattern } from "../header-rules.ts";
import type { InjectionRule } from "../model.ts";

const placeholder = "{value}";

/**
 * Checks the rule by which a value enters a request, and returns the rule.
 *
 * @throws SecretsError `FIELD_INVALID` if the rule is malformed, if the name of its header has `*`, or if the gateway sets that header itself.
 */
export function requireRule(given: unknown): InjectionRule {
  const read = ruleField.safeParse(given);
  if (!read.success) {
    throw invalidField(
      "injection",
      'one of { "kind": "header", "header" }, { "kind": "bearer" }, { "kind": "basic" } and { "kind": "template", "header", "template" }',
    );
  }
  const rule = read.data;
  requireNoToken("injection.header", headerOf(rule));
  if (isPattern(headerOf(rule))) {
    throw invalidField("injection.header", "without `*`, because the name is the name of one header");
  }
  if (isRefusedHeader(headerOf(rule))) {
    throw invalidField(
      "injection.header",
      // Not repeated: a caller may have passed a value in the place of the header.
      "another header, because the gateway sets this header itself or must not forward it",
    );
  }
  if (rule.kind === "template") {
    const { template } = rule;
    requireNoToken("injection.template", template);
    const at = template.indexOf(placeholder);
    if (at === -1 || template.includes(placeholder, at + 1) || template !== template.trim()) {
      throw invalidField(
        "injection.template",
        `a text that contains ${placeholder} once, without a space at either end`,
      );
    }
  }
  return rule;
}

/** Returns the name of the header that a rule sets. */
export function headerOf(rule: InjectionRule): string {
  switch (rule.kind) {
    case "header":
    case "template":
      return rule.header;
    case "bearer":
    case "basic":
      return "Authorization";
  }
}

/** Returns the warnings about a rule for an admin, as sentences. */
export function warningsOf(rule: InjectionRule): readonly string[] {
  const header = headerOf(rule);
  if (!header.includes("_")) return [];
  return [
    `The name of the header ${header} has an underscore. Some servers, such as nginx, drop such a header. Choose another header if the server does not receive the value.`,
  ];
}
