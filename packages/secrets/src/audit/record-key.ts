/** The namespace of all records of the audit. */
export const auditNamespace = "keyward-audit";

/**
 * Used instead of the id of a workspace for the changes of the installation. No workspace has this id, because ids have
 * 12 characters.
 */
export const serviceWorkspace = "service";

/** The key of the record that counts the chains of the audit file. */
export const registryKey = "service/registry";
/** The key of the record that holds the clock of retention. */
export const clockKey = "service/clock";

const workspacePattern = /^[a-z0-9]{1,32}$/;
const chainPattern = /^[a-z0-9]{12}$/;
const tagPattern = /^[0-9a-f]{32}$/;
const sequencePattern = /^[1-9][0-9]{0,14}$/;

/**
 * The parts of the key of an audit record, for each kind of record.
 *
 * - `entry`: one entry of a chain, `<workspace>/<chain>/<sequence>`.
 * - `head`: the sequence and hash of the last entry of a chain, `<workspace>/<chain>/head`.
 * - `removed`: the sequence and hash up to which retention removed a chain, `<workspace>/<chain>/removed`.
 * - `name`: a name that entries refer to, `<workspace>/name/<tag>`.
 * - `lookup`: the HMAC key for the tags of names, `<workspace>/lookup`.
 * - `installation`: the number of chains of the file, `service/registry`, or the clock of retention, `service/clock`.
 */
export type AuditRecordKey =
  | { readonly kind: "entry"; readonly workspace: string; readonly chain: string; readonly sequence: number }
  | { readonly kind: "head"; readonly workspace: string; readonly chain: string }
  | { readonly kind: "removed"; readonly workspace: string; readonly chain: string }
  | { readonly kind: "name"; readonly workspace: string; readonly tag: string }
  | { readonly kind: "lookup"; readonly workspace: string }
  | { readonly kind: "installation"; readonly workspace: string; readonly name: string };

/** Returns the key of a record as text. */
export function formatRecordKey(key: AuditRecordKey): string {
  switch (key.kind) {
    case "entry":
      return `${key.workspace}/${key.chain}/${key.sequence}`;
    case "head":
    case "removed":
      return `${key.workspace}/${key.chain}/${key.kind}`;
    case "name":
      return `${key.workspace}/name/${key.tag}`;
    case "lookup":
      return `${key.workspace}/lookup`;
    case "installation":
      return `${key.workspace}/${key.name}`;
  }
}

/**
 * Returns the kind and the parts of the key of a record; `undefined` for a key that no record of the audit can have.
 */
export function parseRecordKey(text: string): AuditRecordKey | undefined {
  const [workspace = "", second = "", third, ...rest] = text.split("/");
  if (!isWorkspace(workspace) || rest.length > 0) return undefined;
  if (third === undefined) {
    if (second === "lookup") return { kind: "lookup", workspace };
    const isInstallation = workspace === serviceWorkspace && (second === "registry" || second === "clock");
    return isInstallation ? { kind: "installation", workspace, name: second } : undefined;
  }
  if (second === "name") return tagPattern.test(third) ? { kind: "name", workspace, tag: third } : undefined;
  if (!isChain(second)) return undefined;
  if (third === "head" || third === "removed") return { kind: third, workspace, chain: second };
  if (!sequencePattern.test(third)) return undefined;
  return { kind: "entry", workspace, chain: second, sequence: Number(third) };
}

/** Returns whether a text can be the id of a workspace in the audit. */
export function isWorkspace(text: string): boolean {
  return workspacePattern.test(text);
}

/** Returns whether a text can be the id of a chain. */
export function isChain(text: string): boolean {
  return chainPattern.test(text);
}

/**
 * Returns the scope of a record of the audit, `<workspace>/audit`. Pass this function as the option `scope` of an
 * `EncryptedStore` over an audit file.
 *
 * @example
 * console.log(auditScope({ key: "service/lookup" })); // service/audit
 */
export function auditScope({ key }: { readonly key: string }): string | undefined {
  const workspace = parseRecordKey(key)?.workspace;
  return workspace === undefined ? undefined : `${workspace}/audit`;
}
