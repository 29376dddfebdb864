import type { Injection } from "@keyward/admin/client";
import { CommandError } from "../exit-codes.ts";

/** The flags that describe a rule: how the value of a secret enters the request to its server. */
export interface InjectionFlags {
  readonly header?: string;
  readonly bearer?: boolean;
  readonly basic?: boolean;
  readonly template?: string;
}

/**
 * Returns the rule that the flags describe; `undefined` without such a flag.
 *
 * @throws CommandError `USAGE` for flags that contradict each other.
 */
export function injectionOf({ header, bearer, basic, template }: InjectionFlags): Injection | undefined {
  const kinds = [bearer === true, basic === true, header !== undefined || template !== undefined];
  if (kinds.filter(Boolean).length > 1) {
    throw new CommandError("USAGE", "The flags describe more than one rule", {
      hint: "Pass one of --bearer, --basic, --header and --template. Only --header and --template fit together.",
    });
  }
  if (bearer === true) return { kind: "bearer" };
  if (basic === true) return { kind: "basic" };
  if (template !== undefined) return { kind: "template", header: header ?? "Authorization", template };
  return header === undefined ? undefined : { kind: "header", header };
}

/** Returns a rule for people: the header that the gateway sets, with … for the value. */
export function shownInjection(rule: Injection): string {
  switch (rule.kind) {
    case "bearer":
      return "Authorization: Bearer …";
    case "basic":
      return "Authorization: Basic …";
    case "header":
      return `${rule.header}: …`;
    case "template":
      return `${rule.header}: ${rule.template.replace("{value}", "…")}`;
  }
}
