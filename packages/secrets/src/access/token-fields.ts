import { z } from "zod";
import { invalidField, requireField } from "../field-checks.ts";
import { fieldRules, methodField, ownerField, roleField, slugField, timeField, toolField } from "../fields.ts";
import type { NewToken } from "../model.ts";
import { SecretsError } from "../secrets-error.ts";
import type { Caller } from "./caller.ts";
import type { CheckedToken } from "./tokens.ts";

/**
 * Checks the fields of a new token. An operator creates operators, and an admin the other roles.
 *
 * @throws SecretsError `FIELD_INVALID`; `NOT_ALLOWED` for a role that the caller may not give.
 */
export function requireNewToken(caller: Caller, given: NewToken): CheckedToken {
  const owner = requireField("owner", ownerField, given.owner, fieldRules.owner);
  const role = requireField("role", roleField, given.role, "`member`, `auditor`, `admin` or `operator`");
  if ((role === "operator") !== (caller.role === "operator")) throw otherRoles(caller);
  const servers = list("servers", slugField, given.servers, `at most 100 slugs: ${fieldRules.slug}`);
  const tools = list("tools", toolField, given.tools, "at most 100 names of 1 to 128 visible ASCII characters");
  const methods = list("methods", methodField, given.methods, "some of GET, HEAD, POST, PUT, PATCH and DELETE");
  if (role !== "member" && (servers ?? tools ?? methods) !== undefined) {
    throw invalidField("servers", "absent, and so must `tools` and `methods`, because only a member calls servers");
  }
  return { owner, role, servers, tools, methods, expires: requireExpires(given.expires) };
}

/** Returns the error for a role that the caller may not give. */
function otherRoles(caller: Caller): SecretsError {
  if (caller.role === "operator") {
    return new SecretsError("NOT_ALLOWED", "An operator creates only tokens with the role operator", {
      hint: "Ask an admin of the workspace. An operator who creates a workspace gets the token of its first admin.",
    });
  }
  return new SecretsError("NOT_ALLOWED", "Only an operator creates a token with the role operator", {
    hint: "Ask an operator. Without one, `keyward tokens recover` creates such a token on the machine of the service.",
  });
}

/**
 * Checks the time at which a token or a value expires.
 *
 * @throws SecretsError `FIELD_INVALID` for a time that has passed.
 */
export function requireExpires(given: number | undefined): number | undefined {
  if (given === undefined) return undefined;
  const expires = requireField("expires", timeField, given, fieldRules.time);
  if (expires <= Date.now()) throw invalidField("expires", "a time in the future");
  return expires;
}

function list<Item>(
  name: string,
  item: z.ZodType<Item>,
  given: readonly Item[] | readonly string[] | undefined,
  rule: string,
): Item[] | undefined {
  if (given === undefined) return undefined;
  return requireField(name, z.array(item).min(1).max(100), given, rule);
}
