import { SecretsError } from "../secrets-error.ts";
import { type AuditEntry, parseEntry } from "./audit-entry.ts";
import type { RowPlace } from "./audit-rows.ts";
import { type AuditFile, openAudit } from "./open-audit-file.ts";
import { formatRecordKey, isWorkspace } from "./record-key.ts";

/** The options of {@link exportAudit}. */
export interface ExportAuditOptions extends AuditFile {
  /** The id of a workspace, or `service` for the changes of the installation. Default: all workspaces. */
  readonly workspace?: string | undefined;
}

const pageSize = 500;

/**
 * Yields the decrypted entries of one workspace, or of all, in the order in which they were written. To export the
 * audit, print each entry as one line of JSON.
 *
 * @throws SecretsError `AUDIT_INVALID` at the first entry that cannot be parsed; KeywardError at the first entry that
 * cannot be decrypted.
 * @example
 * await openAuditLog({ path: "audit.db", keys }).ready();
 * for await (const entry of exportAudit({ path: "audit.db", keys })) console.log(JSON.stringify(entry));
 */
export async function* exportAudit({ workspace, ...file }: ExportAuditOptions): AsyncGenerator<AuditEntry, void> {
  if (workspace !== undefined && !isWorkspace(workspace)) {
    throw new SecretsError("FIELD_INVALID", "The id of a workspace must have 1 to 32 lower-case letters and digits", {
      hint: "Pass the id of the workspace, and not its name.",
    });
  }
  const { thread, encrypted } = openAudit({ ...file, create: false, reencrypt: "off" });
  try {
    for (let after = 0; ; ) {
      const places = await thread.request<RowPlace[]>({ method: "places", workspace, after, limit: pageSize });
      const last = places.at(-1);
      if (last === undefined) return;
      const texts = await encrypted.getMany(places.map((place) => formatRecordKey({ kind: "entry", ...place })));
      // An entry that retention removed in the meantime is left out.
      for (const text of texts) if (text !== undefined) yield parseEntry(String(text));
      after = last.id;
    }
  } finally {
    await encrypted.disconnect();
  }
}
