import * as fields from "@keyward/secrets/fields";
import { z } from "zod";
import { pageOf } from "./paging.ts";
import { answerTime } from "./times.ts";
import { issuedToken } from "./token-schemas.ts";

/** The body of `POST /workspaces`. */
export const newWorkspace = z
  .strictObject({
    name: fields.slugField.meta({ description: "The name of the workspace.", examples: ["payments"] }),
    adminOwner: fields.ownerField.meta({
      description: "The owner of the workspace's first admin token.",
      examples: ["Ada Example"],
    }),
  })
  .meta({ id: "NewWorkspace" });

/** A workspace, as operators see it. */
export const workspace = z
  .object({
    id: fields.idField.meta({ examples: ["w0rkspace001"] }),
    name: fields.slugField.meta({ examples: ["payments"] }),
    revision: fields.revisionField.meta({ description: "A number that grows with each change.", examples: [1] }),
    created: answerTime,
    retentionDays: z
      .number()
      .meta({ description: "For how many days the calls and changes are kept.", examples: [90] }),
    deleting: z.boolean().meta({ description: "True while the workspace is being deleted.", examples: [false] }),
  })
  .meta({ id: "Workspace", description: "A workspace, as operators see it." });

/** The answer of `POST /workspaces`. */
export const createdWorkspace = z
  .object({ workspace, admin: issuedToken })
  .meta({ id: "CreatedWorkspace", description: "A new workspace, and the token of its first admin." });

/** The answer of `GET /workspaces`. */
export const workspacePage = pageOf(workspace, "WorkspacePage");

/** A workspace, as operators see it. */
export type Workspace = z.infer<typeof workspace>;
/** The body of a request of {@link AdminClient.createWorkspace}. */
export type NewWorkspace = z.input<typeof newWorkspace>;
/** A new workspace, and the token of its first admin. */
export type CreatedWorkspace = z.infer<typeof createdWorkspace>;
