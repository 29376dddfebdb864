import { EncryptedStore, type EncryptedStoreOptions, type KeyProvider, type Keyring } from "@keyward/core";
import type { AuditFileOptions } from "./audit-file.ts";
import { AuditTable } from "./audit-table.ts";
import { AuditThread, longestQueueMs } from "./audit-thread.ts";
import { auditScope } from "./record-key.ts";

/** How long a call waits for a lock of another process, in milliseconds. */
const defaultBusyTimeoutMs = 5_000;

/** The path of an audit file, and its encryption keys. */
export interface AuditFile {
  /** The path of the SQLite file of the audit. */
  readonly path: string;
  /** The encryption keys: a keyring or a key provider. */
  readonly keys: Keyring | KeyProvider;
}

/** An open audit file: its thread, its table, and the store that encrypts the table. */
export interface OpenAudit {
  readonly thread: AuditThread;
  readonly table: AuditTable;
  readonly encrypted: EncryptedStore;
}

/** The options of {@link openAudit}. */
export interface OpenAuditOptions extends AuditFile {
  readonly create: boolean;
  readonly replica?: EncryptedStoreOptions["replica"] | undefined;
  readonly reencrypt?: "on-read" | "off" | undefined;
  readonly busyTimeoutMs?: number | undefined;
  readonly maxBytes?: number | undefined;
}

/**
 * Opens an audit file as a store of encrypted records, for rotation, re-encryption, census and retirement. Pass it to
 * an `EncryptedStore` with the option `scope: auditScope`. A missing file is created.
 *
 * @param path the path of the SQLite file.
 * @example
 * const audit = new EncryptedStore(auditStore("audit.db"), { keys, scope: auditScope });
 * console.log((await reencrypt(audit)).reencrypted); // 0
 * await audit.disconnect();
 */
export function auditStore(path: string): AuditTable {
  return tableOf({ path, create: true, busyTimeoutMs: defaultBusyTimeoutMs, maxBytes: undefined }).table;
}

/** Opens an audit file with its keys. The file itself is opened with the first call. */
export function openAudit(options: OpenAuditOptions): OpenAudit {
  const { keys, replica, reencrypt } = options;
  const { thread, table } = tableOf(fileOptionsOf(options));
  const encrypted = new EncryptedStore(table, {
    keys,
    scope: auditScope,
    ...(replica === undefined ? {} : { replica }),
    ...(reencrypt === undefined ? {} : { reencrypt }),
  });
  return { thread, table, encrypted };
}

/** Opens a further thread of an audit file, for reads that take long. */
export function openThread(options: OpenAuditOptions): AuditThread {
  return new AuditThread(fileOptionsOf(options));
}

/** Opens an existing audit file, runs `work`, and closes the file. */
export async function whileAuditIsOpen<Result>(
  file: AuditFile,
  work: (audit: OpenAudit) => Promise<Result>,
): Promise<Result> {
  const audit = openAudit({ ...file, create: false, reencrypt: "off" });
  try {
    return await work(audit);
  } finally {
    await audit.encrypted.disconnect();
  }
}

function fileOptionsOf({
  path,
  create,
  busyTimeoutMs = defaultBusyTimeoutMs,
  maxBytes,
}: OpenAuditOptions): AuditFileOptions {
  return { path, create, busyTimeoutMs, maxBytes };
}

function tableOf(options: AuditFileOptions): { readonly thread: AuditThread; readonly table: AuditTable } {
  const thread = new AuditThread(options);
  // A write waits for the thread, and then for the lock of another process.
  return { thread, table: new AuditTable(thread, longestQueueMs + options.busyTimeoutMs) };
}
