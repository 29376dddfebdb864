import { z } from "zod";
import { timeField } from "../fields.ts";
import type { RecordKind } from "./record-kind.ts";

const schema = z.strictObject({ v: z.literal(1), at: timeField });

/** The record of the last use of a token or a server. */
export type UsedRecord = z.infer<typeof schema>;

/** The kind of the record of a last use. */
export const usedRecord: RecordKind<UsedRecord> = { name: "record of a last use", schema };
