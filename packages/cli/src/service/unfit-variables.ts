import type { Injection, Secret } from "@keyward/admin/client";
import {
  brokenValueRule,
  fieldRules,
  hasToken,
  isRefusedHeader,
  isSwapped,
  maxSecretsOfServer,
  secretNameField,
} from "@keyward/secrets/fields";
import type { EnvVariable } from "./env-file.ts";

/**
 * Returns why variables cannot be secrets of a server, by the rules of the service: none if the service would set all of
 * them. No reason has a value.
 *
 * @param existing the secrets of the server.
 */
export function unfitVariables(
  variables: readonly EnvVariable[],
  existing: readonly Pick<Secret, "name" | "injection">[],
): readonly string[] {
  const rules = new Map(existing.map(({ name, injection }) => [name, injection]));
  const byHeader = new Map(existing.map(({ name, injection }) => [headerOf(injection), name]));
  const reasons = variables.flatMap(({ name, value }) => {
    // The name is not shown, because it may be the value.
    if (isSwapped(name, value)) return ["a variable whose name and value seem to be swapped"];
    if (hasToken(name)) return ["a variable whose name has a token"];
    const rule = rules.get(name) ?? { kind: "header", header: name };
    const header = headerOf(rule);
    const other = byHeader.get(header) ?? name;
    byHeader.set(header, other);
    const reason = nameReason(name) ?? valueReason(value, rule) ?? headerReason(name, header, other);
    return reason === undefined ? [] : [`${name}: ${reason}`];
  });
  const count = new Set([...rules.keys(), ...variables.map(({ name }) => name)]).size;
  if (count > maxSecretsOfServer) reasons.push(`the server would have more than ${maxSecretsOfServer} secrets`);
  return reasons;
}

function nameReason(name: string): string | undefined {
  return secretNameField.safeParse(name).success ? undefined : `the name must be ${fieldRules.secretName}`;
}

function valueReason(value: string, rule: Injection): string | undefined {
  const broken = brokenValueRule(value);
  if (broken !== undefined) return `the value must be ${broken}`;
  const isPair = rule.kind !== "basic" || value.includes(":");
  return isPair ? undefined : "the value must be of the form `user:password`, because the rule is `basic`";
}

function headerReason(name: string, header: string, other: string): string | undefined {
  if (isRefusedHeader(header)) return "no value can be sent in the header with this name";
  return other === name ? undefined : `the secret ${other} sets the same header`;
}

function headerOf(rule: Injection): string {
  return ("header" in rule ? rule.header : "Authorization").toLowerCase();
}
