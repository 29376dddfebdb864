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
 * Returns the reasons for which the service would refuse variables as secrets of a server; an empty list if it would set all.
 * A reason contains the number of the line, and never the name or the value, because the name may be a part of a value.
 *
 * @param existing the secrets of the server.
 */
export function unfitVariables(
  variables: readonly EnvVariable[],
  existing: readonly Pick<Secret, "name" | "injection">[],
): readonly string[] {
  const rules = new Map(existing.map(({ name, injection }) => [name, injection]));
  const byHeader = new Map(existing.map(({ name, injection }) => [headerOf(injection), { name, line: 0 }]));
  const reasons = variables.flatMap((variable) => {
    const { name, value, line } = variable;
    const rule = rules.get(name) ?? { kind: "header", header: name };
    const header = headerOf(rule);
    const other = byHeader.get(header) ?? variable;
    byHeader.set(header, other);
    const reason = nameReason(name, value) ?? valueReason(value, rule) ?? headerReason(name, header, other);
    return reason === undefined ? [] : [`Line ${line}: ${reason}`];
  });
  const count = new Set([...rules.keys(), ...variables.map(({ name }) => name)]).size;
  if (count > maxSecretsOfServer) reasons.push(`the server would have more than ${maxSecretsOfServer} secrets`);
  return reasons;
}

function nameReason(name: string, value: string): string | undefined {
  if (isSwapped(name, value)) return "the name and the value seem to be swapped";
  if (hasToken(name)) return "the name contains a token";
  return secretNameField.safeParse(name).success ? undefined : `the name must be ${fieldRules.secretName}`;
}

function valueReason(value: string, rule: Injection): string | undefined {
  const broken = brokenValueRule(value);
  if (broken !== undefined) return `the value must be ${broken}`;
  const isPair = rule.kind !== "basic" || value.includes(":");
  return isPair ? undefined : "the value must be of the form `user:password`, because the rule is `basic`";
}

/** @param other the secret or variable that already sets the header. The line 0 marks a secret of the server. */
function headerReason(name: string, header: string, other: Pick<EnvVariable, "name" | "line">): string | undefined {
  if (isRefusedHeader(header)) return "no value can be sent in the header with this name";
  if (other.name === name) return undefined;
  return `${other.line === 0 ? `the secret ${other.name}` : `line ${other.line}`} sets the same header`;
}

function headerOf(rule: Injection): string {
  return ("header" in rule ? rule.header : "Authorization").toLowerCase();
}
