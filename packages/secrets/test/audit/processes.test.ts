import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { exportKeyring, Keyring } from "@keyward/core";
import { verifyAudit } from "@keyward/secrets";
import { describe, expect, it, onTestFinished } from "vitest";
import { entriesOf, openedAudit, recordAll, secretChange, temporaryAudit, workspace } from "./audit-files.ts";

/** How many processes are killed. A longer run sets another number. */
const kills = Number(process.env["KEYWARD_AUDIT_KILLS"] ?? 20);

/** Starts a process that records changes, and waits until it is ready to begin. */
async function start(path: string, keys: Keyring, role: string, owner: string, count = 0): Promise<ChildProcess> {
  const program = fileURLToPath(new URL("audit-process.ts", import.meta.url));
  const child = fork(program, [role, path, exportKeyring(keys), owner, String(count)], {
    execArgv: ["--disable-warning=ExperimentalWarning"],
  });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  await once(child, "message");
  return child;
}

describe("several processes on one audit file", () => {
  it("keep every acknowledged entry when they are killed, in chains that verifyAudit accepts", {
    timeout: 20_000 * kills,
  }, async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const acknowledged: string[] = [];
    for (let kill = 0; kill < kills; kill++) {
      const child = await start(path, keys, "record until killed", `owner-${kill}`);
      const enough = new Promise<void>((resolve) => {
        const least = acknowledged.length + 1 + (kill % 10) * 8;
        child.on("message", (id) => {
          acknowledged.push(String(id));
          if (acknowledged.length >= least) resolve();
        });
      });
      child.send("begin");
      await enough;
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    }
    const entries = await entriesOf(path, keys);
    const stored = new Set(
      entries.map((each) => (each.kind === "call" ? each.callId : `${each.chain}-${each.sequence}`)),
    );
    expect(acknowledged.some((id) => !id.includes("-"))).toBe(true);
    expect(acknowledged.filter((id) => !stored.has(id))).toEqual([]);
    const verification = await verifyAudit({ path, keys });
    expect(verification).toMatchObject({ ok: true, problems: [], chains: kills });
    expect(verification.openChains).toHaveLength(kills);
    expect(verification.openChains[0]?.note).toBe(
      "has no closing entry: its process still runs, or was killed, and then up to one batch may be missing",
    );
  });

  it("write at the same time without losing an entry, and list the entries of each other", async () => {
    const path = temporaryAudit();
    const keys = Keyring.generate("k1");
    const audit = openedAudit({ path, keys, busyTimeoutMs: 30_000, longestWaitMs: 60_000 });
    const children = await Promise.all(["bob", "carl"].map((owner) => start(path, keys, "record", owner, 60)));
    const ended = children.map((child) => once(child, "exit"));
    for (const child of children) child.send("begin");
    const own = await recordAll(
      audit,
      Array.from({ length: 60 }, () => secretChange()),
    );
    for (const [code] of await Promise.all(ended)) expect(code).toBe(0);
    expect(own).toHaveLength(60);
    for (const owner of ["ana", "bob", "carl"]) {
      const { items } = await audit.changes(workspace, { owner }, { limit: 100 });
      expect(items.map(({ outcome }) => outcome)).toEqual(Array.from({ length: 60 }, () => "done"));
    }
    const verification = await verifyAudit({ path, keys });
    expect(verification).toMatchObject({ ok: true, chains: 3 });
    expect(verification.openChains).toHaveLength(1);
  });
});
