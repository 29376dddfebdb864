import { z } from "zod";
import { idField, revisionField, timeField } from "../fields.ts";
import type { RecordKind } from "./record-kind.ts";

const schema = z.strictObject({
  v: z.literal(1),
  revision: revisionField,
  created: timeField,
  /** The key of the MAC of session ids, 32 bytes in base64. */
  sessionKey: z.base64().length(44),
  /** The tokens of operators that were not revoked. */
  operators: z.array(z.strictObject({ id: idField, expires: timeField.optional() })).max(100),
});

/** The one record about the installation. */
export type ServiceRecord = z.infer<typeof schema>;

/** The kind of the one record about the installation. */
export const serviceRecord: RecordKind<ServiceRecord> = {
  name: "record of the installation",
  schema,
  revisionOf: ({ created, revision }) => ({ identity: `service ${created}`, revision }),
};
