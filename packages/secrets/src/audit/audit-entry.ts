import { hash, randomBytes } from "node:crypto";
import { z } from "zod";
import { revisionField, roleField, timeField } from "../fields.ts";
import type { CalledSecret, CallOutcome, Change, ChangeAction, ChangeOutcome, Role } from "../model.ts";
import { SecretsError } from "../secrets-error.ts";
import type { EntryColumns } from "./audit-rows.ts";
import { isChain, isWorkspace } from "./record-key.ts";

/** The values of the column `kind`. Later kinds get further numbers. */
export const kindNumbers = { "chain-opened": 1, "chain-closed": 2, change: 3, outcome: 4, call: 5 } as const;

/** The values of the column `status` of the outcome of a change. */
export const outcomeNumbers = { done: 1, refused: 2, failed: 3 } as const satisfies Record<
  Exclude<ChangeOutcome, "unknown">,
  number
>;

/** Added to the HTTP status in the column `status`, if the gateway refused or ended the call. */
const refusedStatus = 1_000;

/**
 * The values of the column `status` of a call: the HTTP status, or 0 if the caller disconnected before the answer. If
 * the gateway refused or ended the call, the value is greater by 1,000.
 */
export const callStatuses = {
  left: { least: 0, most: 0 },
  answered: { least: 100, most: 399 },
  failed: { least: 400, most: 599 },
  refused: { least: refusedStatus, most: refusedStatus + 599 },
} as const satisfies Record<CallOutcome, { readonly least: number; readonly most: number }>;

