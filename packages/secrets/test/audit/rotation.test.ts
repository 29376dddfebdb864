import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { storeContract } from "@keyward/contract";
import { census, EncryptedStore, Keyring, reencrypt, retireKey, revokeKey, rotateKey } from "@keyward/core";
import { fileKeys } from "@keyward/keys-env";
import { auditNamespace, auditScope, auditStore, openAuditLog, verifyAudit } from "@keyward/secrets";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
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

/** Opens an audit file as an operator's command does. */
function storeOf(path: string, keys: ConstructorParameters<typeof EncryptedStore>[1]["keys"]): EncryptedStore {
  const store = new EncryptedStore(auditStore(path), { keys, scope: auditScope });
  onTestFinished(() => store.disconnect());
  return store;
}

describe("the keyring of an audit file", () => {
  it("is rotated while changes are recorded, without a lost entry", async () => {
    const path = temporaryAudit();
    const keyringPath = join(dirname(path), "keyring.json");
    const keys = fileKeys(keyringPath);
    await keys.create(Keyring.generate("k1"));
    const replica = { heartbeatMs: 50, lapseMs: 5_000 };
    const audit = openedAudit({ path, keys: fileKeys(keyringPath), replica });
    const before = await recordAll(
      audit,
      Array.from({ length: 50 }, () => secretChange()),
    );
    const audits = { audit: storeOf(path, keys) };
    let rotating = true;
    const rotation = rotateKey(keys, { stores: audits, newKey: { id: "k2" }, graceMs: 0 }).finally(() => {
      rotating = false;
    });
    const during: string[] = [];
    const calls: string[] = [];
    for (let index = 0; rotating; index++) {
      during.push(...(await recordAll(audit, [secretChange({ owner: `owner-${index}`, workspace: otherWorkspace })])));
      calls.push(...(await recordCalls(audit, [toolCall({ tool: `tool-${index}` })])));
    }
    expect((await rotation).keyring.primary).toBe("k2");
    during.push(...(await recordAll(audit, [secretChange()])));
    const counts = await census(auditStoreOfTest(path));
    expect([...counts.keys.keys()]).toEqual(["k2"]);
    expect(counts).toMatchObject({ unsealed: 0, broken: 0 });
    const ring = await keys.load();
    for (const id of calls) expect(await audit.call(workspace, id)).toMatchObject({ callId: id });
    await audit.close();
    const stored = new Set((await entriesOf(path, ring)).map(({ chain, sequence }) => `${chain}-${sequence}`));
    expect([...before, ...during].filter((id) => !stored.has(id))).toEqual([]);
    expect(await verifyAudit({ path, keys: ring })).toMatchObject({ ok: true, openChains: [] });
  });

  it("lets its keys be retired and revoked with the audit file as with any other store", async () => {
    const path = temporaryAudit();
    const keys = fileKeys(join(dirname(path), "keyring.json"));
    await keys.create(Keyring.generate("k1"));
    const audit = openAuditLog({ path, keys });
    await recordAll(audit, [secretChange(), secretChange({ workspace: undefined })]);
    await recordCalls(audit, [toolCall()]);
    await audit.close();
    const stores = { audit: storeOf(path, keys) };
    await keys.save((await keys.load()).add({ id: "k2" }).promote("k2"), await keys.load());
    await expect(retireKey(keys, stores, "k1", {})).rejects.toMatchObject({ code: "KEY_IN_USE" });
    const report = await reencrypt(stores.audit);
    expect(report).toMatchObject({ complete: true, unreadable: 0 });
    expect(report.reencrypted).toBeGreaterThan(10);
    expect((await retireKey(keys, stores, "k1", {})).keyring.primary).toBe("k2");
    const revoked = await revokeKey(keys, {
      stores,
      id: "k2",
      order: "reencrypt-first",
      newKey: { id: "k3" },
      graceMs: 0,
      unregistered: async () => undefined,
    });
    expect(revoked.keyring.primary).toBe("k3");
    expect([...(await census(stores.audit)).keys.keys()]).toEqual(["k3"]);
    expect(await verifyAudit({ path, keys: revoked.keyring })).toMatchObject({ ok: true, openChains: [] });
  });
});

describe("auditStore", () => {
  it("accepts only the namespace of the audit, and gives each workspace its own scope", async () => {
    const store = auditStoreOfTest(temporaryAudit());
    expect(store.namespace).toBe(auditNamespace);
    expect(() => {
      store.namespace = "other";
    }).toThrow(expect.objectContaining({ code: "NAMESPACE_CONFLICT" }));
    expect(auditScope({ key: "abcdefghij12/lookup" })).toBe("abcdefghij12/audit");
    expect(auditScope({ key: "service/chainchain12/7" })).toBe("service/audit");
    expect(auditScope({ key: "check" })).toBeUndefined();
  });

  it("refuses every write and deletion that does not come from the audit log", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys });
    await recordAll(audit, [secretChange()]);
    const store = storeOf(path, keys);
    const [key = ""] = (await auditStoreOfTest(path).scan({ limit: 1 })).entries.map((entry) => entry.key);
    const calls = [
      () => store.set(key, "value"),
      () => store.set("abcdefghij12/chainchain12/1", "value"),
      () => store.delete(key),
      () => store.clear(),
    ];
    for (const call of calls) await expect(call()).rejects.toMatchObject({ code: "STORE_INVALID" });
    expect(await verifyAudit({ path, keys })).toMatchObject({ ok: true });
  });

  it("scans each record once, in pages of any size", async () => {
    const path = temporaryAudit();
    const audit = openedAudit({ path, keys: Keyring.generate("k1") });
    await beginRetention(audit);
    await daysAgo(31, () => recordAll(audit, [secretChange(), secretChange({ workspace: undefined })]));
    await removeOld(audit, undefined);
    const store = auditStoreOfTest(path);
    const all = (await census(store)).records;
    for (const limit of [1, 2, 3, 7, 1_000]) {
      const found: string[] = [];
      let cursor: string | undefined;
      do {
        const page = await store.scan({ limit, ...(cursor === undefined ? {} : { cursor }) });
        found.push(...page.entries.map(({ key }) => key));
        cursor = page.cursor;
      } while (cursor !== undefined);
      expect(new Set(found).size).toBe(found.length);
      expect(found).toHaveLength(all);
    }
    await expect(store.scan({ cursor: "9.1" })).rejects.toMatchObject({ code: "VALUE_INVALID" });
  });
});

const contractFolder = mkdtempSync(join(tmpdir(), "keyward-audit-"));
const contractPath = join(contractFolder, "audit.db");
// The thread of a store starts slowly, so all contract tests share the stores.
const contractStores = [auditStore(contractPath), auditStore(contractPath)] as const;

beforeAll(async () => {
  // The first call creates the tables.
  for (const store of contractStores) await store.get("none");
});

afterAll(async () => {
  for (const store of contractStores) await store.disconnect();
  rmSync(contractFolder, { recursive: true, force: true });
});

function auditStoreOfTest(path: string) {
  const store = auditStore(path);
  onTestFinished(() => store.disconnect());
  return store;
}

storeContract(
  { describe, it },
  {
    name: "the reserved space of an audit file",
    expect: { atomic: true, scannable: true, ranged: false, bytes: true, reserved: false, namespaced: false },
    takesDurations: true,
    async open() {
      const [store, other] = contractStores;
      return {
        store: store.reserved(),
        inNamespace: (namespace) => Object.assign(store.reserved(), { namespace }),
        again: async () => Object.assign(other.reserved(), { namespace: "" }),
        close: async () => attack(contractPath, "DELETE FROM reserved"),
      };
    },
  },
);
