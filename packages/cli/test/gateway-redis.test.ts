import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";
import { newFolder, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

const servers = await findRedisServers();

/** Writes a configuration whose service is in Redis, and a keyring. `other` is a folder that has the keyring and the audit. */
async function configured(redis: RedisNode, other?: string): Promise<string> {
  const folder = await newFolder();
  // A process whose own audit is empty refuses a store that another process has set up.
  const gateway = { store: `${redis.url}?prefix=service`, audit: join(other ?? folder, "audit.db") };
  await writeFile(join(folder, "keyward.config.json"), JSON.stringify({ keys: "file:keyring.json", gateway }));
  if (other === undefined) await keyward(folder, {}, "keyring", "create", "--id", "one", "--stores", "service,audit");
  else await copyFile(join(other, "keyring.json"), join(folder, "keyring.json"));
  return folder;
}

describeWithRedis(servers, "a service on Redis", () => {
  it("is set up only once by processes that start at the same time with an empty store", async () => {
    const redis = await startRedis(servers);
    onTestFinished(() => redis.stop());
    await redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction");
    const first = await configured(redis);
    const second = await configured(redis, first);
    const started = await Promise.all([first, second].map((folder) => startGateway(folder)));
    const initialized = started.map(({ printed }) => JSON.parse(printed().stdout).initialized);
    expect(initialized.toSorted()).toEqual([false, true]);
    const folder = initialized[0] === true ? first : second;
    const recovered = await keyward(folder, {}, "tokens", "recover", "--workspace", "main");
    for (const { url } of started) {
      const env = { KEYWARD_URL: url, KEYWARD_TOKEN: recovered.stdout.trim() };
      expect(await keyward(folder, env, "servers", "list")).toMatchObject({ exitCode: 0 });
    }
    for (const { stop } of started) expect(await stop()).toBe(0);
  });

  it("is refused by start, init and both doctors if Redis evicts records", async () => {
    const redis = await startRedis(servers);
    onTestFinished(() => redis.stop());
    const folder = await configured(redis);
    const gateway = await startGateway(folder);
    await redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
    for (const words of [
      ["gateway", "start", "--port", "0", "--admin-port", "0"],
      ["gateway", "init"],
      ["gateway", "doctor"],
      ["doctor"],
    ]) {
      const ended = await keyward(folder, {}, ...words);
      expect({ words, ...ended }).toMatchObject({ words, exitCode: 1 });
      expect(ended.stdout + ended.stderr).toContain("maxmemory-policy` allkeys-lru");
    }
    await redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction");
    expect(await keyward(folder, {}, "gateway", "doctor")).toMatchObject({ exitCode: 0 });
    expect(await gateway.stop()).toBe(0);
  });
});
