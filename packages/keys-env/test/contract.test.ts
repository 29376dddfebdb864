import { randomBytes } from "node:crypto";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keyProviderContract, type OpenKeyProvider } from "@keyward/contract";
import { exportKeyring, type KeyProvider, Keyring } from "@keyward/core";
import { describe, it } from "vitest";
import { type EnvKeysOptions, envKeys, fileKeys } from "../src/index.ts";

const runner = { describe, it };

function encodings(material: Buffer): string[] {
  return [material.toString("base64"), material.toString("base64url"), material.toString("hex")];
}

async function openEnv(env: Record<string, string>, secrets: Buffer[], options: EnvKeysOptions = {}) {
  const provider = envKeys("APP_KEY", { ...options, env });
  return { provider: { load: provider.load }, secrets: () => secrets.flatMap(encodings), close: async () => {} };
}

async function inDirectory(open: (directory: string) => Promise<Omit<OpenKeyProvider, "close">>) {
  const directory = await mkdtemp(join(tmpdir(), "keyward-contract-"));
  return { ...(await open(directory)), close: () => rm(directory, { recursive: true }) };
}

/** Returns a copy of the provider without `save`, for providers whose keyring cannot be saved. */
function readOnly({ load, subscribe }: KeyProvider): KeyProvider {
  return subscribe === undefined ? { load } : { load, subscribe };
}

keyProviderContract(runner, {
  name: "envKeys, environment variables",
  expect: { save: false, subscribe: false },
  open: () => {
    const [primary, other] = [randomBytes(32), randomBytes(32)];
    const env = { APP_KEY: primary.toString("base64"), APP_KEY_OTHERS: `hex:${other.toString("hex")}` };
    return openEnv(env, [primary, other]);
  },
  failing: [
    { name: "no environment variable is set", code: "PROVIDER_UNAVAILABLE", open: () => openEnv({}, []) },
    {
      name: "the key is cut",
      code: "KEY_INVALID",
      open: () => {
        const material = randomBytes(32);
        return openEnv({ APP_KEY: material.toString("base64").slice(4) }, [material.subarray(3)]);
      },
    },
    {
      name: "the path is a key",
      code: "PROVIDER_UNAVAILABLE",
      open: () => {
        const material = randomBytes(32);
        return openEnv({ APP_KEY_FILE: material.toString("base64url") }, [material]);
      },
    },
  ],
});

keyProviderContract(runner, {
  name: "envKeys, a mounted file",
  expect: { save: false, subscribe: true },
  open: () =>
    inDirectory(async (directory) => {
      const path = join(directory, "key");
      const secrets: Buffer[] = [];
      async function change() {
        const material = randomBytes(32);
        secrets.push(material);
        await writeFile(`${path}.next`, material.toString("base64"));
        await rename(`${path}.next`, path);
      }
      await change();
      const provider = envKeys("APP_KEY", { env: { APP_KEY_FILE: path } });
      return { provider, change, secrets: () => secrets.flatMap(encodings) };
    }),
});

keyProviderContract(runner, {
  name: "fileKeys, a keyring document",
  expect: { save: true, subscribe: true },
  open: () =>
    inDirectory(async (directory) => {
      const path = join(directory, "ring.json");
      const material = randomBytes(32);
      await writeFile(path, exportKeyring(Keyring.fromKeys([{ material }])));
      return { provider: fileKeys(path), secrets: () => encodings(material) };
    }),
  failing: [
    {
      name: "no file is mounted",
      code: "PROVIDER_UNAVAILABLE",
      open: () =>
        inDirectory(async (directory) => ({ provider: fileKeys(join(directory, "nothing")), secrets: () => [] })),
    },
  ],
});

keyProviderContract(runner, {
  name: "fileKeys, a directory",
  expect: { save: false, subscribe: true },
  open: () =>
    inDirectory(async (directory) => {
      const secrets: Buffer[] = [];
      async function change() {
        const material = randomBytes(32);
        secrets.push(material);
        await writeFile(join(directory, `key-${secrets.length}`), material.toString("base64"));
      }
      await change();
      await writeFile(join(directory, "primary"), "key-1");
      return { provider: readOnly(fileKeys(directory)), change, secrets: () => secrets.flatMap(encodings) };
    }),
});