const actions = {
  "service.initialize": true,
  "audit.begin": true,
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

/** The largest lengths of texts in an entry, in UTF-16 code units. */
export const longest = {
  tokenId: 64,
  owner: 400,
  address: 128,
  server: 256,
  method: 16,
  path: 2_048,
  mcpMethod: 128,
  tool: 128,
  reason: 64,
  secretName: 128,
} as const;
/** The largest number of secrets in the entry of a call. */
export const mostCalledSecrets = 100;
/** The form of the id of a call. */
export const callIdPattern = /^[A-Za-z0-9_-]{12,64}$/;

const callerFields = z.strictObject({
  tokenId: text(longest.tokenId),
  owner: text(longest.owner),
  role: roleField,
  address: text(longest.address).optional(),
});

/** The fields of a call that an entry contains. */
const callFields = z.strictObject({
  callId: z.string().regex(callIdPattern),
  caller: callerFields,
  server: text(longest.server),
  method: text(longest.method),
  path: text(longest.path),
  mcpMethod: text(longest.mcpMethod).optional(),
  tool: text(longest.tool).optional(),
  status: z.int().min(100).max(599).optional(),
  reason: text(longest.reason).optional(),
  durationMs: z.int().min(0),
  requestBytes: z.int().min(0),
  answerBytes: z.int().min(0),
  secrets: z.array(z.strictObject({ name: text(longest.secretName), revision: revisionField })).max(mostCalledSecrets),
  redactions: z.int().min(0),
});

/** The fields of a change that an entry contains. */
const changeFields = z.strictObject({
  action: z.literal(keysOf(actions)),
  caller: callerFields,
  server: text(256).optional(),
  subject: text(512).optional(),
  detail: text(8_192).optional(),
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
  z.strictObject({ ...place, kind: z.literal("call"), ...callFields.shape }),
]);

/** The fields of every entry of the audit: its time, and its place in a chain. */
export interface EntryPlace {
  /** When the entry was made, in milliseconds since the epoch. */
  readonly at: number;
  /** The id of the workspace; `service` for the changes of the installation. */
  readonly workspace: string;
  /** The id of the chain. A process writes one chain for each workspace. */
  readonly chain: string;
  /** The number of the entry in its chain, from 1. */
  readonly sequence: number;
  /** 16 random bytes, so that the hash of the entry confirms no guess of its content. */
  readonly nonce: string;
}

/** Who made a change or a call, as an entry contains it. */
export interface EntryCaller {
  /** The id of the caller's token. */
  readonly tokenId: string;
  /** The label of the caller's token. */
  readonly owner: string;
  /** The role of the caller. */
  readonly role: Role;
  /** The network address of the caller. `undefined` on the machine itself. */
  readonly address?: string | undefined;
}

/** The fields of a change, as an entry contains them. */
export interface ChangeFields {
  /** The kind of the change. */
  readonly action: ChangeAction;
  /** Who made the change. */
  readonly caller: EntryCaller;
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
  /** The sequence number of the change's entry, in the same chain. */
  readonly change: number;
  /** How the change ended. */
  readonly outcome: Exclude<ChangeOutcome, "unknown">;
  /** The revision of the server or workspace after the change. */
  readonly revision?: number | undefined;
}

/** The fields of a call, as an entry contains them. */
export interface CallFields {
  /** The id of the call, which the caller got with the answer. */
  readonly callId: string;
  /** Who made the call. */
  readonly caller: EntryCaller;
  /** The slug of the server. `*` if the workspace has no such server. */
  readonly server: string;
  /** The HTTP method. */
  readonly method: string;
  /** The path, shortened by `shortenedPath`. */
  readonly path: string;
  /** The method of MCP. */
  readonly mcpMethod?: string | undefined;
  /** The name of the tool. */
  readonly tool?: string | undefined;
  /** The HTTP status that the caller got. `undefined` if the caller disconnected before the answer. */
  readonly status?: number | undefined;
  /** Why the gateway refused or ended the call. */
  readonly reason?: string | undefined;
  /** How long the call took, in milliseconds. */
  readonly durationMs: number;
  /** The number of bytes of the body of the request. */
  readonly requestBytes: number;
  /** The number of bytes of the body of the answer. */
  readonly answerBytes: number;
  /** The secrets that were put into the request. */
  readonly secrets: readonly CalledSecret[];
  /** How often a value was removed from the answer. */
  readonly redactions: number;
}

/** A call. Its `at` is the time at which the call ended. */
export interface CallEntry extends EntryPlace, CallFields {
  /** The kind of the entry. */
  readonly kind: "call";
}

/** An entry of the audit, decrypted. */
export type AuditEntry = ChainOpenedEntry | ChainClosedEntry | ChangeEntry | OutcomeEntry | CallEntry;

/** The part of an entry that the caller of the writer knows. The writer adds the place in the chain. */
export type EntryDraft = AuditEntry extends infer Entry
  ? Entry extends AuditEntry
    ? Omit<Entry, "workspace" | "chain" | "sequence" | "nonce">
    : never
  : never;

/** The names in an entry that the columns of its row refer to. */
export interface EntryNames {
  readonly server: string | undefined;
  readonly token: string | undefined;
  readonly owner: string | undefined;
  /** The kind of a change, or the tool of a call. */
  readonly action: string | undefined;
}

/** Used instead of the hash of the entry before, for the first entry of a chain: 32 zero bytes. */
export const firstHash: Uint8Array = Buffer.alloc(32);

/** Returns the hash of an entry: SHA-256 over the hash of the entry before it and the text of the entry. */
export function hashAfter(former: Uint8Array, entryText: string): Buffer {
  return hash("sha256", Buffer.concat([former, Buffer.from(entryText)]), "buffer");
}

const nonceBytes = 16;
/** Random bytes for the next nonces, because drawing them one by one costs more than the rest of an entry. */
let drawn = Buffer.alloc(0);

/** Returns a new random nonce of an entry. */
export function newNonce(): string {
  if (drawn.length === 0) drawn = randomBytes(256 * nonceBytes);
  const nonce = drawn.toString("base64url", 0, nonceBytes);
  drawn = drawn.subarray(nonceBytes);
  return nonce;
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

/** Returns the values that the columns of an entry must have, except its hash. */
export function columnsOf(entry: AuditEntry): Omit<EntryColumns, "hash"> {
  const columns = { time: entry.at, kind: kindNumbers[entry.kind], durationMs: undefined, bytes: undefined };
  switch (entry.kind) {
    case "chain-opened":
    case "chain-closed":
    case "change":
      return { ...columns, status: undefined, change: undefined };
    case "outcome":
      return { ...columns, status: outcomeNumbers[entry.outcome], change: entry.change };
    case "call": {
      const { status = 0, reason, durationMs, answerBytes, callId } = entry;
      return {
        ...columns,
        status: reason === undefined ? status : status + refusedStatus,
        durationMs,
        bytes: answerBytes,
        change: numberOfCall(callId),
      };
    }
  }
}

/**
 * Returns the number under which the column `change` finds a call: 48 bits of the hash of its id, plus 2^48. The
 * sequence number of a change is always lower, so the two kinds of numbers are never equal.
 */
export function numberOfCall(callId: string): number {
  return 2 ** 48 + hash("sha256", callId, "buffer").readUIntBE(0, 6);
}

/** Returns how a call ended. */
export function outcomeOfCall({ status, reason }: Pick<CallFields, "status" | "reason">): CallOutcome {
  if (reason !== undefined) return "refused";
  if (status === undefined) return "left";
  return status < 400 ? "answered" : "failed";
}

/** Returns the names that the columns of an entry refer to. */
export function namesOf(entry: AuditEntry): EntryNames {
  switch (entry.kind) {
    case "chain-opened":
    case "chain-closed":
    case "outcome":
      return { server: undefined, token: undefined, owner: undefined, action: undefined };
    case "change":
      return { server: entry.server, token: entry.caller.tokenId, owner: entry.caller.owner, action: entry.action };
    case "call":
      return { server: entry.server, token: entry.caller.tokenId, owner: entry.caller.owner, action: entry.tool };
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
    hint: "Shorten the field. Names have at most 100 characters, and details at most 8,192.",
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
