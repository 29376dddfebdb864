import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { callUrlField } from "./call-url.ts";
import { pageOf, pageQuery } from "./paging.ts";
import { answerTime, timeText } from "./times.ts";

const exampleOwner = "Ada Example";
/** The longest time for which the old token stays valid after a rotation, in milliseconds: 30 days. */
export const maxOverlapMs = 30 * 24 * 60 * 60 * 1_000;

/** The path parameter of the routes of one token. */
export const tokenPath = z.strictObject({
  id: fields.idField.meta({ description: "The id of a token.", examples: ["t0ken0000001"] }),
});

/** The body of `POST /tokens`. */
export const newToken = z
  .strictObject({
    owner: fields.ownerField.meta({ description: "The label of the token.", examples: [exampleOwner] }),
    role: fields.roleField.meta({ examples: ["member"] }),
    servers: z
      .array(fields.slugField)
      .min(1)
      .max(100)
      .optional()
      .meta({
        description: "The slugs of the servers that a member may call. Default: all servers of the workspace.",
        examples: [["github"]],
      }),
    tools: z
      .array(fields.toolField)
      .min(1)
      .max(100)
      .optional()
      .meta({
        description:
          "The tools that a member may call. Default: all. With tools and without `methods`, a member calls no server of the kind `http`, which has no tools.",
        examples: [["list_issues"]],
      }),
    methods: z
      .array(fields.methodField)
      .min(1)
      .max(6)
      .optional()
      .meta({ description: "The HTTP methods that a member may use. Default: all.", examples: [["GET"]] }),
    expires: timeText.optional().meta({ description: "When the token expires. Default: never." }),
  })
  .meta({ id: "NewToken" });

/** A token, without its text. */
export const token = z
  .object({
    id: fields.idField.meta({ examples: ["t0ken0000001"] }),
    owner: fields.ownerField.meta({ examples: [exampleOwner] }),
    role: fields.roleField.meta({ examples: ["member"] }),
    servers: z
      .array(fields.slugField)
      .nullable()
      .meta({ description: "The servers that the token may call. `null` for all.", examples: [["github"]] }),
    tools: z.array(fields.toolField).nullable().meta({
      description:
        "The tools that the token may call. `null` for all. With tools and without `methods`: no server of the kind `http`.",
    }),
    methods: z
      .array(z.string())
      .nullable()
      .meta({ description: "The HTTP methods that the token may use. `null` for all." }),
    created: answerTime,
    createdBy: z
      .string()
      .meta({ description: "The owner of the token with which this token was created.", examples: [exampleOwner] }),
    expires: answerTime.nullable().meta({ description: "When the token expires. `null` for never." }),
    revoked: answerTime.nullable().meta({ description: "When the token was revoked. `null` if it was not." }),
    lastUsed: answerTime
      .nullable()
      .meta({ description: "When the token was last used, to about a minute. `null` for never." }),
  })
  .meta({ id: "Token", description: "A token, without its text." });

/** A new token, with its text. */
export const issuedToken = z
  .object({
    token: z
      .string()
      .min(1)
      .max(256)
      .meta({
        description: "The text of the token. It is returned once and cannot be read again.",
        examples: ["kwt_EXAMPLE"],
      }),
    info: token,
    callUrl: callUrlField,
  })
  .meta({ id: "IssuedToken", description: "A new token, with its text." });

/** The answer of `GET /tokens`. */
export const tokenPage = pageOf(token, "TokenPage");

/** The query of `GET /tokens`. */
export const tokenListQuery = pageQuery.extend({
  owner: fields.ownerField.optional().meta({ description: "Only the tokens of this owner." }),
});

/** The query of `DELETE /tokens`. */
export const tokenOwnerQuery = z.strictObject({
  owner: fields.ownerField.meta({ description: "The owner whose tokens are revoked.", examples: [exampleOwner] }),
});

/** The answer of `DELETE /tokens`. */
export const revokedTokens = z
  .object({ revoked: z.array(fields.idField).meta({ description: "The ids of the tokens that were revoked." }) })
  .meta({ id: "RevokedTokens" });

/** The body of `POST /tokens/{id}/rotate`. */
export const tokenRotation = z
  .strictObject({
    overlapMs: z
      .int()
      .min(0)
      .max(maxOverlapMs)
      .meta({
        description: "For how long the old token stays valid, in milliseconds: at most 30 days.",
        examples: [3_600_000],
      }),
  })
  .meta({ id: "TokenRotation" });

/** A token, without its text. */
export type Token = z.infer<typeof token>;
/** The body of a request of {@link AdminClient.createToken}. */
export type NewToken = z.input<typeof newToken>;
/** A new token, with its text, which cannot be read again. */
export type IssuedToken = z.infer<typeof issuedToken>;
