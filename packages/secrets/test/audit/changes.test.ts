import { readFileSync, statSync } from "node:fs";
import type { Worker } from "node:worker_threads";
import { Keyring } from "@keyward/core";
import { type ChangeFilter, exportAudit, openAuditLog, verifyAudit } from "@keyward/secrets";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  attack,
  daysAgo,
  entriesOf,
  openedAudit,
  otherWorkspace,
  recordAll,
  recordCalls,
  secretChange,
  temporaryAudit,
  toolCall,
  workspace,
} from "./audit-files.ts";

describe("the audit of changes", () => {
  it("lists the changes of one workspace, newest first, with their outcomes", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const done = await audit.begin(secretChange());
    await done.end("done", 7);
    await (await audit.begin(secretChange({ workspace: otherWorkspace }))).end("done");
    const failed = await audit.begin(secretChange({ action: "server.delete", subject: undefined, detail: undefined }));
    await failed.end("failed");
    const open = await audit.begin(secretChange({ owner: "bob" }));
    const { items, next } = await audit.changes(workspace, {}, {});
    expect(next).toBeUndefined();
    expect(items.map(({ id, outcome, revision }) => [id, outcome, revision])).toEqual([
      [open.id, "unknown", undefined],
      [failed.id, "failed", undefined],
      [done.id, "done", 7],
    ]);
    const { at, ...listed } = items[2] ?? { at: 0 };
    expect(listed).toEqual({ ...secretChange(), id: done.id, outcome: "done", revision: 7 });
    expect(Math.abs(Date.now() - at)).toBeLessThan(60_000);
  });

  it("lists the changes of the installation apart from those of a workspace", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const [id] = await recordAll(audit, [secretChange({ workspace: undefined, action: "workspace.create" })]);
    await recordAll(audit, [secretChange()]);
    const { items } = await audit.changes(undefined, {}, {});
    expect(items.map((item) => [item.id, item.workspace])).toEqual([[id, undefined]]);
  });

  it("filters by owner, server, action and time, alone and together", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const owners = ["ana", "bob"];
    const servers = ["github", "linear"];
    const actions = ["secret.set", "secret.delete"] as const;
    const changes = owners.flatMap((owner) =>
      servers.flatMap((server) => actions.map((action) => secretChange({ owner, server, action }))),
    );
    await recordAll(audit, changes);
    const matching = async (filter: ChangeFilter) => {
      const { items } = await audit.changes(workspace, filter, { limit: 100 });
      return items.map(({ caller, server, action }) => `${caller.owner} ${server} ${action}`).sort();
    };
    const expected = ({ owner, server, action }: ChangeFilter) =>
      changes
        .filter((change) => owner === undefined || change.caller.owner === owner)
        .filter((change) => server === undefined || change.server === server)
        .filter((change) => action === undefined || change.action === action)
        .map((change) => `${change.caller.owner} ${change.server} ${change.action}`)
        .sort();
    for (const owner of [undefined, "ana", "carl"]) {
      for (const server of [undefined, "linear", "ana"]) {
        for (const action of [undefined, "secret.delete"] as const) {
          const filter = { owner, server, action };
          expect(await matching(filter), JSON.stringify(filter)).toEqual(expected(filter));
        }
      }
    }
    const { items } = await audit.changes(workspace, {}, { limit: 100 });
    const middle = items[3]?.at ?? 0;
    const times = items.map(({ at }) => at);
    const from = await audit.changes(workspace, { from: middle }, { limit: 100 });
    const until = await audit.changes(workspace, { until: middle, owner: "ana" }, { limit: 100 });
    expect(from.items).toHaveLength(times.filter((at) => at >= middle).length);
    expect(until.items.every(({ at }) => at < middle)).toBe(true);
  });

  it("returns each change on exactly one page, even while further changes are recorded", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const ids = await recordAll(
      audit,
      Array.from({ length: 23 }, () => secretChange()),
    );
    const listed: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await audit.changes(workspace, {}, { limit: 5, cursor });
      expect(page.items.length).toBeLessThanOrEqual(5);
      listed.push(...page.items.map(({ id }) => id));
      await recordAll(audit, [secretChange()]);
      cursor = page.next;
    } while (cursor !== undefined);
    expect(listed).toEqual(ids.toReversed());
  });

  it.each([0, 101, 1.5])("refuses a page of %s changes", async (limit) => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    await expect(audit.changes(workspace, {}, { limit })).rejects.toMatchObject({ code: "FIELD_INVALID" });
  });

  it("refuses a cursor of another workspace, and a cursor that no page returned", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    await recordAll(audit, [secretChange(), secretChange(), secretChange({ workspace: otherWorkspace })]);
    const { next } = await audit.changes(workspace, {}, { limit: 1 });
    expect((await audit.changes(workspace, {}, { limit: 1, cursor: next })).items).toHaveLength(1);
    for (const cursor of [next, "", "x", Buffer.from("[]").toString("base64url"), "a".repeat(100_000)]) {
      await expect(audit.changes(otherWorkspace, {}, { cursor })).rejects.toMatchObject({ code: "FIELD_INVALID" });
    }
  });

  it("lists the other changes of a page if an attacker damages a change and an outcome, and returns the ids of both changes", async () => {
    const path = temporaryAudit();
    const audit = openedAudit({ path, keys: Keyring.generate("k1") });
    const ids = await recordAll(audit, [secretChange(), secretChange(), secretChange()]);
    // The entries are: opening, change, outcome, change, outcome, change, outcome.
    attack(path, "UPDATE entries SET entry = zeroblob(100) WHERE sequence IN (2, 5)");
    const { items, unreadable } = await audit.changes(workspace, {}, {});
    expect(items.map(({ id, outcome }) => [id, outcome])).toEqual([
      [ids[2], "done"],
      [ids[1], "unknown"],
    ]);
    expect(unreadable).toEqual([ids[1], ids[0]]);
  });

  it("shows no entry of another workspace if an attacker changes the columns", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await recordAll(audit, [secretChange({ owner: "bob", workspace: otherWorkspace }), secretChange()]);
    attack(path, `UPDATE entries SET workspace = (SELECT id FROM workspaces WHERE workspace = '${workspace}')`);
    const { items } = await audit.changes(workspace, {}, {});
    expect(items.map(({ caller }) => caller.owner)).toEqual(["ana"]);
    const exported: string[] = [];
    for await (const entry of exportAudit({ path, keys, workspace })) exported.push(entry.workspace);
    expect(new Set(exported)).toEqual(new Set([workspace]));
    expect((await verifyAudit({ path, keys })).ok).toBe(false);
  });

  it("returns cursors that do not reveal how many entries other workspaces have", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    const [, , last] = await daysAgo(1, () => recordAll(audit, [secretChange(), secretChange(), secretChange()]));
    const { next = "" } = await audit.changes(workspace, {}, { limit: 1 });
    const [chain, sequence] = last?.split("-") ?? [];
    const shown: unknown = JSON.parse(Buffer.from(next, "base64url").toString());
    expect(shown).toEqual([workspace, expect.any(Number), chain, Number(sequence)]);
  });

  it("selects pages in another thread than the one that writes", async () => {
    const threads: Worker[] = [];
    const keep = (thread: Worker) => threads.push(thread);
    process.on("worker", keep);
    onTestFinished(() => {
      process.off("worker", keep);
    });
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    await recordAll(audit, [secretChange()]);
    expect(threads).toHaveLength(1);
    expect((await audit.changes(workspace, {}, {})).items).toHaveLength(1);
    expect(threads).toHaveLength(2);
  });

  it("lists a change with the outcome unknown if its process closed the audit before the outcome", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const first = openAuditLog({ path, keys });
    const { id } = await first.begin(secretChange());
    await first.close();
    const { items } = await openedAudit({ path, keys }).changes(workspace, {}, {});
    expect(items).toMatchObject([{ id, outcome: "unknown", revision: undefined }]);
  });

  it("records the outcome of a change once", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    const begun = await audit.begin(secretChange());
    await Promise.all([begun.end("done", 2), begun.end("failed")]);
    const outcomes = (await entriesOf(path, keys)).filter(({ kind }) => kind === "outcome");
    expect(outcomes).toMatchObject([{ outcome: "done", revision: 2 }]);
  });

  it("refuses a change whose fields are too long, and a workspace that is not an id", async () => {
    const audit = openedAudit({ path: temporaryAudit(), keys: Keyring.generate("k1") });
    for (const change of [secretChange({ detail: "x".repeat(9_000) }), secretChange({ workspace: "../service" })]) {
      await expect(audit.begin(change)).rejects.toMatchObject({ code: "FIELD_INVALID" });
    }
  });

  it("exports the entries in the order in which they were written", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openAuditLog({ path, keys });
    await recordAll(audit, [secretChange(), secretChange({ workspace: otherWorkspace })]);
    await audit.close();
    const entries = await entriesOf(path, keys);
    expect(entries.map((entry) => `${entry.workspace} ${entry.kind}`)).toEqual([
      `${workspace} chain-opened`,
      `${workspace} change`,
      `${workspace} outcome`,
      `${otherWorkspace} chain-opened`,
      `${otherWorkspace} change`,
      `${otherWorkspace} outcome`,
      `${workspace} chain-closed`,
      `${otherWorkspace} chain-closed`,
    ]);
  });
});

