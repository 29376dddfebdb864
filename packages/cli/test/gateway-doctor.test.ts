import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { AdminClient } from "@keyward/admin/client";
import { describe, expect, it } from "vitest";
import { newFolder, newService, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

/** Sets a service up that has a server with a secret, and a member. */
async function serviceWithSecret(): Promise<string> {
  const folder = await newFolder();
  const { admin } = await newService(folder);
  const gateway = await startGateway(folder);
  const client = new AdminClient({ url: gateway.url, token: admin });
  await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
  await client.setSecret("github", { name: "TOKEN", value: "a-value-that-nobody-prints" });
  await client.createToken({ owner: "ci", role: "member" });
  expect(await gateway.stop()).toBe(0);
  return folder;
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

/** Changes the last byte of the ciphertext, and nothing of what says which key encrypted the record. */
const damage =
  "UPDATE entries SET value = CAST(substr(value, 1, length(value) - 1) || CASE substr(value, -1) WHEN x'00' THEN x'01' ELSE x'00' END AS BLOB)";
const remove = "DELETE FROM entries";

describe("keyward gateway doctor", () => {
  it("decrypts each record, and names those that are damaged or missing", async () => {
    const folder = await serviceWithSecret();
    const whole = await keyward(folder, {}, "gateway", "doctor");
    expect(whole).toMatchObject({ exitCode: 0, stderr: "" });
    expect(whole.stdout).toMatch(/ok {7}store: \d+ records were decrypted, and none that a list names is missing/);
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
});
