import { createHash, randomBytes } from "node:crypto";
import { z } from "zod";
import { revisionField, roleField, timeField } from "../fields.ts";
import type { Change, ChangeAction, ChangeOutcome, Role } from "../model.ts";
import { SecretsError } from "../secrets-error.ts";
import type { EntryColumns } from "./audit-rows.ts";
import { isChain, isWorkspace } from "./record-key.ts";

/** The values of the column `kind`. Later kinds, such as calls, get further numbers. */
export const kindNumbers = { "chain-opened": 1, "chain-closed": 2, change: 3, outcome: 4 } as const;

/** The values of the column `status` of the outcome of a change. */
export const outcomeNumbers = { done: 1, refused: 2, failed: 3 } as const satisfies Record<
  Exclude<ChangeOutcome, "unknown">,
  number
>;

const actions = {
  "service.initialize": true,
  "workspace.create": true,
  "workspace.delete": true,
  "server.create": true,
  "server.update": true,
  "server.delete": true,
  "secret.set": true,
  "secret.delete": true,
  "secret.inject": true,
  "token.create": true,
  "token.revoke": true,
  "token.rotate": true,
  "token.recover": true,
} as const satisfies Record<ChangeAction, true>;

const text = (most: number) =>
  z
    .string()
    .max(most)
    .refine((value) => value.isWellFormed());

/** The fields of a change that an entry contains. */
const changeFields = z.strictObject({
  action: z.literal(keysOf(actions)),
  caller: z.strictObject({
    tokenId: text(64),
    owner: text(400),
    role: roleField,
    address: text(128).optional(),
  }),
  server: text(256).optional(),
  subject: text(512).optional(),
  detail: text(4_096).optional(),
});

const place = {
  at: timeField,
  workspace: z.string().refine(isWorkspace),
  chain: z.string().refine(isChain),
  sequence: z.int().min(1),
  /** 16 random bytes, so that the hash of the entry confirms no guess of its content. */
  nonce: z.string().regex(/^[\w-]{22}$/),
};

const entrySchema = z.discriminatedUnion("kind", [
  z.strictObject({
    ...place,
    kind: z.literal("chain-opened"),
    process: z.strictObject({ pid: z.int().min(0), host: text(256) }),
  }),
  z.strictObject({ ...place, kind: z.literal("chain-closed") }),
  z.strictObject({ ...place, kind: z.literal("change"), ...changeFields.shape }),
  z.strictObject({
    ...place,
    kind: z.literal("outcome"),
    change: z.int().min(1),
    outcome: z.literal(keysOf(outcomeNumbers)),
    revision: revisionField.optional(),
  }),
]);

/** What each entry of the audit contains. */
export interface EntryPlace {
  /** When the entry was made, in milliseconds since the epoch. */
  readonly at: number;
  /** The id of the workspace; `service` for the changes of the installation. */
  readonly workspace: string;
  /** The id of the chain: one process and one workspace. */
  readonly chain: string;
  /** The number of the entry in its chain, from 1. */
  readonly sequence: number;
  /** 16 random bytes, so that the hash of the entry confirms no guess of its content. */
  readonly nonce: string;
}

/** The fields of a change, as an entry contains them. */
export interface ChangeFields {
  /** The kind of the change. */
  readonly action: ChangeAction;
  /** Who made the change. */
  readonly caller: {
    /** The id of the caller's token. */
    readonly tokenId: string;
    /** The label of the caller's token. */
    readonly owner: string;
    /** The role of the caller. */
    readonly role: Role;
    /** The network address of the caller. `undefined` on the machine itself. */
    readonly address?: string | undefined;
  };
  /** The slug of the server. */
  readonly server?: string | undefined;
  /** The name of the secret, the id of the token or the name of the workspace. */
  readonly subject?: string | undefined;
  /** What changed, in words. */
  readonly detail?: string | undefined;
}

/** The first entry of a chain. */
export interface ChainOpenedEntry extends EntryPlace {
  /** The kind of the entry. */
  readonly kind: "chain-opened";
  /** The process that writes the chain: its id and the name of its machine. */
  readonly process: { readonly pid: number; readonly host: string };
}

/** The last entry of a chain whose process has stopped in an orderly way. */
export interface ChainClosedEntry extends EntryPlace {
  /** The kind of the entry. */
  readonly kind: "chain-closed";
}

