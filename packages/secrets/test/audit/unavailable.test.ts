import { execFileSync } from "node:child_process";
import { accessSync, chmodSync, constants, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import type { Worker } from "node:worker_threads";
import { Keyring } from "@keyward/core";
import { type AuditLog, openAuditLog, SecretsError, verifyAudit } from "@keyward/secrets";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  beginRetention,
  daysAgo,
  entriesOf,
  openedAudit,
  recordAll,
  recordCalls,
  removeOld,
  secretChange,
  temporaryAudit,
  toolCall,
  workspace,
} from "./audit-files.ts";

const quickly = { busyTimeoutMs: 20, longestWaitMs: 4_000 };

/** Locks a file against writes until the returned function is called. */
function lock(path: string): () => void {
  const database = new DatabaseSync(path);
  database.exec("BEGIN IMMEDIATE");
  const release = () => {
    if (database.isOpen) database.close();
  };
  onTestFinished(release);
  return release;
}

/** Begins a change, and returns the message with which it is refused; "" if it is not refused. */
async function refusalOf(audit: AuditLog): Promise<string> {
  try {
    await audit.begin(secretChange());
    return "";
  } catch (error) {
    return error instanceof SecretsError && error.code === "AUDIT_UNAVAILABLE" ? error.message : "another error";
  }
}

function isWritable(audit: AuditLog): boolean {
  try {
    audit.requireWritable();
    return true;
  } catch {
    return false;
  }
}

/** Makes a file read-only. Returns a function that makes it writable again; `undefined` if that is not possible. */
function makeReadOnly(path: string): (() => void) | undefined {
  chmodSync(path, 0o400);
  let makeWritable = () => chmodSync(path, 0o600);
  try {
    accessSync(path, constants.W_OK);
    // Permissions do not bind the root user, but the attribute of the file system does.
    execFileSync("chattr", ["+i", path], { stdio: "ignore" });
    makeWritable = () => execFileSync("chattr", ["-i", path]);
    accessSync(path, constants.W_OK);
    makeWritable();
    return undefined;
  } catch (error) {
    const isDenied = error instanceof Error && "code" in error && (error.code === "EACCES" || error.code === "EPERM");
    if (!isDenied) return undefined;
  }
  onTestFinished(() => makeWritable());
  return makeWritable;
}

