import { z } from "zod";
import { idField, revisionField, timeField } from "../fields.ts";
import { keeperField, maxKeptKeepers } from "./keeper.ts";
import { RecentRecords } from "./recent-records.ts";
import type { RecordKind } from "./record-kind.ts";

const schema = z.strictObject({
  v: z.literal(1),
  revision: revisionField,
  created: timeField,
  /** The MAC key for session ids, 32 bytes in base64. */
  sessionKey: z.base64().length(44),
  /** Set until the first tokens were delivered: which process initializes the service, and whether it has given up. */
  initializing: z.strictObject({ id: idField, hasGivenUp: z.boolean() }).optional(),
  /** Every token that was created before this time is refused. */
  refusedBefore: timeField.optional(),
  /** The times at which all tokens created before a time were revoked, oldest first. */
  revocations: z.array(timeField).max(50).optional(),
  /** The last sweep that removed old records, and a jump of the clock since then: see `sweep-clock.ts`. */
  sweeps: z
    .strictObject({ last: timeField, jumped: z.strictObject({ noticed: timeField, lookedAt: timeField }).optional() })
    .optional(),
  /** The valid tokens of operators, each with the time at which it expires, if any. */
  operators: z.array(keeperField).max(maxKeptKeepers),
});

/** The one record about the installation. */
export type ServiceRecord = z.infer<typeof schema>;

/** The kind of the one record about the installation. */
export const serviceRecord: RecordKind<ServiceRecord> = {
  name: "record of the installation",
  schema,
  recent: new RecentRecords(),
  revisionOf: ({ created, revision }) => ({ identity: `service ${created}`, revision }),
};
