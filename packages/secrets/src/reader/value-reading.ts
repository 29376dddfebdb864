import { z } from "zod";
import { secretNameField } from "../fields.ts";
import type { RecordKind } from "../records/record-kind.ts";
import type { ValueRecord } from "../records/value-record.ts";

const schema: z.ZodType<ValueRecord> = z.strictObject({
  v: z.literal(1),
  name: secretNameField,
  origin: z.string().max(2_048),
  value: z.string().min(1).max(8_192),
});

/** The kind of the record of a value. Only the reader for calls may import it. */
export const valueRecord: RecordKind<ValueRecord> = { name: "record of a secret's value", schema };