describe("the audit log", () => {
  it("refuses changes while the file is locked, and records changes again afterwards", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys, ...quickly });
    await audit.ready();
    const open = await audit.begin(secretChange());
    const release = lock(path);
    const refused = await Promise.allSettled([1, 2, 3].map(() => audit.begin(secretChange({ owner: "bob" }))));
    for (const outcome of refused) {
      expect(outcome).toMatchObject({ status: "rejected", reason: { code: "AUDIT_UNAVAILABLE" } });
    }
    await expect.poll(() => refusalOf(audit)).toContain("Another process keeps");
    await expect(audit.ready()).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    // The outcome of a change that was made waits until it can be written.
    await expect(open.end("done", 3)).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    // After entries could not be written for this time, changes are refused at once.
    await expect(audit.begin(secretChange())).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    release();
    await expect
      .poll(() =>
        audit.ready().then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    const [id] = await recordAll(audit, [secretChange()]);
    const { items } = await audit.changes(workspace, {}, { limit: 100 });
    const outcomes = new Map(items.map((item) => [item.id, item.outcome]));
    expect(outcomes.get(open.id)).toBe("done");
    expect(outcomes.get(id ?? "")).toBe("done");
    // A refused change whose entry was already in a batch is recorded as refused, the others not at all.
    const others = items.filter((item) => item.id !== open.id && item.id !== id);
    expect(others.map(({ outcome }) => outcome)).toEqual(others.map(() => "refused"));
    expect(others.length).toBeLessThanOrEqual(4);
    await audit.close();
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
  });

  it("refuses changes at once when too many entries wait", async () => {
    const path = temporaryAudit();
    const audit = openedAudit({ path, keys: Keyring.generate("k1"), busyTimeoutMs: 20, maxWaiting: 5 });
    await audit.ready();
    const release = lock(path);
    const waiting = [1, 2, 3, 4, 5].map(() => audit.begin(secretChange()));
    await expect(audit.begin(secretChange())).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    release();
    expect(new Set((await Promise.all(waiting)).map(({ id }) => id)).size).toBe(5);
  });

  it("refuses calls while the file is locked, and records afterwards the calls that were already made", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys, busyTimeoutMs: 20, longestWaitMs: 500 });
    await recordCalls(audit, [toolCall()]);
    audit.requireWritable();
    const release = lock(path);
    const made = [toolCall(), toolCall()];
    for (const outcome of await Promise.allSettled(made.map((call) => audit.recordCall(call)))) {
      expect(outcome).toMatchObject({ status: "rejected", reason: { code: "AUDIT_UNAVAILABLE" } });
    }
    expect(() => audit.requireWritable()).toThrow(expect.objectContaining({ code: "AUDIT_UNAVAILABLE" }));
    release();
    await expect.poll(async () => (await audit.calls(workspace, {}, {})).items.length).toBe(3);
    await expect.poll(() => isWritable(audit)).toBe(true);
    await audit.close();
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
    expect(() => audit.requireWritable()).toThrow(expect.objectContaining({ code: "AUDIT_UNAVAILABLE" }));
    await expect(audit.recordCall(toolCall())).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
  });

  it("refuses calls and changes while one attempt to write takes too long", async () => {
    const path = temporaryAudit();
    const audit = openedAudit({ path, keys: Keyring.generate("k1"), busyTimeoutMs: 60_000, longestWaitMs: 2_000 });
    await recordCalls(audit, [toolCall()]);
    const release = lock(path);
    const slow = { code: "AUDIT_UNAVAILABLE", message: expect.stringContaining("was not written") };
    await expect(audit.recordCall(toolCall())).rejects.toMatchObject(slow);
    expect(() => audit.requireWritable()).toThrow(expect.objectContaining(slow));
    await expect(audit.begin(secretChange())).rejects.toMatchObject(slow);
    release();
    await expect.poll(() => isWritable(audit)).toBe(true);
    expect((await audit.calls(workspace, {}, {})).items).toHaveLength(2);
  });

  it("refuses calls at once while too many entries wait, and limits the number of calls that wait", async () => {
    const path = temporaryAudit();
    const audit = openedAudit({ path, keys: Keyring.generate("k1"), busyTimeoutMs: 20, maxWaiting: 3 });
    await audit.ready();
    const release = lock(path);
    const waiting = [1, 2, 3, 4, 5, 6].map((index) => {
      expect(isWritable(audit), `${index}`).toBe(index <= 3);
      return audit.recordCall(toolCall());
    });
    await expect(audit.recordCall(toolCall())).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    release();
    await Promise.all(waiting);
    expect((await audit.calls(workspace, {}, {})).items).toHaveLength(6);
    expect(isWritable(audit)).toBe(true);
  });

  it("refuses changes while there is no space, and records changes again after entries were removed", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys, ...quickly, maxBytes: 256 * 1_024 });
    await beginRetention(audit);
    const recorded: string[] = [];
    const fill = async () => {
      for (;;) recorded.push((await audit.begin(secretChange({ detail: "x".repeat(4_000) }))).id);
    };
    await expect(daysAgo(31, fill)).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    await expect.poll(() => refusalOf(audit)).toContain("no space left");
    expect(recorded.length).toBeGreaterThan(10);
    await expect(audit.begin(secretChange())).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    expect((await verifyAudit({ path, keys })).ok).toBe(true);
    const stored = new Set((await entriesOf(path, keys)).map(({ chain, sequence }) => `${chain}-${sequence}`));
    expect(recorded.filter((id) => !stored.has(id))).toEqual([]);
    expect(await removeOld(audit)).toBeGreaterThan(10);
    await expect
      .poll(() =>
        audit.ready().then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    await recordAll(audit, [secretChange()]);
    await audit.close();
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
  });

  it("starts the thread again that writes the file, and loses no acknowledged entry", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const workers: Worker[] = [];
    const keep = (worker: Worker) => workers.push(worker);
    process.on("worker", keep);
    onTestFinished(() => {
      process.off("worker", keep);
    });
    const audit = openedAudit({ path, keys });
    const ids: string[] = [];
    for (let round = 0; round < 5; round++) {
      const recording = Promise.all([1, 2, 3, 4].map(() => recordAll(audit, [secretChange(), secretChange()])));
      await workers.at(-1)?.terminate();
      ids.push(...(await recording).flat());
    }
    expect(workers.length).toBeGreaterThan(1);
    await audit.close();
    const stored = new Set((await entriesOf(path, keys)).map(({ chain, sequence }) => `${chain}-${sequence}`));
    expect(ids.filter((id) => !stored.has(id))).toEqual([]);
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
  });

  it("reports that the file is read-only, and records changes again when it is writable", async ({ skip }) => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const first = openAuditLog({ path, keys });
    await recordAll(first, [secretChange()]);
    await first.close();
    const makeWritable = makeReadOnly(path);
    if (makeWritable === undefined) return skip("this file system cannot make a file read-only for this user");
    const audit = openedAudit({ path, keys, ...quickly });
    await expect.poll(() => refusalOf(audit)).toContain("cannot be opened for writing");
    makeWritable();
    await expect
      .poll(() =>
        recordAll(audit, [secretChange()]).then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    await audit.close();
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
  });

  it("refuses changes while the file is gone, instead of writing to a file without a path", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys, ...quickly });
    await recordAll(audit, [secretChange()]);
    for (const suffix of ["", "-wal", "-shm"]) renameSync(path + suffix, `${path}.moved${suffix}`);
    await expect.poll(() => refusalOf(audit)).toContain("There is no audit file");
    for (const suffix of ["", "-wal", "-shm"]) {
      rmSync(path + suffix, { force: true });
      renameSync(`${path}.moved${suffix}`, path + suffix);
    }
    await expect
      .poll(() =>
        recordAll(audit, [secretChange()]).then(
          () => true,
          () => false,
        ),
      )
      .toBe(true);
    await audit.close();
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
  });

  it("refuses another keyring at once, and does not change the file", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const first = openAuditLog({ path, keys });
    await recordAll(first, [secretChange()]);
    await first.close();
    const audit = openedAudit({ path, keys: Keyring.generate("k1") });
    await expect(audit.ready()).rejects.toMatchObject({ code: "AUDIT_UNAVAILABLE" });
    await expect(audit.begin(secretChange())).rejects.toMatchObject({
      code: "AUDIT_UNAVAILABLE",
      cause: { code: "OVERWRITE_REFUSED" },
    });
    await audit.close().catch(() => undefined);
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [], chains: 1 });
  });

  it("refuses every call after it was closed", async () => {
    const audit = openAuditLog({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const begun = await audit.begin(secretChange());
    await audit.close();
    await audit.close();
    const closed = { code: "AUDIT_UNAVAILABLE", message: expect.stringContaining("is closed") };
    await expect(audit.begin(secretChange())).rejects.toMatchObject(closed);
    await expect(begun.end("done")).rejects.toMatchObject(closed);
    await expect(audit.changes(workspace, {}, {})).rejects.toMatchObject(closed);
    await expect(audit.ready()).rejects.toMatchObject(closed);
  });
});

