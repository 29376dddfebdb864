import { z } from "zod";
import {
  headersField,
  idField,
  kindField,
  maxSecretsOfServer,
  revisionField,
  ruleField,
  secretNameField,
  slugField,
  timeField,
  urlField,
} from "../fields.ts";
import { RecentRecords } from "./recent-records.ts";
import { valueKey } from "./record-keys.ts";
import type { RecordKind } from "./record-kind.ts";

/** The number of a secret's value, which is a part of the key of the value's record. */
const valueNumber = z.int().min(1);

const secret = z.strictObject({
  name: secretNameField,
  rule: ruleField,
  value: valueNumber,
  /** The revision of the server at which the value was set. */
  revision: revisionField,
  /** The origin to which the value may be sent. */
  origin: z.string().max(2_048),
  setAt: timeField,
  setBy: z.string().max(100),
  expires: timeField.optional(),
  weak: z.boolean(),
  /** True if the value has a colon, so that the rule `basic` can send it as `user:password`. */
  pair: z.boolean(),
  redacted: z.boolean(),
});

const schema = z.strictObject({
  v: z.literal(1),
  id: idField,
  /** The number of the page in the list of servers that contains the entry of this server. */
  page: z.int().min(0),
  slug: slugField,
  url: urlField,
  kind: kindField,
  /** Headers of the caller that the gateway forwards, in lower case. */
  forwardHeaders: headersField.default([]),
  /** Headers of answers that the gateway relays, in lower case. */
  relayHeaders: headersField.default([]),
  disabled: z.boolean(),
  deleting: z.boolean(),
  revision: revisionField,
  created: timeField,
  createdBy: z.string().max(100),
  /** The highest number that a value of this server has ever had. */
  values: z.int().min(0),
  secrets: z.array(secret).max(maxSecretsOfServer),
  /** Values that are being set: their records may be stored, and no secret points to them yet. */
  pending: z.array(z.strictObject({ value: valueNumber, since: timeField, id: idField })).max(200),
  /**
   * Values to delete. A value with `until` stays in this list until that time, because a paused process may still store
   * the record of the value.
   */
  garbage: z.array(z.strictObject({ value: valueNumber, until: timeField.optional() })).max(1_000),
});

/** The record of a server, with what is known about its secrets except their values. */
export type ServerRecord = z.infer<typeof schema>;

/** One secret in the record of its server, without the value. */
export type SecretRecord = z.infer<typeof secret>;

/** The kind of the record of a server. */
export const serverRecord: RecordKind<ServerRecord> = {
  name: "record of a server",
  schema,
  recent: new RecentRecords(),
  revisionOf: ({ id, revision }) => ({ identity: `server ${id}`, revision }),
};

/**
 * Returns the keys of all values in the record of a server: the values of its secrets, the values that are being set,
 * and the values to delete.
 */
export function valueKeysOf(
  { id, secrets, pending, garbage }: Pick<ServerRecord, "id" | "secrets" | "pending" | "garbage">,
  workspace: string,
): readonly string[] {
  return [...secrets, ...pending, ...garbage].map(({ value }) => valueKey(workspace, id, value));
}
