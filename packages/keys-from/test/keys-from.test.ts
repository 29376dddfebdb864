import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { inspect, promisify } from "node:util";
import { createKeyv, exportKeyring, Keyring, KeywardError } from "@keyward/core";
import { keysFrom } from "@keyward/keys-from";
import { MemoryStore } from "@keyward/store-memory";
import { afterAll, describe, expect, it } from "vitest";
import { makeBareApplication } from "../../../test/bare-application.ts";

const folder = mkdtempSync(join(tmpdir(), "keyward-keys-from-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function refusal(source: string | undefined, options?: Parameters<typeof keysFrom>[1]): Promise<KeywardError> {
  try {
    await keysFrom(source, options);
  } catch (error) {
    if (error instanceof KeywardError) return error;
    throw error;
  }
  throw new Error("The source was not refused");
}

describe("env: and file: sources", () => {
  it("return a provider that loads the keyring in the environment variable or file", async () => {
    const ring = Keyring.generate("2026-11");
    const env = { APP_KEY: exportKeyring(ring) };
    const path = join(folder, "what? & 100%.keyring");
    writeFileSync(path, exportKeyring(ring));
    for (const source of ["env:APP_KEY", ` file:${path}\n`, pathToFileURL(path).href]) {
      const keys = await keysFrom(source, { env });
      expect(exportKeyring(await keys.load())).toBe(exportKeyring(ring));
    }
  });

  it("return a provider with which createKeyv writes and reads a record", async () => {
    const env = { APP_KEY: exportKeyring(Keyring.generate()) };
    const flows = createKeyv({ store: new MemoryStore(), keys: await keysFrom("env:APP_KEY", { env }) });
    await flows.set("session:42", { step: "checkout" });
    expect(await flows.get("session:42")).toEqual({ step: "checkout" });
    await flows.disconnect();
  });
});

describe("an invalid source", () => {
  const material = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlYw==";

  it.each([
    ["undefined", undefined],
    ["an empty text", ""],
    ["only white space", " \n"],
    ["a key instead of a source", material],
    ["a keyring document", '{"keyward":1,"keys":[]}'],
    ["an unknown scheme", "gcp-sm://project/name"],
    ["the name of an inherited property", "constructor:x"],
    ["a file without a path", "file:"],
    ["a file of another machine", "file://elsewhere/run/secrets/keyring"],
    ["a secret without //", "aws-sm:production/keyring"],
    ["a secret without a name", "aws-sm://eu-central-1/"],
    ["a secret in Vault without a path", "vault://secret"],
    ["credentials in the text", `vault://root:${material}@secret/app/keyring`],
    ["an unknown parameter", "aws-sm://eu-central-1/production/keyring?refresh=60"],
    ["a secret instead of the name of a parameter", `vault://secret/app/keyring?${material}`],
    ["a repeated parameter", "vault://secret/app/keyring?address=http://localhost:1&address=http://localhost:2"],
    ["an empty parameter", "aws-sm://eu-central-1/production/keyring?endpoint="],
    ["a duration that is not a whole number", "aws-sm://eu-central-1/production/keyring?refreshMs=1e3"],
    ["a duration out of range", "aws-sm://eu-central-1/production/keyring?refreshMs=0"],
    ["an invalid escape sequence", "vault://secret/100%"],
    ["an unknown login method", "vault://secret/app/keyring?address=http://localhost:1&auth=ldap"],
    ["AppRole without a role", "vault://secret/app/keyring?address=http://localhost:1&auth=approle"],
    ["a wrapped keyring without the parameter place", "vault-transit://transit/keyward?address=http://localhost:1"],
    ["an unknown value of the parameter place", "aws-kms://eu-central-1/alias/keyward?place=redis"],
    ["a place file: without a path", "aws-kms://eu-central-1/alias/keyward?place=file:"],
    ["place=store without a store", "aws-kms://eu-central-1/alias/keyward?place=store"],
  ])("is refused: %s", async (_, source) => {
    const error = await refusal(source, { env: {} });
    expect(error.code).toBe("VALUE_INVALID");
    expect(error.hint).not.toBe("");
    expect(inspect(error, { depth: null, showHidden: true })).not.toContain(material);
  });

  it.each([
    ["approle", "&role=…, or set VAULT_ROLE_ID"],
    ["kubernetes", "&role=…"],
    ["userpass", "&username=…"],
  ])(
    "is refused with a hint to add the parameter that auth=%s requires, if this parameter is missing",
    async (auth, named) => {
      const source = `vault://secret/app/keyring?address=http://localhost:1&auth=${auth}`;
      expect((await refusal(source, { env: {} })).hint).toContain(`${named}.`);
    },
  );

  it("is refused with an error that does not show the text after env:, which may be a key", async () => {
    const error = await refusal(`env:${material}`, { env: {} });
    expect(error.code).toBe("KEY_INVALID");
    expect(inspect(error, { depth: null, showHidden: true })).not.toContain(material);
  });
});

it("keysFrom refuses an unknown option", async () => {
  const options = Object.assign({ env: {} }, { stores: new MemoryStore() });
  expect((await refusal("env:APP_KEY", options)).code).toBe("VALUE_INVALID");
});

describe("a package that is not installed", () => {
  const application = makeBareApplication(import.meta.url, folder);
  const program = `
    const { keysFrom } = await import("./src/index.ts");
    await keysFrom(process.argv[1]).catch(({ code, message, hint }) => console.log(JSON.stringify({ code, message, hint })));
  `;

  it.each([
    ["env:APP_KEY", "@keyward/keys-env"],
    ["aws-sm://eu-central-1/production/keyring", "@keyward/keys-aws"],
    ["vault-transit://transit/keyward?place=file:/tmp/keyring&address=http://localhost:1", "@keyward/keys-vault"],
  ])("is named in the error for the source %s, with the command to install the package: %s", async (source, name) => {
    const run = promisify(execFile)(process.execPath, ["--input-type=module", "--eval", program, source], {
      cwd: application,
    });
    expect(JSON.parse((await run).stdout)).toEqual({
      code: "PROVIDER_UNAVAILABLE",
      message: `This source of keys needs the package ${name}, which is not installed`,
      hint: `Run \`npm install ${name}\`.`,
    });
  });
});
