import type { z } from "zod";
import type { Problem } from "../schemas/problem-schemas.ts";
import { ProblemError } from "./problem-error.ts";

type RefusedField = NonNullable<Problem["fields"]>[number];
type Issue = z.core.$ZodIssue;

const maxFields = 20;

/** Returns the error for fields that a schema refused. It names each field and its rule, never what was sent. */
export function refusedFields(place: RefusedField["in"], issues: readonly Issue[]): ProblemError {
  const refused = issues
    .slice(0, maxFields)
    .map((issue) => ({ in: place, name: issue.path.map(String).join("."), rule: ruleOf(issue) }));
  const named = refused
    .slice(0, 3)
    .map(({ name, rule }) => `${name === "" ? place : `${place} field ${name}`} ${rule}`);
  return new ProblemError({
    type: "docs/errors.md#field_invalid",
    title: "Invalid field",
    status: 422,
    detail: `The request is not valid: the ${named.join("; the ")}`,
    code: "FIELD_INVALID",
    hint: "Correct the fields. The OpenAPI document of the service has the rule of each field.",
    fields: refused,
  });
}

/** Describes a rule in words. Uses the message of an issue only if the message cannot quote what the caller sent. */
function ruleOf(issue: Issue): string {
  switch (issue.code) {
    case "invalid_type":
      return `must be of type ${issue.expected}`;
    case "too_small":
      return `must have at least ${issue.minimum}${unitOf(issue.origin)}`;
    case "too_big":
      // Messages of zod begin with "Too big".
      if (!issue.message.startsWith("Too ")) return issue.message;
      return `must have at most ${issue.maximum}${unitOf(issue.origin)}`;
    case "invalid_format":
      // The fields of the service have a rule in words. Messages of zod begin with "Invalid".
      if (!issue.message.startsWith("Invalid")) return `must be ${issue.message}`;
      return issue.format === "datetime"
        ? "must be a time in RFC 3339"
        : "must have the form that the OpenAPI document describes";
    case "unrecognized_keys":
      return "must not have fields that the service does not know";
    case "invalid_value":
      return `must be one of ${issue.values.map(String).join(", ")}`;
    case "invalid_union":
      return "must have one of the forms that the OpenAPI document describes";
    case "custom":
      // The schemas of this package pass fixed texts.
      return issue.message;
    case "not_multiple_of":
    case "invalid_key":
    case "invalid_element":
      return "is not valid";
    default:
      return issue satisfies never;
  }
}

function unitOf(origin: string): string {
  switch (origin) {
    case "string":
      return " characters";
    case "array":
      return " items";
    default:
      return "";
  }
}
