import { z } from "zod";
import {
  idField,
  methodField,
  ownerField,
  revisionField,
  roleField,
  slugField,
  timeField,
  toolField,
} from "../fields.ts";
import { RecentRecords } from "./recent-records.ts";
import type { RecordKind } from "./record-kind.ts";

const schema = z.strictObject({
  v: z.literal(1),
  id: idField,
  /** The number of the page in the list of tokens that contains the entry of this token. */
  page: z.int().min(0),
  revision: revisionField,
  /** The SHA-256 of the text of the token, in base64url. */
  hash: z.string().length(43),
  owner: ownerField,
  role: roleField,
  servers: z.array(slugField).max(100).optional(),
  tools: z.array(toolField).max(100).optional(),
  methods: z.array(methodField).max(6).optional(),
  created: timeField,
  /** The last time in the `revocations` of the installation when this token was created. */
  lastRevocation: timeField.optional(),
  createdBy: z.string().max(100),
  expires: timeField.optional(),
  revoked: timeField.optional(),
});

/** The record of a token. It contains a hash of the token's text, and not the text. */
export type TokenRecord = z.infer<typeof schema>;

/** The kind of the record of a token. */
export const tokenRecord: RecordKind<TokenRecord> = {
  name: "record of a token",
  schema,
  recent: new RecentRecords(),
  revisionOf: ({ id, revision }) => ({ identity: `token ${id}`, revision }),
};

/** Returns whether a token was revoked or has expired. */
export function isEnded({ revoked, expires }: Pick<TokenRecord, "revoked" | "expires">, now: number): boolean {
  return revoked !== undefined || (expires !== undefined && expires <= now);
}
