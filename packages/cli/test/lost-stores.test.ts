import { readdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { fileKeys } from "@keyward/keys-env";
import { openAuditLog, SecretsAdmin, serviceNamespace } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

async function busyPort(): Promise<string> {
  const other = createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void other.close());
  await expect.poll(() => other.address()).not.toBeNull();
  const address = other.address();
  return typeof address === "object" ? String(address?.port) : "";
}

describe("the first tokens", () => {
  it("are made by the first start that can listen, and not by a start with a busy port or an invalid option", async () => {
    const folder = await newFolder();
    await newService(folder);
    const own = join(folder, ".keyward");
    for (const name of ["service.db", "audit.db"]) await rm(join(own, name));
    const port = await busyPort();
    for (const flags of [
      ["--admin-port", port],
      ["--admin-url", "ftp://a"],
      ["--workspace", "A"],
    ]) {
      const refused = await keyward(folder, {}, "gateway", "start", "--port", "0", "--admin-port", "0", ...flags);
      expect(refused.exitCode, refused.stderr).not.toBe(0);
    }
    expect((await readdir(own)).filter((name) => name.startsWith("first-tokens"))).toEqual([]);
    const gateway = await startGateway(folder);
    expect(JSON.parse(gateway.printed().stdout)).toMatchObject({ initialized: true });
    expect((await readdir(own)).filter((name) => name.startsWith("first-tokens"))).toHaveLength(1);
  });

  it("are not made if KEYWARD_KEYS names the keys of another program", async () => {
    const folder = await newFolder();
    const env = { KEYWARD_KEYS: `file:${join(folder, "other.json")}` };
    const refused = await keyward(folder, env, "gateway", "init");
    expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("KEYWARD_KEYS") });
    expect(await readdir(folder)).toEqual(["keyward.config.ts"]);
    await newService(folder);
  });
});

describe("a lost store", () => {
  it("is not replaced by an empty store, and no command makes a file at its path", async () => {
    const folder = await newFolder();
    await newService(folder);
    const own = (name: string) => join(folder, ".keyward", name);
    const commands = [
      ["gateway", "doctor"],
      ["gateway", "start", "--port", "0", "--admin-port", "0"],
      ["tokens", "recover"],
    ];
    for (const [lost, hint] of [
      ["service.db", /move .*audit.db away/],
      ["audit.db", /--new-audit/],
    ] as const) {
      await rename(own(lost), own("kept"));
      const files = await readdir(join(folder, ".keyward"));
      const ended = await Promise.all(commands.map((command) => keyward(folder, {}, ...command)));
      expect(await readdir(join(folder, ".keyward"))).toEqual(files);
      const printed = ended.map(({ exitCode, stdout, stderr }) => `${exitCode} ${stdout}${stderr}`);
      expect(printed[0]).toMatch(/^1 .*\n[\s\S]*PROBLEM {2}store/);
      for (const one of printed) expect(one).toMatch(hint);
      await rename(own("kept"), own(lost));
    }
    // Retention has removed all changes, so only the numbers of the chains tell that there were some.
    const audit = new DatabaseSync(own("audit.db"));
    audit.exec("DELETE FROM entries");
    audit.close();
    await rename(own("service.db"), own("kept"));
    // The heartbeat of a process that was running when the store was lost.
    const lost = new SqliteStore(own("service.db"));
    await lost.reserved().set("replica/abc", "heartbeat");
    await lost.disconnect();
    for (const command of [["gateway", "init"], ...commands]) {
      const refused = await keyward(folder, {}, ...command);
      expect(refused.exitCode).not.toBe(0);
      expect(refused.stdout + refused.stderr).toMatch(/move .*audit.db away/);
    }
    await rename(own("kept"), own("service.db"));
    // The empty file of a volume that was not mounted.
    await writeFile(own("audit.db"), "");
    const [verified, recovered] = await Promise.all([
      keyward(folder, {}, "audit", "verify"),
      keyward(folder, {}, "tokens", "recover"),
      keyward(folder, {}, "gateway", "doctor"),
    ]);
    expect([verified.exitCode, recovered.exitCode]).toEqual([2, 2]);
    expect((await stat(own("audit.db"))).size).toBe(0);
    await startGateway(folder, {}, "--new-audit");
    expect(await keyward(folder, {}, "tokens", "recover")).toMatchObject({ exitCode: 0 });
  });
});

