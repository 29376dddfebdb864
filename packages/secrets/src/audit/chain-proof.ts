import { z } from "zod";
import { SecretsError } from "../secrets-error.ts";
import { parseJson } from "./audit-entry.ts";

const hashField = z.string().regex(/^[0-9a-f]{64}$/);
const proofFields = z.strictObject({ sequence: z.int().min(1), hash: hashField });

/** The sequence number and the hash of an entry: of the last entry of a chain, or of the last entry that was removed. */
export interface ChainProof {
  /** The number of the entry in its chain. */
  readonly sequence: number;
  /** SHA-256 in hexadecimal. */
  readonly hash: string;
}

/** Returns a proof as the text of its record. */
export function formatProof({ sequence, hash }: { readonly sequence: number; readonly hash: Uint8Array }): string {
  return JSON.stringify({ sequence, hash: Buffer.from(hash).toString("hex") });
}

/** Returns the proof that a decrypted record contains; `undefined` if it contains something else. */
export function parseProof(text: unknown): ChainProof | undefined {
  const parsed = proofFields.safeParse(typeof text === "string" ? parseJson(text) : undefined);
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
  /** The version of the form of the anchor. */
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
 * Checks that a value is an anchor.
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
