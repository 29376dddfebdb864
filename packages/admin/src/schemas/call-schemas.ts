import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { pageOf, pageQuery } from "./paging.ts";
import { injection, secretUnusable } from "./secret-schemas.ts";
import { answerTime, timeText } from "./times.ts";

/** How a call ended. */
export const callOutcome = z.enum(["answered", "failed", "refused", "left"]);

/** The query of `GET /calls`. */
export const callQuery = pageQuery.extend({
  owner: fields.ownerField.optional().meta({ description: "Only the calls of this owner." }),
  server: fields.slugField.optional().meta({ description: "Only the calls to this server." }),
  tool: fields.toolField.optional().meta({ description: "Only the calls of this tool." }),
  token: fields.idField.optional().meta({ description: "Only the calls with the token that has this id." }),
  outcome: callOutcome.optional().meta({ description: "Only the calls with this outcome." }),
  from: timeText.optional().meta({ description: "Only the calls that ended at or after this time." }),
  until: timeText.optional().meta({ description: "Only the calls that ended before this time." }),
});

/** The path parameter of the route of one call. */
export const callPath = z.strictObject({
  id: z
    .string()
    .regex(/^[A-Za-z0-9_-]{12,64}$/, fields.fieldRules.callId)
    .meta({ description: "The id of a call. The gateway sends it with the answer.", examples: ["c4ll00000001"] }),
});

const size = z
  .int()
  .min(0)
  .meta({ examples: [512] });

/** A call that the audit recorded. */
export const call = z
  .object({
    callId: z.string().meta({ description: "The id of the call.", examples: ["c4ll00000001"] }),
    at: answerTime.meta({ description: "When the call began, in RFC 3339 and UTC." }),
    outcome: callOutcome.meta({
      description:
        "`answered`: the server answered with a status below 400. `failed`: the server answered with a status of 400 or more. `refused`: the gateway refused or ended the call. `left`: the caller disconnected before the answer.",
      examples: ["answered"],
    }),
    caller: z
      .object({
        tokenId: z.string(),
        owner: z.string(),
        role: fields.roleField,
        address: z.string().nullable(),
      })
      .meta({
        description: "Who made the call.",
        examples: [{ tokenId: "t0ken0000001", owner: "ci", role: "member", address: "192.0.2.7" }],
      }),
    server: z.string().meta({
      description: "The slug of the server. `*` if the workspace has no server with the name in the call.",
      examples: ["github"],
    }),
    method: z.string().meta({ description: "The HTTP method.", examples: ["POST"] }),
    path: z.string().meta({
      description: "The path below the server. Segments that may be names or tokens are `*`.",
      examples: ["/mcp"],
    }),
    mcpMethod: z
      .string()
      .nullable()
      .meta({ description: "The method of MCP. `null` if the call was no MCP request.", examples: ["tools/call"] }),
    tool: z
      .string()
      .nullable()
      .meta({
        description: "The tool that was called. `null` if the call was to no tool.",
        examples: ["create_issue"],
      }),
    status: z
      .int()
      .min(100)
      .max(599)
      .nullable()
      .meta({
        description: "The HTTP status that the caller got. `null` if the caller disconnected before the answer.",
        examples: [200],
      }),
    reason: z
      .string()
      .nullable()
      .meta({ description: "Why the gateway refused or ended the call: a code such as `TOKEN_REFUSED`." }),
    durationMs: size.meta({ description: "The duration of the call, in milliseconds.", examples: [35] }),
    requestBytes: size.meta({ description: "The size of the body of the request." }),
    answerBytes: size.meta({ description: "The size of the body of the answer." }),
    secrets: z
      .array(
        z
          .object({ name: z.string(), revision: fields.revisionField })
          .meta({ examples: [{ name: "API_TOKEN", revision: 2 }] }),
      )
      .max(100)
      .meta({ description: "The secrets that were put into the request, without their values." }),
    redactions: size.meta({ description: "How many times a value was removed from the answer.", examples: [0] }),
  })
  .meta({
    id: "Call",
    description: "A recorded call. Contains no value of a secret, no argument, no body and no query.",
  });

/** The answer of `GET /calls`. */
export const callPage = pageOf(call, "CallPage");

/** The query of `GET /mcp-servers/{slug}/explanation`. */
export const explanationQuery = z.strictObject({
  token: fields.idField.meta({ description: "The id of the token with which the call would be made." }),
  tool: fields.toolField.optional().meta({ description: "The tool that would be called. Default: no tool." }),
  method: fields.methodField.optional().meta({
    description:
      "The HTTP method of the call to a server of the kind `http`. Default: the method scope of the token is not checked. For an MCP server, the method is always `POST`.",
  }),
});

const callRefusal = z.enum([
  "TOKEN_REVOKED",
  "TOKEN_EXPIRED",
  "ROLE_NOT_ALLOWED",
  "SERVER_OUT_OF_SCOPE",
  "TOOL_OUT_OF_SCOPE",
  "METHOD_OUT_OF_SCOPE",
  "SERVER_DISABLED",
  "SECRET_EXPIRED",
  "SECRET_ORIGIN_CHANGED",
]);

/** What a call would do. */
export const explanation = z
  .object({
    token: z.object({ id: z.string(), owner: z.string(), role: fields.roleField }).meta({
      description: "The token with which the call would be made.",
      examples: [{ id: "t0ken0000001", owner: "ci", role: "member" }],
    }),
    server: z
      .object({
        slug: fields.slugField,
        kind: fields.kindField,
        url: z.string(),
        origin: z.string(),
        host: z.string(),
        revision: fields.revisionField,
      })
      .meta({
        description: "Where the call would go.",
        examples: [
          {
            slug: "github",
            kind: "mcp",
            url: "https://mcp.example.com/mcp",
            origin: "https://mcp.example.com",
            host: "mcp.example.com",
            revision: 3,
          },
        ],
      }),
    secrets: z
      .array(
        z.object({
          name: z.string().meta({ examples: ["API_TOKEN"] }),
          revision: fields.revisionField.meta({
            description: "The revision of the server at which the value was set.",
            examples: [2],
          }),
          injection,
          header: z
            .string()
            .meta({ description: "The header that the value would enter.", examples: ["Authorization"] }),
          redacted: z
            .boolean()
            .meta({ description: "True if the answer would be searched for the value.", examples: [true] }),
          unusable: secretUnusable,
        }),
      )
      .max(fields.maxSecretsOfServer)
      .meta({ description: "The secrets that the call would use, without their values." }),
    refusals: z
      .array(callRefusal)
      .max(20)
      .meta({ description: "Why the call would be refused. Empty if it would be made.", examples: [[]] }),
  })
  .meta({ id: "CallExplanation", description: "What a call would do. Contains no value of a secret." });

/** A call that the audit recorded. */
export type RecordedCall = z.infer<typeof call>;
/** How a call ended. */
export type CallOutcome = z.infer<typeof callOutcome>;
/** What a call would do. */
export type CallExplanation = z.infer<typeof explanation>;
