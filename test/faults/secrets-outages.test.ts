import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { exportKeyring, Keyring } from "@keyward/core";
import { SecretsAdmin } from "@keyward/secrets";
import { SecretsReader } from "@keyward/secrets/reader";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished, type TestContext } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { guardMaterial } from "../store/secrets.ts";
import { openStore } from "./open-store.ts";
import { startProxy } from "./proxy.ts";
import { randomFrom } from "./random.ts";
import { eventsOf } from "./secrets-events.ts";
import { problemsIn } from "./secrets-history.ts";
import { operations, prepare, processOf } from "./secrets-operations.ts";
import { expectWholeAfterSweep, ScriptProcess, startSharedService } from "./secrets-place.ts";
import { acceptingAudit, codeOf, recordsOf, viewOf } from "./secrets-view.ts";
import { seed, soak, testTimeoutMs } from "./settings.ts";
import { temporaryFolder } from "./sqlite.ts";

const servers = await findRedisServers();
const options = { timeout: testTimeoutMs };
const cuts = soak ? 300 : 30;
const rounds = soak ? 100 : 20;

describeWithRedis(servers, "Redis behind a proxy", () => {
  it(
    "the secrets service refuses every call and change while its store is unreachable, and recovers without a restart",
    options,
    async () => {
      const node = await startRedis(servers);
      const proxy = await startProxy(node.port);
      const store = new RedisStore(`redis://127.0.0.1:${proxy.port}`, { timeoutMs: 400 });
      const keys = guardMaterial(Keyring.generate("outage"));
      const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit });
      const reader = new SecretsReader({ store, keys });
      onTestFinished(async () => {
        await store.disconnect();
        await proxy.close();
        await node.stop();
      });
      const world = await prepare(admin);
      const ready = await processOf(admin, world);
      await reader.forCall(world.tokens.member, "github");
      const before = await viewOf({ store, keys }, world);

      // Nothing listens on the port of a server that has been stopped.
      const gone = await startProxy(node.port);
      await gone.close();
      proxy.leadTo(gone.port);
      proxy.cut();
      const away = { code: "STORE_UNAVAILABLE" };
      for (const token of [world.tokens.member, world.tokens.other]) {
        await expect(reader.forCall(token, "github")).rejects.toMatchObject(away);
      }
      await expect(admin.authenticate(world.tokens.admin)).rejects.toMatchObject(away);
      await expect(admin.ready()).rejects.toMatchObject(away);
      const codes = await Promise.all(
        operations.map(({ run }) => run(ready, world, "nobody").then(() => "done", codeOf)),
      );
      expect(codes).toEqual(operations.map(() => "STORE_UNAVAILABLE"));

      proxy.leadTo(node.port);
      await expect
        .poll(async () => await reader.forCall(world.tokens.member, "github").then(() => "", codeOf))
        .toBe("");
      expect(await viewOf({ store, keys }, world)).toBe(before);
      await admin.setSecret(ready.as.admin, "github", { name: "ONE", value: "value after the outage" });
      const { secrets } = await reader.forCall(world.tokens.member, "github");
      expect(secrets.map(({ value }) => value.reveal())).toContain("value after the outage");
      await admin.close();
      await reader.close();
    },
  );

  it(
    `the secrets service loses no change, brings back nothing deleted and leaves no stray records when its connections are cut ${cuts} times (seed ${seed})`,
    options,
    async () => {
      const random = randomFrom(seed + 50);
      const node = await startRedis(servers);
      const proxy = await startProxy(node.port);
      const service = await startSharedService(node.url);
      const { folder, keyringPath, admins } = service;
      onTestFinished(async () => {
        await proxy.close();
        await node.stop();
      });
      const address = `redis://127.0.0.1:${proxy.port}`;
      const files = [0, 1, 2].map((index) => join(folder, `${index}.jsonl`));
      for (const file of files) await writeFile(file, "");
      const processes = files.map((file, index) => {
        const isReader = index === admins.length;
        const given = isReader ? files.slice(0, -1).join(",") : (admins[index]?.token ?? "");
        const role = isReader ? "reader" : "admin";
        const rest = [address, keyringPath, file, given, String(seed + index), `${role}-${index}`];
        return new ScriptProcess("./secrets-traffic-process.ts", [role, ...rest]);
      });
      await Promise.all(processes.map((each) => each.message()));
      for (let cut = 0; cut < cuts; cut++) {
        await sleep(random() * 200);
        if (cut % 3 === 0) proxy.delayReplies(random() * 20);
        if (cut % 3 === 1) proxy.delayReplies(0);
        proxy.cut();
      }
      proxy.delayReplies(0);
      for (const each of processes) await each.end();
      const events = (await Promise.all(files.map((file) => readFile(file, "utf8")))).flatMap(eventsOf);
      expect(problemsIn(events, { mayFail: true })).toEqual([]);
      expect(events.length).toBeGreaterThan(cuts);
      await expectWholeAfterSweep(service);
    },
  );
});

