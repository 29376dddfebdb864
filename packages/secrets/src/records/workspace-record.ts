import { z } from "zod";
import { idField, revisionField, slugField, timeField } from "../fields.ts";
import { keeperField, maxKeptKeepers } from "./keeper.ts";
import { RecentRecords } from "./recent-records.ts";
import type { RecordKind } from "./record-kind.ts";

const schema = z.strictObject({
  v: z.literal(1),
  id: idField,
  /** The number of the page in the list of workspaces that contains the entry of this workspace. */
  page: z.int().min(0),
  name: slugField,
  revision: revisionField,
  created: timeField,
  createdBy: z.string().max(100),
  retentionDays: z.int().min(1).max(3_650),
  /** True while the workspace is being deleted: its tokens are refused. */
  deleting: z.boolean(),
  /** The valid tokens of admins, each with the time at which it expires, if any. */
  admins: z.array(keeperField).max(maxKeptKeepers),
});

/** The record of a workspace. */
export type WorkspaceRecord = z.infer<typeof schema>;

/** The kind of the record of a workspace. */
export const workspaceRecord: RecordKind<WorkspaceRecord> = {
  name: "record of a workspace",
  schema,
  recent: new RecentRecords(),
  revisionOf: ({ id, revision }) => ({ identity: `workspace ${id}`, revision }),
};