describe("a file that is not an audit file", () => {
  const foreign: Record<string, (path: string) => void> = {
    "a text": (path) => writeFileSync(path, "not a database"),
    "the database of another application": (path) => {
      const database = new DatabaseSync(path);
      database.exec("CREATE TABLE notes (text TEXT)");
      database.close();
    },
    "a symbolic link to nowhere": (path) => symlinkSync(`${path}.target`, path),
    "an audit file with a planted trigger": (path) => {
      const database = new DatabaseSync(path);
      database.exec("CREATE TRIGGER planted AFTER INSERT ON entries BEGIN DELETE FROM entries; END");
      database.close();
    },
    "an audit file of a later release": (path) => {
      const database = new DatabaseSync(path);
      database.exec("PRAGMA user_version = 99");
      database.close();
    },
  };

  it.each(Object.entries(foreign))("is refused if it is %s", async (name, plant) => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    if (name.startsWith("an audit file")) {
      const audit = openAuditLog({ path, keys });
      await recordAll(audit, [secretChange()]);
      await audit.close();
    }
    plant(path);
    const audit = openedAudit({ path, keys });
    await expect(audit.begin(secretChange())).rejects.toMatchObject({
      code: "AUDIT_UNAVAILABLE",
      cause: { code: "STORE_INVALID" },
    });
    await expect(verifyAudit({ path, keys })).rejects.toMatchObject({ code: "STORE_INVALID" });
  });

  it("is not created by a verification", async () => {
    const path = temporaryAudit();
    await expect(verifyAudit({ path, keys: Keyring.generate("k1") })).rejects.toMatchObject({
      message: expect.stringContaining("There is no audit file"),
    });
  });
});