const isRoot = process.getuid?.() === 0;

/** Mounts a file system of this size on a folder until the end of the test. Skips the test if root may not mount here. */
function mount(folder: string, size: string, { skip }: TestContext): void {
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size}`, "none", folder], { stdio: "ignore" });
  } catch {
    skip("root may not mount a file system here");
  }
  // The option -l unmounts even if a failed test has left a file open.
  onTestFinished(() => void execFileSync("umount", ["-l", folder]));
}

describe.skipIf(process.platform !== "linux" || !isRoot)("a SQLite file on a full disk", () => {
  it("stores nothing of a secret whose set was refused, and stores the secret when there is space again", async (context) => {
    const folder = await temporaryFolder();
    mount(folder, "1m", context);
    const store = new SqliteStore(join(folder, "service.db"));
    onTestFinished(() => store.disconnect());
    const keys = guardMaterial(Keyring.generate("full"));
    const admin = new SecretsAdmin({ store, keys, audit: acceptingAudit });
    const reader = new SecretsReader({ store, keys });
    const world = await prepare(admin);
    const ready = await processOf(admin, world);
    await reader.forCall(world.tokens.member, "github");
    await admin.close();
    const rest = join(folder, "rest");
    expect(() => writeFileSync(rest, Buffer.alloc(2_000_000))).toThrow("ENOSPC");

    // The SQLite file may have free pages, so some values are accepted although the disk is full.
    const [accepted, refused]: [string[], string[]] = [[], []];
    for (let count = 0; count < 200 && refused.length < 3; count++) {
      const name = `LARGE_${count}`;
      const large = { name, value: "x".repeat(8_000), rule: { kind: "header", header: name } } as const;
      const code = await admin.setSecret(ready.as.admin, "jira", large).then(() => "", codeOf);
      if (code !== "") expect(code).toBe("STORE_UNAVAILABLE");
      (code === "" ? accepted : refused).push(name);
    }
    expect(refused.length).toBe(3);
    const names = async () => (await reader.forCall(world.tokens.member, "jira")).secrets.map((secret) => secret.name);
    expect((await names()).sort()).toEqual(["KEY", ...accepted].sort());

    rmSync(rest);
    for (const name of refused) {
      const small = { name, value: "value after the full disk", rule: { kind: "header", header: name } } as const;
      await admin.setSecret(ready.as.admin, "jira", small);
    }
    expect((await names()).sort()).toEqual(["KEY", ...accepted, ...refused].sort());
    const records = await recordsOf({ store, keys });
    await admin.sweep({ now: Date.now() + 2 * 24 * 3_600_000, abandonedAfterMs: 0 });
    const values = [...(await recordsOf({ store, keys })).keys()].filter((key) => key.startsWith("value/"));
    expect(values.length).toBeLessThanOrEqual([...records.keys()].filter((key) => key.startsWith("value/")).length);
    expect(values).toHaveLength(4 + accepted.length + refused.length);
    await reader.close();
    await admin.close();
  });
});

/** Repeatedly lets two processes initialize the service in the same empty store at the same time. */
async function expectOneInitialization(next: (round: number) => Promise<string>): Promise<void> {
  const folder = await temporaryFolder();
  const keyringPath = join(folder, "keyring.json");
  const ring = guardMaterial(Keyring.generate("first"));
  await writeFile(keyringPath, exportKeyring(ring), { mode: 0o600 });
  const processes = [0, 1].map(() => new ScriptProcess("./secrets-initialize-process.ts", [keyringPath]));
  await Promise.all(processes.map((each) => each.message()));
  for (let round = 0; round < rounds; round++) {
    const address = await next(round);
    const outcomes = await Promise.all(
      processes.map(async (each) => {
        const outcome = each.message();
        each.child.send(address);
        return await outcome;
      }),
    );
    expect(outcomes.sort()).toEqual(["ALREADY_INITIALIZED", "done"]);
    const store = openStore(address);
    const admin = new SecretsAdmin({ store, keys: ring, audit: acceptingAudit });
    const local = admin.localOperator();
    expect((await admin.listTokens(local)).items.map(({ owner }) => owner)).toEqual(["first operator"]);
    expect((await admin.listWorkspaces(local)).items.map(({ name }) => name)).toEqual(["main"]);
    await admin.close();
    await store.disconnect();
  }
  for (const each of processes) await each.end();
}

it(
  `two processes that initialize the secrets service in one SQLite file at the same time create only one operator, in each of ${rounds} rounds`,
  options,
  async () => {
    const folder = await temporaryFolder();
    await expectOneInitialization(async (round) => join(folder, `${round}.db`));
  },
);

describeWithRedis(servers, "a first start", () => {
  it(
    `two processes that initialize the secrets service in one Redis at the same time create only one operator, in each of ${rounds} rounds`,
    options,
    async () => {
      const node = await startRedis(servers);
      onTestFinished(() => node.stop());
      await expectOneInitialization(async () => {
        await node.command("FLUSHALL");
        return node.url;
      });
    },
  );
});
