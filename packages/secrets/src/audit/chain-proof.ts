import { z } from "zod";
import { SecretsError } from "../secrets-error.ts";
import { parseJson } from "./audit-entry.ts";

/** The shortest time for which retention keeps an entry, in milliseconds: a day. */
export const shortestRetentionMs = 24 * 3_600_000;

const hashField = z.string().regex(/^[0-9a-f]{64}$/);
const proofFields = z.strictObject({ sequence: z.int().min(1), hash: hashField });
const headFields = z.strictObject({ ...proofFields.shape, number: z.int().min(1) });
const removalFields = z
  .strictObject({ ...proofFields.shape, newest: z.int(), before: z.int(), at: z.int() })
  .refine(({ newest, before, at }) => newest < before && before <= at - shortestRetentionMs);

/** The sequence number and the hash of an entry: of the last entry of a chain, or of the last entry that was removed. */
export interface ChainProof {
  /** The number of the entry in its chain. */
  readonly sequence: number;
  /** SHA-256 in hexadecimal. */
  readonly hash: string;
}

/** The head of a chain: the sequence number and the hash of its last entry. */
export interface ChainHead extends ChainProof {
  /** The number of the chain in the file. Chains are numbered from 1, so the removal of a chain leaves a gap. */
  readonly number: number;
}

/** The part of a chain that retention has removed, and why: all its entries were older than `before`. */
export interface RemovedPart extends ChainProof {
  /** The time of the newest entry that the last transaction removed, in milliseconds since the epoch. */
  readonly newest: number;
  /** Entries from this time on are kept. */
  readonly before: number;
  /** The time of the removal by the clock of retention. The difference to `before` is the time for which entries are kept. */
  readonly at: number;
}

/** Returns the head of a chain as the text of its record. */
export function formatHead(head: {
  readonly sequence: number;
  readonly hash: Uint8Array;
  readonly number: number;
}): string {
  return JSON.stringify({ ...head, hash: Buffer.from(head.hash).toString("hex") } satisfies ChainHead);
}

/** Returns the head in a decrypted record; `undefined` if the record cannot be parsed. */
export function parseHead(text: unknown): ChainHead | undefined {
  const parsed = headFields.safeParse(typeof text === "string" ? parseJson(text) : undefined);
  return parsed.success ? parsed.data : undefined;
}

/**
 * Returns the removed part that a decrypted record describes; `undefined` if retention cannot have removed such a part.
 */
export function parseRemovedPart(text: unknown): RemovedPart | undefined {
  const parsed = removalFields.safeParse(typeof text === "string" ? parseJson(text) : undefined);
  return parsed.success ? parsed.data : undefined;
}

/** Returns the number of chains in the decrypted registry; `undefined` if the record cannot be parsed. */
export function parseRegistry(text: unknown): number | undefined {
  // A file without chains has no registry.
  if (text === undefined) return 0;
  const parsed = z
    .int()
    .min(1)
    .safeParse(typeof text === "string" ? parseJson(text) : undefined);
  return parsed.success ? parsed.data : undefined;
}

/** The head of one chain in an {@link AuditAnchor}. */
export interface AnchoredHead extends ChainProof {
  /** The id of the workspace; `service` for the changes of the installation. */
  readonly workspace: string;
  /** The id of the chain. */
  readonly chain: string;
}

/**
 * The heads of all chains of an audit file at one time. Contains no names and no keys. Keep it where nobody who can write
 * the audit file can change it.
 */
export interface AuditAnchor {
  /** Marks the value as an anchor. */
  readonly format: "keyward-audit-anchor";
  /** The version of the format of the anchor. */
  readonly version: 1;
  /** When the anchor was made, in milliseconds since the epoch. */
  readonly time: number;
  /** The last entry of each chain. */
  readonly heads: readonly AnchoredHead[];
}

const anchorFields = z.strictObject({
  format: z.literal("keyward-audit-anchor"),
  version: z.literal(1),
  time: z.int().min(0),
  heads: z
    .array(
      z.strictObject({
        workspace: z.string().regex(/^[a-z0-9]{1,32}$/),
        chain: z.string().regex(/^[a-z0-9]{12}$/),
        ...proofFields.shape,
      }),
    )
    .max(1_000_000),
});

/**
 * Checks that a value is an anchor, and returns the anchor.
 *
 * @throws SecretsError `AUDIT_INVALID`
 */
export function requireAnchor(anchor: unknown): AuditAnchor {
  const parsed = anchorFields.safeParse(anchor);
  if (parsed.success) return parsed.data;
  throw new SecretsError("AUDIT_INVALID", "The anchor does not have the form of an anchor of the audit", {
    hint: "Pass the parsed JSON that `keyward audit anchor` printed, unchanged.",
  });
}
