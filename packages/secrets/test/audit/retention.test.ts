import { copyFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { EncryptedStore, Keyring } from "@keyward/core";
import { auditAnchor, auditScope, auditStore, openAuditLog, verifyAudit } from "@keyward/secrets";
import { describe, expect, it } from "vitest";
import {
  attack,
  beginRetention,
  daysAgo,
  entriesOf,
  openedAudit,
  otherWorkspace,
  recordAll,
  recordCalls,
  removeOld,
  secretChange,
  temporaryAudit,
  toolCall,
  workspace,
} from "./audit-files.ts";

/** Returns the time of the clock of retention, in milliseconds since the epoch. */
async function clockTime(path: string, keys: Keyring): Promise<number> {
  const store = new EncryptedStore(auditStore(path), { keys, scope: auditScope });
  try {
    return JSON.parse(String(await store.get("service/clock"))).time;
  } finally {
    await store.disconnect();
  }
}

describe("removeBefore", () => {
  it("removes the oldest entries of one workspace, and verifyAudit accepts the rest of the file", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await beginRetention(audit);
    const old = Array.from({ length: 20 }, () => secretChange());
    await daysAgo(31, () =>
      recordAll(audit, [
        secretChange({ owner: "bob" }),
        secretChange({ workspace: otherWorkspace, owner: "bob" }),
        ...old,
      ]),
    );
    const kept = await daysAgo(29, () => recordAll(audit, [secretChange(), secretChange()]));
    expect(await removeOld(audit)).toBe(1 + 2 * 21);
    expect(await removeOld(audit)).toBe(0);
    const { items } = await audit.changes(workspace, {}, {});
    expect(items.map(({ id }) => id)).toEqual(kept.toReversed());
    expect((await audit.changes(otherWorkspace, { owner: "bob" }, {})).items).toHaveLength(1);
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, chains: 2 });
    await recordAll(audit, [secretChange({ owner: "bob" })]);
    expect((await audit.changes(workspace, { owner: "bob" }, {})).items).toHaveLength(1);
    await audit.close();
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
  });

  it("removes old calls with their names, and keeps the calls that ended later", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await beginRetention(audit);
    await daysAgo(31, () => recordCalls(audit, [toolCall({ tool: "old" }), toolCall({ tool: "old" })]));
    const dayMs = 24 * 3_600_000;
    // A stream that began before the time up to which calls are removed, and ended after it.
    const kept = toolCall({ at: Date.now() - 31 * dayMs, durationMs: 2 * dayMs });
    await recordCalls(audit, [kept]);
    expect(await removeOld(audit)).toBe(1 + 2);
    const { items } = await audit.calls(workspace, {}, {});
    expect(items.map(({ callId }) => callId)).toEqual([kept.callId]);
    expect((await audit.calls(workspace, { tool: "old" }, {})).items).toEqual([]);
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true });
  });

  it("removes the names that no remaining entry uses, even if other processes remember them", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const [audit, other] = [openedAudit({ path, keys }), openedAudit({ path, keys })];
    await beginRetention(audit);
    const owners = Array.from({ length: 5 }, (_, index) => `owner-${index}`);
    const old = owners.map((owner) => secretChange({ owner }));
    await daysAgo(31, () => recordAll(audit, old));
    const namesInFile = () => {
      const database = new DatabaseSync(path, { readOnly: true });
      const count = database.prepare("SELECT count(*) AS count FROM names").get()?.["count"];
      database.close();
      return count;
    };
    expect(namesInFile()).toBe(owners.length + 3);
    await removeOld(other);
    expect(namesInFile()).toBe(0);
    await recordAll(audit, [secretChange({ owner: "owner-1" })]);
    expect(namesInFile()).toBe(4);
    expect((await other.changes(workspace, { owner: "owner-1" }, {})).items).toHaveLength(1);
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true });
  });

  it("removes more entries than one transaction, while two processes remove and one writes", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await beginRetention(audit);
    await daysAgo(31, () => Promise.all(Array.from({ length: 1_300 }, () => audit.begin(secretChange()))));
    const other = openedAudit({ path, keys });
    const [one, two, ids] = await Promise.all([
      removeOld(audit),
      removeOld(other),
      recordAll(
        audit,
        Array.from({ length: 20 }, () => secretChange()),
      ),
      verifyAudit({ path, keys }).then(({ problems }) => expect(problems).toEqual([])),
    ]);
    expect(one + two).toBe(1_301);
    const { items } = await audit.changes(workspace, {}, { limit: 100 });
    expect(items.map(({ id }) => id)).toEqual(ids.toReversed());
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true });
  });
});

