import { execFile } from "node:child_process";
import { chmod, link, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { backup, DatabaseSync } from "node:sqlite";
import { promisify } from "node:util";
import { AdminClient } from "@keyward/admin/client";
import { describe, expect, it } from "vitest";
import { newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

/** Sets up a service with a server, a secret of this server, and a member. Returns the folder. */
async function serviceWithSecret(): Promise<string> {
  const folder = await newFolder();
  const { admin } = await newService(folder);
  await running(folder, admin, async (client) => {
    await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
    await client.setSecret("github", { name: "TOKEN", value: "a-value-that-nobody-prints" });
    await client.createToken({ owner: "ci", role: "member" });
  });
  return folder;
}

/** Starts the service, runs a function with a client of its admin API, and stops the service. */
async function running(folder: string, token: string, work: (client: AdminClient) => Promise<void>): Promise<void> {
  const gateway = await startGateway(folder);
  await work(new AdminClient({ url: gateway.url, token }));
  expect(await gateway.stop()).toBe(0);
}

/** Runs SQL on the rows of the service's store whose keys begin with a prefix. Returns the number of rows. */
function changeRecords(folder: string, sql: string, prefix: string): number | bigint {
  const database = new DatabaseSync(join(folder, ".keyward", "service.db"));
  try {
    const where = "WHERE space = 0 AND CAST(key AS TEXT) LIKE ?";
    return database.prepare(`${sql} ${where}`).run(`${prefix}%`).changes;
  } finally {
    database.close();
  }
}

/** Changes the last byte of the ciphertext. Does not change the key id. */
const damage =
  "UPDATE entries SET value = CAST(substr(value, 1, length(value) - 1) || CASE substr(value, -1) WHEN x'00' THEN x'01' ELSE x'00' END AS BLOB)";
const remove = "DELETE FROM entries";

describe("keyward gateway doctor", () => {
  it("decrypts each record, and prints which records are damaged or missing", async () => {
    const folder = await serviceWithSecret();
    const whole = await keyward(folder, {}, "gateway", "doctor");
    expect(whole).toMatchObject({ exitCode: 0, stderr: "" });
    expect(whole.stdout).toMatch(/ok {7}store: \d+ records were decrypted, none is missing, and each is in its list/);
    expect(changeRecords(folder, damage, "value/")).toBe(1);
    const damaged = await keyward(folder, {}, "gateway", "doctor");
    expect(damaged).toMatchObject({ exitCode: 1, stderr: "" });
    const value = "the value of TOKEN of the server github of the workspace main";
    expect(damaged.stdout).toContain(`PROBLEM  store: ${value} cannot be read (RECORD_TAMPERED)`);
    changeRecords(folder, remove, "value/");
    changeRecords(folder, remove, "token/");
    const missing = await keyward(folder, {}, "gateway", "doctor");
    expect(missing.exitCode).toBe(1);
    expect(missing.stdout).toContain(`PROBLEM  store: ${value} is missing, although it was not deleted`);
    expect(missing.stdout.match(/the token \w+ of the (workspace main|operators) is missing/g)).toHaveLength(3);
    expect(missing.stdout).toContain(
      "If a process was killed while it made a workspace, a server or a token, do nothing",
    );
    changeRecords(folder, remove, "server/");
    changeRecords(folder, remove, "list/workspaces/0");
    const { stdout } = await keyward(folder, {}, "gateway", "doctor", "--json");
    expect(JSON.parse(stdout).findings).toContainEqual({
      level: "problem",
      subject: "store",
      message: "page 0 of the list of workspaces is missing, although it was not deleted",
      hint: expect.stringContaining("Restore a backup"),
      code: "RECORD_MISSING",
    });
  });

  it("prints which records are in no list, and which of them may be deleted", async () => {
    const folder = await serviceWithSecret();
    expect(changeRecords(folder, remove, "list/")).toBe(8);
    const { stdout, exitCode } = await keyward(folder, {}, "gateway", "doctor");
    expect(exitCode).toBe(1);
    for (const record of ["the workspace main", "the server github of the workspace main"]) {
      expect(stdout).toContain(`PROBLEM  store: ${record} is stored, and no list and no other record names it\n`);
    }
    expect(stdout.match(/the token \w+ of the (workspace main|operators) is stored/g)).toHaveLength(3);
    expect(
      stdout.match(
        /^ +Calls may still use.* delete nothing: .* the time of the restore, and keep the flag .* delete the server again: .*/gm,
      ),
    ).toHaveLength(5);
    expect(stdout).not.toContain("a-value-that-nobody-prints");
  });

  it("prints that a backup must be restored if the record of the installation is missing, which no command replaces", async () => {
    const folder = await serviceWithSecret();
    changeRecords(folder, remove, "service");
    changeRecords(folder, remove, "list/workspaces/");
    const { stdout, exitCode } = await keyward(folder, {}, "gateway", "doctor");
    expect(exitCode).toBe(1);
    const lost = "The record of the installation is missing, although it was not deleted. Nothing was changed.";
    expect(stdout).toContain(`PROBLEM  store: ${lost} (RECORD_MISSING)\n`);
    expect(stdout).toContain("restore the store from a backup");
    expect(stdout).not.toContain("gateway init");
    const start = ["gateway", "start", "--port", "0", "--admin-port", "0"];
    for (const words of [["gateway", "init"], start, ["tokens", "recover"]]) {
      const refused = await keyward(folder, {}, ...words);
      expect(refused).toMatchObject({ exitCode: 1, stdout: "", stderr: expect.stringContaining(lost) });
      expect(refused.stderr).not.toContain("gateway init");
    }
  });

  it("reports a server that was put back after its deletion, and the next start deletes the server again", async () => {
    const folder = await newFolder();
    const { admin } = await newService(folder);
    await running(
      folder,
      admin,
      async (client) => void (await client.createServer({ slug: "old", url: "https://old.example.com" })),
    );
    const path = join(folder, ".keyward", "service.db");
    const copy = join(folder, "copy.db");
    const database = new DatabaseSync(path);
    await backup(database, copy);
    database.close();
    await running(folder, admin, (client) => client.deleteServer("old"));
    const attacked = new DatabaseSync(path);
    attacked.exec(`ATTACH '${copy}' AS copy`);
    const sql =
      "INSERT OR REPLACE INTO entries (space, namespace, key, value, expires) SELECT space, namespace, key, value, expires FROM copy.entries WHERE CAST(key AS TEXT) LIKE 'server/%'";
    expect(attacked.prepare(sql).run().changes).toBe(1);
    attacked.close();
    const { stdout } = await keyward(folder, {}, "gateway", "doctor");
    expect(stdout).toMatch(
      /PROBLEM {2}store: the server old of the workspace main was put back after .* \(RECORD_ROLLED_BACK\)\n.*restart every process/,
    );
    await running(folder, admin, async (client) => {
      await expect.poll(async () => (await client.listServers()).items, { timeout: 10_000 }).toEqual([]);
    });
    expect(await keyward(folder, {}, "gateway", "doctor")).toMatchObject({ exitCode: 0 });
  });

  it("does not print that no secret expires if the record of a server cannot be read", async () => {
    const folder = await serviceWithSecret();
    changeRecords(folder, damage, "server/");
    const { stdout } = await keyward(folder, {}, "gateway", "doctor");
    expect(stdout).toMatch(/PROBLEM {2}secrets: some secrets may expire unnoticed\. .* \(RECORD_TAMPERED\)/);
    expect(stdout).not.toContain("none has expired");
  });

  it("prints which listener has answered, and how to check the admin API if the listener for calls has answered", async () => {
    const folder = await newFolder();
    await newService(folder);
    const gateway = await startGateway(folder);
    const linesAbout = async (url: string) =>
      (await keyward(folder, {}, "gateway", "doctor", "--url", url)).stdout.split("\n").slice(-5);
    expect(await linesAbout(gateway.url)).toContain(`ok       service: ${gateway.url} is ready: the admin API answers`);
    const lines = await linesAbout(gateway.callUrl);
    expect(lines).toContain(`ok       service: ${gateway.callUrl} is ready: the listener for calls answers`);
    expect(lines).toContain("warning  service: the admin API was not checked");
    expect(lines).toContainEqual(expect.stringContaining("pass the URL of the admin API"));
  });
});

describe.skipIf(process.platform === "win32")("the check of the files", () => {
  /** Returns the lines about files that the doctor prints. */
  async function linesAboutFiles(folder: string, env = {}): Promise<readonly string[]> {
    const { stdout } = await keyward(folder, env, "gateway", "doctor");
    return stdout.split("\n").filter((line) => /^\w+ +files: /.test(line));
  }

  it("reports that the folder of the service is missing", async () => {
    const folder = await newFolder();
    await newService(folder);
    await rename(join(folder, ".keyward"), join(folder, "elsewhere"));
    expect(await linesAboutFiles(folder)).toEqual([
      `PROBLEM  files: the folder ${join(folder, ".keyward")} cannot be used (ENOENT)`,
    ]);
  });

  it("reports a subfolder that others can open, and a file with a second hard link", async () => {
    const folder = await newFolder();
    await newService(folder);
    const own = join(folder, ".keyward");
    await mkdir(join(own, "backups"), { mode: 0o700 });
    expect(await linesAboutFiles(folder)).toEqual([`ok       files: only you can use the files of ${own}`]);
    await chmod(join(own, "backups"), 0o755);
    await link(join(own, "keyring.json"), join(folder, "second-name"));
    const lines = await linesAboutFiles(folder);
    expect(lines.toSorted()).toEqual([
      `PROBLEM  files: other users may read or change ${join(own, "backups")}`,
      `warning  files: ${join(own, "keyring.json")} has 2 names (hard links)`,
    ]);
  });

  it.each(["", "*\n!keyring.json\n"])(
    "warns if Git does not ignore the keyring, with the .gitignore %j",
    async (text) => {
      const folder = await newFolder();
      await newService(folder);
      const own = join(folder, ".keyward");
      await writeFile(join(own, ".gitignore"), text);
      expect(await linesAboutFiles(folder)).toEqual([`warning  files: Git may keep the files of ${own}`]);
    },
  );

  it.each(["# of mine", "# of mine\n*\n!keyring.json\n"])(
    "prints a command that makes Git ignore the folder, and that keeps the lines of the .gitignore %j",
    async (text) => {
      const folder = await newFolder();
      await newService(folder);
      const path = join(folder, ".keyward", ".gitignore");
      await writeFile(path, text);
      const { stdout } = await keyward(folder, {}, "gateway", "doctor");
      const [, command = ""] = /`(.* >.* .*\.gitignore)`/.exec(stdout) ?? [];
      await promisify(execFile)("sh", ["-c", command]);
      expect(await linesAboutFiles(folder)).toEqual([`ok       files: only you can use the files of ${dirname(path)}`]);
      expect((await readFile(path, "utf8")).split("\n")).toEqual(expect.arrayContaining(text.split("\n")));
    },
  );

  it("reports a file of first tokens that has the file name of an earlier release", async () => {
    const folder = await newFolder();
    await newService(folder);
    const path = join(folder, ".keyward", "first-tokens-0a1b2c.txt");
    await writeFile(path, "", { mode: 0o600 });
    expect(await linesAboutFiles(folder)).toEqual([`warning  files: ${path} has the first tokens`]);
  });

  it("checks the folders of the store and of the keyring, the keyring that KEYWARD_KEYS names, and the folders above", async () => {
    const folder = await newFolder();
    const place = (name: string) => join(folder, name);
    for (const name of ["store", "keys", "above", "above/audit"]) await mkdir(place(name), { mode: 0o700 });
    const gateway = { store: "sqlite:store/service.db", audit: "above/audit/audit.db" };
    await writeFile(place("keyward.config.json"), JSON.stringify({ gateway }));
    const env = { KEYWARD_KEYS: "file:keys/keyring.json" };
    expect(await keyward(folder, env, "gateway", "init", "--print-tokens")).toMatchObject({ exitCode: 0 });
    const found = await linesAboutFiles(folder, env);
    expect(found).toEqual([`ok       files: only you can use the files of ${place("above/audit")}`]);
    for (const name of ["store", "keys", "above"]) await chmod(place(name), 0o777);
    await chmod(place("keys/keyring.json"), 0o644);
    const lines = await linesAboutFiles(folder, env);
    expect(lines.toSorted()).toEqual([
      `PROBLEM  files: other users may read or change ${place("keys")}`,
      `PROBLEM  files: other users may read or change ${place("keys/keyring.json")}`,
      `PROBLEM  files: other users may read or change ${place("store")}`,
      `PROBLEM  files: other users may replace what is in ${place("above")}`,
    ]);
  });
});
