import { z } from "zod";
import { secretNameField } from "../fields.ts";
import type { RecordKind } from "./record-kind.ts";

const schema = z.strictObject({
  v: z.literal(1),
  name: secretNameField,
  /** The origin to which the value may be sent. */
  origin: z.string().max(2_048),
  value: z.string().min(1).max(8_192),
});

/** The record of one value of a secret. It is written once. */
export type ValueRecord = z.infer<typeof schema>;

/** The kind of the record of a value. */
export const valueRecord: RecordKind<ValueRecord> = { name: "record of a secret's value", schema };