describe("a store or an audit whose records were removed, but not what Keyward keeps there", () => {
  const removeFrom = (file: string, tables: readonly string[], where = "") => {
    const database = new DatabaseSync(file);
    for (const table of tables) database.exec(`DELETE FROM ${table} ${where}`);
    database.close();
  };

  /** Expects that each command that could set a service up refuses to, and that the doctor says what to do. */
  const expectNotInitialized = async (folder: string) => {
    for (const command of [
      ["gateway", "init"],
      ["gateway", "start", "--port", "0", "--admin-port", "0"],
    ]) {
      const refused = await keyward(folder, {}, ...command);
      expect(refused.exitCode).not.toBe(0);
      expect(refused.stderr).toMatch(/Restore the backup of the store/);
      expect(refused.stdout).not.toContain("kwt_");
    }
    const doctor = await keyward(folder, {}, "gateway", "doctor");
    expect(doctor).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("Restore the backup of the store") });
  };

  /** Expects that the service starts with the flag `--new-audit`, and afterwards without it. */
  const expectRefusedWithoutNewAudit = async (folder: string) => {
    const refused = await keyward(folder, {}, "gateway", "start", "--port", "0", "--admin-port", "0");
    expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("--new-audit") });
    const once = await startGateway(folder, {}, "--new-audit");
    expect(await once.stop()).toBe(0);
    const again = await startGateway(folder);
    expect(await again.stop()).toBe(0);
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 0 });
    const { stdout } = await keyward(folder, {}, "audit", "export");
    expect(stdout.match(/"action":"[a-z.]+"/g)).toEqual(['"action":"audit.begin"']);
  };

  it("is not initialized again", async () => {
    const folder = await newFolder();
    await newService(folder);
    removeFrom(
      join(folder, ".keyward", "service.db"),
      ["entries"],
      "WHERE namespace = CAST('keyward-service' AS BLOB)",
    );
    await expectNotInitialized(folder);
  });

  it("is not initialized again if someone has put back its record from the time of the initialization", async () => {
    const folder = await newFolder();
    await newService(folder);
    const own = (name: string) => join(folder, ".keyward", name);
    for (const name of ["service.db", "audit.db"]) await rm(own(name));
    const keys = fileKeys(own("keyring.json"));
    const store = new SqliteStore(own("service.db"));
    const audit = openAuditLog({ path: own("audit.db"), keys });
    const admin = new SecretsAdmin({ store, keys, audit });
    const records = store.namespaced(serviceNamespace);
    let unfinished: unknown;
    const deliver = async () => {
      unfinished = await records.get("service");
    };
    const { workspace } = await admin.initialize({ deliver });
    await records.set("service", unfinished);
    for (const opened of [admin, audit]) await opened.close();
    await expectNotInitialized(folder);
    expect(await records.get(`workspace/${workspace.id}`)).toBeDefined();
    await store.disconnect();
  });

  it("is not used as an audit without entries, until an operator says so", async () => {
    const folder = await newFolder();
    await newService(folder);
    const path = join(folder, ".keyward", "audit.db");
    removeFrom(path, ["entries", "chains", "names", "workspaces", "installation"]);
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 1 });
    const doctor = await keyward(folder, {}, "gateway", "doctor");
    expect(doctor).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("PROBLEM  audit") });
    await expectRefusedWithoutNewAudit(folder);
  });

  it("is not used as an audit if the audit looks new, until an operator says so", async () => {
    const folder = await newFolder();
    await newService(folder);
    const tables = ["entries", "chains", "names", "workspaces", "installation", "reserved"];
    removeFrom(join(folder, ".keyward", "audit.db"), tables);
    const doctor = await keyward(folder, {}, "gateway", "doctor");
    expect(doctor).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("its audit is empty") });
    await expectRefusedWithoutNewAudit(folder);
  });

  it("is used as an audit although the head of a chain is damaged, which only the verification reports", async () => {
    const folder = await newFolder();
    await newService(folder);
    const audit = new DatabaseSync(join(folder, ".keyward", "audit.db"));
    audit.exec("UPDATE chains SET head = X'00'");
    audit.close();
    const gateway = await startGateway(folder);
    expect(gateway.callUrl).toMatch(/^http:/);
    expect(await gateway.stop()).toBe(0);
    expect(await keyward(folder, {}, "audit", "verify")).toMatchObject({ exitCode: 1 });
  });
});

describe("a lost configuration", () => {
  it("is reported by the commands that need it, and after its restoration, the keyring can be restored", async () => {
    const folder = await newFolder();
    await newService(folder);
    await keyward(folder, {}, "keyring", "export", "keyring.backup");
    await rename(join(folder, "keyward.config.ts"), join(folder, "configuration.backup"));
    await rm(join(folder, ".keyward", "keyring.json"));
    const restore = ["keyring", "import", "keyring.backup"];
    for (const words of [restore, ["gateway", "start"], ["gateway", "doctor"]]) {
      const ended = await keyward(folder, {}, ...words);
      expect(ended).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("restore `keyward.config.ts`") });
    }
    await rename(join(folder, "configuration.backup"), join(folder, "keyward.config.ts"));
    expect(await keyward(folder, {}, ...restore)).toMatchObject({ exitCode: 0 });
    expect(await keyward(folder, {}, "gateway", "doctor")).toMatchObject({ exitCode: 0 });
  });
});