describe("retention", () => {
  const dayMs = 24 * 3_600_000;

  it.each([
    ["the times of the entries", "UPDATE entries SET time = 1"],
    ["the hash of an entry", "UPDATE entries SET hash = zeroblob(32) WHERE sequence = 2"],
    ["the number of the first entry", "DELETE FROM entries WHERE sequence = 1; UPDATE chains SET first = 2"],
  ])("keeps the entries of a chain if an attacker changes %s, and removes those of other chains", async (_, sql) => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const first = openAuditLog({ path, keys });
    await beginRetention(first);
    await daysAgo(sql.includes("SET time") ? 1 : 31, () => recordAll(first, [secretChange({ owner: "mallory" })]));
    await daysAgo(1, () => first.close());
    attack(path, sql);
    const audit = openedAudit({ path, keys });
    await daysAgo(31, () => recordAll(audit, [secretChange()]));
    await expect(removeOld(audit)).rejects.toMatchObject({ code: "AUDIT_INVALID" });
    await expect(removeOld(audit)).rejects.toMatchObject({ message: expect.stringContaining("verification failed") });
    const { items } = await audit.changes(workspace, {}, {});
    expect(items.map(({ caller }) => caller.owner)).toEqual(["mallory"]);
    expect((await verifyAudit({ path, keys })).ok).toBe(false);
  });

  it("keeps new entries if the service starts several times with a clock that is ahead, and reports the clock", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const first = openAuditLog({ path, keys });
    await first.removeBefore(workspace, Date.now() - 90 * dayMs);
    const ids = await recordAll(first, [secretChange()]);
    await first.close();
    for (let start = 0; start < 3; start++) {
      const audit = openAuditLog({ path, keys });
      await daysAgo(-400, async () => {
        ids.push(...(await recordAll(audit, [secretChange()])));
        const sweep = audit.removeBefore(workspace, Date.now() - 90 * dayMs);
        await expect(sweep).rejects.toMatchObject({ message: expect.stringMatching(/399 days ahead|400 days ahead/) });
      });
      await audit.close();
    }
    const audit = openedAudit({ path, keys });
    expect(await audit.removeBefore(workspace, Date.now() - 90 * dayMs)).toBe(0);
    const { items } = await audit.changes(workspace, {}, {});
    expect(new Set(items.map(({ id }) => id))).toEqual(new Set(ids));
  });

  it("advances its clock no faster with ten processes than with one process", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const began = performance.now();
    const audits = Array.from({ length: 10 }, () => openedAudit({ path, keys }));
    for (const audit of audits) await audit.ready();
    await daysAgo(100, () => beginRetention(audits[0] ?? openedAudit({ path, keys })));
    const start = await clockTime(path, keys);
    for (const audit of audits) await expect(removeOld(audit)).rejects.toMatchObject({ code: "AUDIT_INVALID" });
    const advanced = (await clockTime(path, keys)) - start;
    expect(advanced).toBeGreaterThan(0);
    expect(advanced).toBeLessThanOrEqual(24 * (performance.now() - began));
  });

  it("restarts a deleted clock at the time of the last removal, and reports the deletion", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await beginRetention(audit);
    await daysAgo(31, () => recordAll(audit, [secretChange()]));
    const [kept = ""] = await recordAll(audit, [secretChange()]);
    expect(await removeOld(audit)).toBe(3);
    attack(path, "DELETE FROM installation WHERE name = 'clock'");
    expect((await verifyAudit({ path, keys })).problems).toMatchObject([
      { problem: "the record of the clock of retention is missing" },
    ]);
    await daysAgo(-400, async () => {
      const missing = { code: "AUDIT_INVALID", message: expect.stringContaining("retention is missing") };
      await expect(removeOld(audit)).rejects.toMatchObject(missing);
      const ahead = { message: expect.stringMatching(/399 days ahead|400 days ahead/) };
      await expect(removeOld(audit)).rejects.toMatchObject(ahead);
    });
    expect((await audit.changes(workspace, {}, {})).items).toMatchObject([{ id: kept }]);
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true });
  });

  it("begins its clock at the oldest entry, although the clock of the machine is ahead at the first removal", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await daysAgo(2, () => recordAll(audit, [secretChange()]));
    await daysAgo(-400, async () => {
      await recordAll(audit, [secretChange()]);
      await expect(removeOld(audit)).rejects.toMatchObject({ message: expect.stringMatching(/40[12] days ahead/) });
      await expect(removeOld(audit)).rejects.toMatchObject({ message: expect.stringMatching(/40[12] days ahead/) });
    });
    expect((await audit.changes(workspace, {}, {})).items).toHaveLength(2);
  });

  it("refuses a time that is less than a day ago", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    await daysAgo(31, () => recordAll(audit, [secretChange()]));
    for (const time of [Date.now(), Date.now() + dayMs, Number.NaN]) {
      await expect(audit.removeBefore(workspace, time)).rejects.toMatchObject({ code: "FIELD_INVALID" });
    }
    expect((await audit.changes(workspace, {}, {})).items).toHaveLength(1);
  });
});

