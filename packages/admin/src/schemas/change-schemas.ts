import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { pageOf, pageQuery } from "./paging.ts";
import { answerTime, timeText } from "./times.ts";

/** The kinds of changes that the audit records. */
export const changeAction = z.enum([
  "service.initialize",
  "audit.begin",
  "workspace.create",
  "workspace.delete",
  "server.create",
  "server.update",
  "server.delete",
  "secret.set",
  "secret.delete",
  "secret.inject",
  "token.create",
  "token.revoke",
  "token.rotate",
  "token.recover",
]);

/** The query of `GET /changes`. */
export const changeQuery = pageQuery.extend({
  owner: fields.ownerField.optional().meta({ description: "Only the changes that this owner made." }),
  server: fields.slugField.optional().meta({ description: "Only the changes of this server." }),
  action: changeAction.optional().meta({ description: "Only the changes of this kind." }),
  from: timeText.optional().meta({ description: "Only the changes at or after this time." }),
  until: timeText.optional().meta({ description: "Only the changes before this time." }),
});

/** A change that the audit recorded. */
export const change = z
  .object({
    id: z.string().meta({ description: "The id of the entry.", examples: ["change-0001"] }),
    at: answerTime,
    action: changeAction.meta({ examples: ["secret.set"] }),
    outcome: z.enum(["done", "refused", "failed", "unknown"]).meta({
      description:
        "`refused`: nothing was changed. `failed`: the service or its store failed. `unknown`: the outcome was not recorded, such as after a crash. After `failed` and `unknown`, the change may have been made or not.",
      examples: ["done"],
    }),
    revision: fields.revisionField
      .nullable()
      .meta({ description: "The revision of the server or workspace after the change.", examples: [2] }),
    caller: z
      .object({
        tokenId: z.string(),
        owner: z.string(),
        role: fields.roleField,
        address: z.string().nullable().meta({ description: "`null` for a change that was not made over the network." }),
      })
      .meta({
        description: "Who made the change.",
        examples: [{ tokenId: "t0ken0000001", owner: "Ada Example", role: "admin", address: "192.0.2.7" }],
      }),
    server: z.string().nullable().meta({
      description: "The slug of the server, if the change is about one. `*` if the workspace has no such server.",
    }),
    subject: z
      .string()
      .nullable()
      .meta({
        description:
          "The name of the secret, the id of the token or the name of the workspace. `*` if it does not exist.",
        examples: ["API_TOKEN"],
      }),
    detail: z.string().nullable().meta({ description: "What changed, in words." }),
  })
  .meta({ id: "Change", description: "A recorded change. Contains no value of a secret and no text of a token." });

/** The answer of `GET /changes`. */
export const changePage = pageOf(change, "ChangePage");

/** A change that the audit recorded. */
export type RecordedChange = z.infer<typeof change>;
/** The kinds of changes that the audit records. */
export type ChangeAction = z.infer<typeof changeAction>;
