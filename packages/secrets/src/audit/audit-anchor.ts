import { SecretsError } from "../secrets-error.ts";
import type { StoredChainRow } from "./audit-rows.ts";
import { type AnchoredHead, type AuditAnchor, parseHead } from "./chain-proof.ts";
import { type AuditFile, whileAuditIsOpen } from "./open-audit-file.ts";
import { formatRecordKey } from "./record-key.ts";

const pageSize = 500;

/**
 * Returns whether an audit file has a chain of entries. Each file that a service has used has one, also after retention has
 * removed all entries. So a used file without a chain was emptied. Decrypts nothing, so a damaged record is not reported.
 *
 * @throws KeywardError if the file cannot be opened.
 * @example
 * await openAuditLog({ path: "audit.db", keys }).ready();
 * console.log(await hasAuditChains({ path: "audit.db", keys })); // false
 */
export async function hasAuditChains(file: AuditFile): Promise<boolean> {
  return await whileAuditIsOpen(file, async ({ thread }) => {
    const rows = await thread.request<StoredChainRow[]>({ method: "chains", after: 0, limit: 1 });
    return rows.length > 0;
  });
}

/**
 * Returns an anchor: the heads of all chains of an audit file. Print the anchor as JSON, and keep it on another
 * machine. With the anchor, `verifyAudit` finds a file that was put back to an older state. Keep all anchors.
 *
 * @throws SecretsError `AUDIT_INVALID` if a head cannot be read; KeywardError if the file cannot be opened, and the
 * errors of the keys.
 * @example
 * await openAuditLog({ path: "audit.db", keys }).ready();
 * const anchor = await auditAnchor({ path: "audit.db", keys });
 * console.log(JSON.stringify(anchor.heads)); // []
 */
export async function auditAnchor(file: AuditFile): Promise<AuditAnchor> {
  return await whileAuditIsOpen(file, async ({ thread, encrypted }) => {
    await encrypted.ready();
    const time = Date.now();
    const heads: AnchoredHead[] = [];
    for (let after = 0; ; ) {
      const rows = await thread.request<StoredChainRow[]>({ method: "chains", after, limit: pageSize });
      for (const { id, workspace, chain } of rows) {
        const key = formatRecordKey({ kind: "head", workspace: workspace ?? "", chain });
        const head = parseHead(await encrypted.get(key));
        if (workspace === undefined || head?.number !== id) {
          throw new SecretsError("AUDIT_INVALID", `The head of the chain ${chain} cannot be read`, {
            hint: "Run `keyward audit verify`, and restore a backup of the audit file.",
          });
        }
        heads.push({ workspace, chain, sequence: head.sequence, hash: head.hash });
      }
      const last = rows.at(-1);
      if (last === undefined) return { format: "keyward-audit-anchor", version: 1, time, heads };
      after = last.id;
    }
  });
}