/** The beginning of a change. */
export interface ChangeEntry extends EntryPlace, ChangeFields {
  /** The kind of the entry. */
  readonly kind: "change";
}

/** How a change ended. */
export interface OutcomeEntry extends EntryPlace {
  /** The kind of the entry. */
  readonly kind: "outcome";
  /** The number of the change in the same chain. */
  readonly change: number;
  /** How the change ended. */
  readonly outcome: Exclude<ChangeOutcome, "unknown">;
  /** The revision of the server or workspace after the change. */
  readonly revision?: number | undefined;
}

/** An entry of the audit, decrypted. */
export type AuditEntry = ChainOpenedEntry | ChainClosedEntry | ChangeEntry | OutcomeEntry;

/** The part of an entry that the caller of the writer knows. The writer adds the place in the chain. */
export type EntryDraft = AuditEntry extends infer Entry
  ? Entry extends AuditEntry
    ? Omit<Entry, "workspace" | "chain" | "sequence" | "nonce">
    : never
  : never;

/** The names of an entry that are in columns. */
export interface EntryNames {
  readonly server: string | undefined;
  readonly token: string | undefined;
  readonly owner: string | undefined;
  readonly action: string | undefined;
}

/** The hash before the first entry of a chain. */
export const firstHash: Uint8Array = Buffer.alloc(32);

/** Returns the hash of an entry: SHA-256 over the hash of the entry before it and the text of the entry. */
export function hashAfter(former: Uint8Array, entryText: string): Buffer {
  return createHash("sha256").update(former).update(entryText).digest();
}

/** Returns a new random nonce of an entry. */
export function newNonce(): string {
  return randomBytes(16).toString("base64url");
}

/**
 * Returns the entry that a decrypted text contains.
 *
 * @throws SecretsError `AUDIT_INVALID` if the text is not an entry of this release.
 */
export function parseEntry(entryText: string): AuditEntry {
  const entry = tryToParseEntry(entryText);
  if (entry !== undefined) return entry;
  throw new SecretsError("AUDIT_INVALID", "An entry of the audit is not in a form that this release reads", {
    hint: "Use the release of Keyward that wrote the audit file, or a later release. Then run `keyward audit verify`.",
  });
}

/** Returns the entry that a decrypted text contains; `undefined` if the text is not an entry of this release. */
export function tryToParseEntry(entryText: string): AuditEntry | undefined {
  const parsed = entrySchema.safeParse(parseJson(entryText));
  return parsed.success ? parsed.data : undefined;
}

/** Returns what the columns of an entry must contain, apart from its hash. */
export function columnsOf(entry: AuditEntry): Omit<EntryColumns, "hash"> {
  const columns = { time: entry.at, kind: kindNumbers[entry.kind], durationMs: undefined, bytes: undefined };
  switch (entry.kind) {
    case "chain-opened":
    case "chain-closed":
    case "change":
      return { ...columns, status: undefined, change: undefined };
    case "outcome":
      return { ...columns, status: outcomeNumbers[entry.outcome], change: entry.change };
  }
}

/** Returns the names in the columns of an entry. */
export function namesOf(entry: AuditEntry): EntryNames {
  switch (entry.kind) {
    case "chain-opened":
    case "chain-closed":
    case "outcome":
      return { server: undefined, token: undefined, owner: undefined, action: undefined };
    case "change":
      return { server: entry.server, token: entry.caller.tokenId, owner: entry.caller.owner, action: entry.action };
  }
}

/**
 * Returns the fields of a change that an entry contains.
 *
 * @throws SecretsError `FIELD_INVALID` if a field is too long or not well-formed.
 */
export function requireChangeFields({ action, caller, server, subject, detail }: Change): ChangeFields {
  const { tokenId, owner, role, address } = caller;
  const parsed = changeFields.safeParse({ action, caller: { tokenId, owner, role, address }, server, subject, detail });
  if (parsed.success) return parsed.data;
  const path = parsed.error.issues[0]?.path.join(".") ?? "";
  throw new SecretsError("FIELD_INVALID", `The field "${path}" of a change cannot be recorded`, {
    hint: "Shorten the field. Names have at most 100 characters, and details at most 4,096.",
  });
}

/** Returns the value that a JSON text contains; `undefined` for another text. */
export function parseJson(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

function keysOf<Key extends string>(record: Readonly<Record<Key, unknown>>): Key[] {
  const keys: Key[] = [];
  for (const key in record) keys.push(key);
  return keys;
}
