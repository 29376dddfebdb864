import { copyFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";
import { Keyring } from "@keyward/core";
import { auditAnchor, openAuditLog, verifyAudit } from "@keyward/secrets";
import { describe, expect, it } from "vitest";
import {
  entriesOf,
  openedAudit,
  otherWorkspace,
  recordAll,
  secretChange,
  temporaryAudit,
  workspace,
} from "./audit-files.ts";

/** Waits until the clock shows another millisecond, so that later entries are newer. */
async function nextMillisecond(): Promise<number> {
  const now = Date.now();
  await expect.poll(() => Date.now(), { interval: 1 }).toBeGreaterThan(now);
  return Date.now();
}

describe("removeBefore", () => {
  it("removes the oldest entries of one workspace, and the rest of the file verifies", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await recordAll(audit, [secretChange({ owner: "bob" }), secretChange({ workspace: otherWorkspace, owner: "bob" })]);
    await recordAll(
      audit,
      Array.from({ length: 20 }, () => secretChange()),
    );
    const time = await nextMillisecond();
    const kept = await recordAll(audit, [secretChange(), secretChange()]);
    expect(await audit.removeBefore(workspace, time)).toBe(1 + 2 * 21);
    expect(await audit.removeBefore(workspace, time)).toBe(0);
    const { items } = await audit.changes(workspace, {}, {});
    expect(items.map(({ id }) => id)).toEqual(kept.toReversed());
    expect((await audit.changes(otherWorkspace, { owner: "bob" }, {})).items).toHaveLength(1);
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, chains: 2 });
    await recordAll(audit, [secretChange({ owner: "bob" })]);
    expect((await audit.changes(workspace, { owner: "bob" }, {})).items).toHaveLength(1);
    await audit.close();
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true, openChains: [] });
  });

  it("removes the names that no entry uses any more, also for processes that remember them", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const [audit, other] = [openedAudit({ path, keys }), openedAudit({ path, keys })];
    const owners = Array.from({ length: 5 }, (_, index) => `owner-${index}`);
    await recordAll(
      audit,
      owners.map((owner) => secretChange({ owner })),
    );
    const namesInFile = () => {
      const database = new DatabaseSync(path, { readOnly: true });
      const count = database.prepare("SELECT count(*) AS count FROM names").get()?.["count"];
      database.close();
      return count;
    };
    expect(namesInFile()).toBe(owners.length + 3);
    await other.removeBefore(workspace, await nextMillisecond());
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
    await Promise.all(Array.from({ length: 1_300 }, () => audit.begin(secretChange())));
    const time = await nextMillisecond();
    const other = openedAudit({ path, keys });
    const [one, two, ids] = await Promise.all([
      audit.removeBefore(workspace, time),
      other.removeBefore(workspace, time),
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
    expect(await verifyAudit({ path, keys, anchor })).toMatchObject({ ok: true });
    expect(await verifyAudit({ path, keys, anchor: before })).toMatchObject({ ok: true });
    expect(await verifyAudit({ path: older, keys })).toMatchObject({ ok: true });
    expect(await verifyAudit({ path: older, keys, anchor: before })).toMatchObject({ ok: true });
    const found = await verifyAudit({ path: older, keys, anchor });
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
    const found = await verifyAudit({ path: older, keys, anchor });
    expect(found.problems).toMatchObject([{ workspace, sequence: 5, problem: expect.stringContaining("older state") }]);
  });

  it("still fits after the entries that it names were removed", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await recordAll(audit, [secretChange()]);
    const anchor = await auditAnchor({ path, keys });
    await recordAll(audit, [secretChange()]);
    await audit.removeBefore(workspace, await nextMillisecond());
    expect(await entriesOf(path, keys)).toEqual([]);
    expect(await verifyAudit({ path, keys, anchor })).toMatchObject({ ok: true });
    await recordAll(audit, [secretChange()]);
    expect(await verifyAudit({ path, keys, anchor })).toMatchObject({ ok: true });
  });

  it("contains no names, and is refused in another form", async () => {
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
      await expect(verifyAudit({ path, keys, anchor: other })).rejects.toMatchObject({ code: "AUDIT_INVALID" });
    }
  });
});
