import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import type { Keyring } from "@keyward/core";
import {
  type AuditEntry,
  type AuditLog,
  type AuditLogOptions,
  type Call,
  type Change,
  exportAudit,
  openAuditLog,
} from "@keyward/secrets";
import { newCallId } from "@keyward/secrets/reader";
import { onTestFinished, vi } from "vitest";

/** The id of a workspace of the tests. */
export const workspace = "abcdefghij12";
/** The id of another workspace of the tests. */
export const otherWorkspace = "zyxwvutsrq98";

/** Returns the path of a file in a new directory, which is removed when the test has finished. */
export function temporaryAudit(): string {
  const directory = mkdtempSync(join(tmpdir(), "keyward-audit-"));
  onTestFinished(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, "audit.db");
}

/** Opens an audit that is closed when the test has finished. */
export function openedAudit(options: AuditLogOptions): AuditLog {
  const audit = openAuditLog(options);
  onTestFinished(() => audit.close().catch(() => undefined));
  return audit;
}

/** Returns a change of a secret in a workspace. */
export function secretChange(changed: Partial<Change> & { readonly owner?: string } = {}): Change {
  const { owner = "ana", ...rest } = changed;
  return {
    action: "secret.set",
    workspace,
    caller: { tokenId: "tokenoftests", owner, role: "admin", address: "192.0.2.7" },
    server: "github",
    subject: "GITHUB_TOKEN",
    detail: "A new value",
    ...rest,
  };
}

/** Returns a call of a tool in a workspace. */
export function toolCall(changed: Partial<Call> & { readonly owner?: string } = {}): Call {
  const { owner = "mia", ...rest } = changed;
  return {
    callId: newCallId(),
    at: Date.now() - 35,
    workspace,
    caller: { tokenId: "tokenofcalls", owner, role: "member", address: "192.0.2.8" },
    server: "github",
    method: "POST",
    path: "/mcp",
    mcpMethod: "tools/call",
    tool: "create_issue",
    status: 200,
    reason: undefined,
    durationMs: 35,
    requestBytes: 120,
    answerBytes: 900,
    secrets: [{ name: "GITHUB_TOKEN", revision: 3 }],
    redactions: 0,
    ...rest,
  };
}

/** Records calls one after the other, and returns their ids, the oldest first. */
export async function recordCalls(audit: AuditLog, calls: readonly Call[]): Promise<string[]> {
  for (const call of calls) await audit.recordCall(call);
  return calls.map(({ callId }) => callId);
}

/** Records changes one after the other, and returns their ids, the oldest first. */
export async function recordAll(audit: AuditLog, changes: readonly Change[]): Promise<string[]> {
  const ids: string[] = [];
  for (const change of changes) {
    const begun = await audit.begin(change);
    await begun.end("done", 1);
    ids.push(begun.id);
  }
  return ids;
}

const dayMs = 24 * 3_600_000;

/** Runs `work` while the clock of this process is set back by a number of days, or ahead if the number is negative. */
export async function daysAgo<Result>(days: number, work: () => Promise<Result>): Promise<Result> {
  vi.setSystemTime(Date.now() - days * dayMs);
  try {
    return await work();
  } finally {
    vi.useRealTimers();
  }
}

/** Begins the clock of retention of an audit without entries, so that later removals have a clock that is right. */
export async function beginRetention(audit: AuditLog): Promise<void> {
  await removeOld(audit);
}

/** Removes the entries that are older than 30 days. */
export async function removeOld(audit: AuditLog, of: string | undefined = workspace): Promise<number> {
  return await audit.removeBefore(of, Date.now() - 30 * dayMs);
}

/** Changes an audit file as an attacker who has no key. */
export function attack(path: string, sql: string): void {
  const database = new DatabaseSync(path);
  try {
    database.exec(sql);
  } finally {
    database.close();
  }
}

/** Returns all entries of an audit file. */
export async function entriesOf(path: string, keys: Keyring): Promise<AuditEntry[]> {
  const entries: AuditEntry[] = [];
  for await (const entry of exportAudit({ path, keys })) entries.push(entry);
  return entries;
}
