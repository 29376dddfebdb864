import { readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it, onTestFinished } from "vitest";
import { describeWithMoto, findMoto, startMoto } from "../servers/moto.ts";
import { describeWithVault, findVaultServers, startVault } from "../servers/openbao.ts";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { type Ran, runTranscript } from "./transcript.ts";

// The text files in `transcripts` are the documentation of what each command prints. After a change that is meant, write
// them again with `vitest run test/cli -u`, and read the difference.
const folder = fileURLToPath(new URL("transcripts", import.meta.url));
const redisServers = await findRedisServers();
const vaultServers = await findVaultServers();
const motoServers = await findMoto();

/** A plaintext that the transcripts write into stores. Only `record get` may print it. */
const plaintext = "a-plaintext-that-is-not-printed";

async function compare(name: string, env: Readonly<Record<string, string>>): Promise<void> {
  const path = join(folder, name);
  const { transcript, ran, files } = await runTranscript(readFileSync(path, "utf8"), { PLAINTEXT: plaintext, ...env });
  expectNoSecrets(ran, files, Object.values(env));
  await expect(transcript).toMatchFileSnapshot(path);
}

/** Expects that no command prints a key, a plaintext or a password, except the commands whose purpose it is. */
function expectNoSecrets(ran: readonly Ran[], files: ReadonlyMap<string, string>, passwords: readonly string[]): void {
  const materials = [...files.values()].flatMap((text) =>
    [...text.matchAll(/"material":\s*"([^"]+)"/g)].map(([, material = ""]) => material),
  );
  const urlPasswords = passwords.flatMap((text) => /\/\/[^/@]*:([^/@]+)@/.exec(text)?.[1] ?? []);
  for (const { commandLine, printed } of ran) {
    const searched = commandLine.startsWith("keyward") ? printed : "";
    const found = [...materials, ...urlPasswords, ...(commandLine.includes("record get") ? [] : [plaintext])].filter(
      (secret) => secret.length > 3 && searched.includes(secret),
    );
    expect({ commandLine, found: found.length }).toEqual({ commandLine, found: 0 });
    expect(printed).not.toMatch(/\n {4}at /);
  }
}

const timeout = 300_000;

describe("the output of the commands", () => {
  const withServers = ["redis.txt", "openbao.txt", "moto.txt"];
  const others = readdirSync(folder).filter((name) => !withServers.includes(name));
  it.each(others)("equals the transcript %s", { timeout }, async (name) => {
    await compare(name, {});
  });

  it("has a transcript for the help, for each kind of store and for each key service", () => {
    expect(readdirSync(folder).map((name) => basename(name, ".txt"))).toEqual(
      expect.arrayContaining(["help", "memory", "sqlite", "redis", "openbao", "moto"]),
    );
  });
});

describeWithRedis(redisServers, "a Redis server", () => {
  it("the output of the commands over Redis equals the transcript redis.txt", { timeout }, async () => {
    const redis = await startRedis(redisServers);
    onTestFinished(() => redis.stop());
    await compare("redis.txt", { KEYWARD_STORE_SESSIONS: redis.url });
  });
});

describeWithVault(vaultServers, "an OpenBao server", () => {
  it("the output of the commands with keys in OpenBao equals the transcript openbao.txt", { timeout }, async () => {
    const vault = await startVault(vaultServers);
    onTestFinished(() => vault.stop());
    await vault.request("POST", "sys/mounts/secret", { type: "kv", options: { version: "2" } });
    // A new engine answers 400 until its upgrade to version 2 is complete.
    const isReady = async () =>
      await vault.request("GET", "secret/config").then(
        () => true,
        () => false,
      );
    await expect.poll(isReady, { timeout: 60_000 }).toBe(true);
    await compare("openbao.txt", { VAULT_ADDR: vault.address, VAULT_TOKEN: vault.rootToken });
  });
});

describeWithMoto(motoServers, "a moto server", () => {
  it("the output of the commands with keys in AWS equals the transcript moto.txt", { timeout }, async () => {
    const moto = await startMoto(motoServers);
    onTestFinished(() => moto.stop());
    await compare("moto.txt", {
      ENDPOINT: moto.endpoint,
      AWS_ACCESS_KEY_ID: "test-access-key",
      AWS_SECRET_ACCESS_KEY: "test-secret-access-key",
    });
  });
});