describe("an anchor", () => {
  it("finds a file that was put back to an older state", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const first = openAuditLog({ path, keys });
    await recordAll(first, [secretChange()]);
    await first.close();
    const older = temporaryAudit();
    copyFileSync(path, older);
    const before = await auditAnchor({ path, keys });
    const second = openAuditLog({ path, keys });
    await recordAll(second, [secretChange()]);
    await second.close();
    const anchor: unknown = JSON.parse(JSON.stringify(await auditAnchor({ path, keys })));
    expect(await verifyAudit({ path, keys, anchors: [anchor] })).toMatchObject({ ok: true });
    expect(await verifyAudit({ path, keys, anchors: [before] })).toMatchObject({ ok: true });
    expect(await verifyAudit({ path: older, keys })).toMatchObject({ ok: true });
    expect(await verifyAudit({ path: older, keys, anchors: [before] })).toMatchObject({ ok: true });
    const found = await verifyAudit({ path: older, keys, anchors: [anchor] });
    expect(found.ok).toBe(false);
    expect(found.problems.map(({ problem }) => problem)).toEqual([
      "the anchor has this chain, but the file does not have it",
    ]);
  });

  it("finds an older state of a chain that has no closing entry", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await recordAll(audit, [secretChange()]);
    const older = temporaryAudit();
    const database = new DatabaseSync(path);
    database.exec(`VACUUM INTO '${older}'`);
    await recordAll(audit, [secretChange()]);
    const anchor = await auditAnchor({ path, keys });
    database.close();
    expect(await verifyAudit({ path: older, keys })).toMatchObject({ ok: true });
    const found = await verifyAudit({ path: older, keys, anchors: [anchor] });
    expect(found.problems).toMatchObject([{ workspace, sequence: 5, problem: expect.stringContaining("older state") }]);
  });

  it("still matches the file after the entries that it names were removed", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await beginRetention(audit);
    await daysAgo(31, () => recordAll(audit, [secretChange()]));
    const anchor = await auditAnchor({ path, keys });
    await daysAgo(31, () => recordAll(audit, [secretChange()]));
    await removeOld(audit);
    expect(await entriesOf(path, keys)).toEqual([]);
    expect(await verifyAudit({ path, keys, anchors: [anchor] })).toMatchObject({ ok: true });
    await recordAll(audit, [secretChange()]);
    expect(await verifyAudit({ path, keys, anchors: [anchor] })).toMatchObject({ ok: true });
  });

  it("contains no names, and is refused if its form is wrong", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await recordAll(audit, [secretChange()]);
    const anchor = await auditAnchor({ path, keys });
    expect(anchor.heads).toEqual([
      {
        workspace,
        chain: expect.stringMatching(/^[a-z0-9]{12}$/),
        sequence: 3,
        hash: expect.stringMatching(/^[0-9a-f]{64}$/),
      },
    ]);
    for (const other of [{}, { ...anchor, heads: [{}] }, { ...anchor, version: 2 }, "text", null]) {
      await expect(verifyAudit({ path, keys, anchors: [other] })).rejects.toMatchObject({ code: "AUDIT_INVALID" });
    }
  });
});
