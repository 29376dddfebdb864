import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, describe, expect, it, onTestFinished } from "vitest";
import { commandEnvironment } from "../../../test/command-environment.ts";
import { describeWithMoto, findMoto, startMoto } from "../../../test/servers/moto.ts";
import { describeWithVault, findVaultServers, startVault } from "../../../test/servers/openbao.ts";

const example = fileURLToPath(new URL("..", import.meta.url));
const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** Returns a function that runs programs of the example in a new folder, with the settings of an environment and its platform. */
function machine(environment: string, platform: Readonly<Record<string, string>>) {
  const folder = mkdtempSync(join(tmpdir(), "keyward-per-environment-"));
  folders.push(folder);
  cpSync(join(example, "environments"), folder, { recursive: true });
  return async (program: "application" | "first-keyring"): Promise<string> => {
    const { stdout } = await promisify(execFile)(
      process.execPath,
      [`--env-file=${environment}.env`, join(example, "src", `${program}.ts`)],
      { cwd: folder, env: commandEnvironment(platform) },
    );
    return stdout;
  };
}

async function expectVisits(run: (program: "application") => Promise<string>): Promise<void> {
  expect(await run("application")).toBe("visit 1\n");
  expect(await run("application")).toBe("visit 2\n");
}

it("the development environment keeps its keyring in a file", async () => {
  const run = machine("development", {});
  const first = await run("first-keyring");
  expect(first).toMatch(/^Keyring "keyring" generation 1: .* primary\n$/);
  await expectVisits(run);
  await expect(run("first-keyring")).rejects.toThrow("KEYRING_CONFLICT");
});

it("the CI environment takes its key from an environment variable", async () => {
  await expectVisits(machine("ci", { APP_KEY: randomBytes(32).toString("base64") }));
  await expect(machine("ci", {})("application")).rejects.toThrow("APP_KEY");
});

const aws = await findMoto();
describeWithMoto(aws, "an environment on AWS", () => {
  it("the production environment on AWS keeps its keyring in Secrets Manager", async () => {
    const server = await startMoto(aws);
    onTestFinished(() => server.stop());
    const run = machine("production-aws", {
      AWS_ENDPOINT_URL: server.endpoint,
      AWS_ACCESS_KEY_ID: "test",
      AWS_SECRET_ACCESS_KEY: "test",
    });
    await run("first-keyring");
    await expectVisits(run);
  });
});

const vault = await findVaultServers();
describeWithVault(vault, "an environment with Vault", () => {
  it("the production environment with Vault keeps its keyring in a KV secret, and logs in by AppRole", async () => {
    const server = await startVault(vault);
    onTestFinished(() => server.stop());
    await server.request("POST", "sys/mounts/secret", { type: "kv", options: { version: "2" } });
    await server.request("POST", "sys/auth/approle", { type: "approle" });
    await server.request("PUT", "sys/policies/acl/application", {
      policy: 'path "secret/data/production/keyring" { capabilities = ["read", "create", "update"] }',
    });
    await server.request("POST", "auth/approle/role/application", { token_policies: "application" });
    const role = await server.request("GET", "auth/approle/role/application/role-id");
    const secret = await server.request("POST", "auth/approle/role/application/secret-id");
    const run = machine("production-vault", {
      VAULT_ADDR: server.address,
      VAULT_ROLE_ID: String(role.data?.["role_id"]),
      VAULT_SECRET_ID: String(secret.data?.["secret_id"]),
    });
    await run("first-keyring");
    await expectVisits(run);
  });
});

describe("the environments", () => {
  it("differ only in the environment variable APP_KEYS, and contain no secret", () => {
    for (const file of readdirSync(join(example, "environments"))) {
      const lines = readFileSync(join(example, "environments", file), "utf8").split("\n");
      const variables = lines.filter((line) => line !== "" && !line.startsWith("#"));
      expect(variables).toEqual([expect.stringMatching(/^APP_KEYS=/)]);
      expect(variables.join("")).not.toMatch(/[A-Za-z0-9+/_-]{40}/);
    }
  });
});