describe("the audit file", () => {
  it("contains no name in plain text, base64 or hexadecimal, and no name is in an error", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    const names = ["owner-of-the-token", "slug-of-the-server", "NAME_OF_THE_SECRET", "token0000id1", "detail of it"];
    const [owner = "", server, subject, tokenId = "", detail] = names;
    const caller = { tokenId, owner, role: "admin", address: "198.51.100.9" } as const;
    await recordAll(audit, [secretChange({ caller, server, subject, detail })]);
    const secrets = [{ name: "NAME_OF_ANOTHER_SECRET", revision: 1 }];
    await recordCalls(audit, [toolCall({ path: "/path-of-the-call", tool: "tool-that-was-called", secrets })]);
    const files = [path, `${path}-wal`].map((file) => readFileSync(file));
    const ofCall = ["path-of-the-call", "tool-that-was-called", "NAME_OF_ANOTHER_SECRET", "192.0.2.8"];
    for (const name of [...names, ...ofCall, "secret.set", "198.51.100.9"]) {
      for (const encoding of ["utf8", "utf16le"] as const) {
        for (const bytes of files) expect(bytes.includes(Buffer.from(name, encoding)), name).toBe(false);
      }
      for (let shift = 0; shift < 3; shift++) {
        // The characters of base64 that depend on the name alone, at each of the three alignments.
        const encoded = Buffer.from(`${"\0".repeat(shift)}${name}`)
          .toString("base64")
          .slice(4, -4);
        for (const bytes of files) expect(bytes.includes(encoded), name).toBe(false);
      }
      const hex = Buffer.from(name).toString("hex");
      for (const bytes of files) {
        expect(bytes.includes(hex) || bytes.includes(hex.toUpperCase()), name).toBe(false);
      }
    }
    const wrong = await verifyAudit({ path, keys: Keyring.generate("k1") }).catch((error: unknown) => error);
    for (const name of names) expect(JSON.stringify(wrong)).not.toContain(name);
  });

  it("is accessible to its owner only", async () => {
    const path = temporaryAudit();
    await openedAudit({ path, keys: Keyring.generate("k1") }).ready();
    for (const file of [path, `${path}-wal`, `${path}-shm`]) expect(statSync(file).mode & 0o777).toBe(0o600);
  });
});
